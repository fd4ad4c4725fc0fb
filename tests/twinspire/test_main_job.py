"""Does a change run again what it changes, and nothing else?"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest

from twinspire.load_config import load
from twinspire.paths import RunPaths
from twinspire.pipeline.main_job import STEP_NAMES, plan
from twinspire.steps import Step

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
NOW = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "my_shop" / "orders").mkdir(parents=True)
    (tmp_path / "data" / "my_shop" / "orders" / "may.csv").write_text("customer,article,ordered_at\n")
    monkeypatch.chdir(tmp_path)


def planned(*overrides: str, code_version: str = "1", now: dt.datetime = NOW) -> list[Step]:
    config = load(TABLES, overrides)
    return plan(config, RunPaths(Path("runs") / config.name, config.as_of), now=now, code_version=code_version)


def first_changed(steps: list[Step], others: list[Step]) -> str | None:
    """The first step whose digest differs; all after it must differ too."""
    differs = [one.digest != other.digest for one, other in zip(steps, others, strict=True)]
    assert differs == sorted(differs)
    return dict(zip(differs[::-1], STEP_NAMES[::-1], strict=True)).get(True)


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("ingest.chunk_rows=7", "ingest"),
        ("dataset.value_meaning=points", "ingest"),
        ("as_of=2024-06-02", "features"),
        ("seed=2", "features"),
        ("features.history_length=7", "features"),
        ("towers.embedding_dim=9", "train"),
        ("training.epochs=9", "train"),
        ("evaluation.ks=[9]", "train"),
        ("index.m=9", "index"),
        ("serving.port=9", "bundle"),
        ("beam.shards=9", "bundle"),
    ],
)
def test_a_changed_key_runs_again_from_the_first_step_that_reads_it(override: str, first: str) -> None:
    assert first_changed(planned(), planned(override)) == first


def test_the_moment_of_the_run_alone_changes_nothing() -> None:
    assert first_changed(planned(), planned(now=NOW + dt.timedelta(days=1))) is None


def test_another_version_of_the_code_runs_everything_again() -> None:
    assert first_changed(planned(), planned(code_version="2")) == "ingest"


def test_a_new_or_changed_source_file_is_read_again(tmp_path: Path) -> None:
    before = planned()
    orders = tmp_path / "data" / "my_shop" / "orders"
    os.utime(orders / "may.csv", ns=(1, 1))
    touched = planned()
    assert first_changed(before, touched) == "ingest"
    (orders / "june.csv").write_text("customer,article,ordered_at\n")
    assert first_changed(touched, planned()) == "ingest"


def test_what_all_days_share_is_recorded_once() -> None:
    """Other days' tables in the same folder must not pass for those of this day."""
    today, tomorrow = planned(), planned("as_of=2024-06-02")
    shared = [one.records == other.records for one, other in zip(today, tomorrow, strict=True)]
    assert dict(zip(STEP_NAMES, shared, strict=True)) == {name: name == "ingest" for name in STEP_NAMES}


def test_a_published_bundle_of_another_day_does_not_count() -> None:
    steps = {step.name: step for step in planned()}
    bundles = Path("runs") / "my_shop" / "bundles"
    bundles.mkdir(parents=True)
    assert not steps["bundle"].stands()
    for name, stands in (("2024-06-01-00000000", True), ("2024-06-02-00000000", False)):
        (bundles / "current").unlink(missing_ok=True)
        (bundles / "current").symlink_to(name)
        assert steps["bundle"].stands() is stands


def test_an_online_store_of_another_day_does_not_count() -> None:
    steps = {step.name: step for step in planned()}
    folder = Path("runs") / "my_shop" / "features"
    folder.mkdir(parents=True)
    assert not steps["features"].stands()
    for day, stands in (("2024-06-01", True), ("2024-06-02", False)):
        (folder / "online_day.txt").write_text(day)
        assert steps["features"].stands() is stands


def test_the_paths_of_a_day_lie_below_its_dataset() -> None:
    paths = RunPaths(Path("runs/shop"), dt.date(2024, 6, 1))
    assert paths.pairs == Path("runs/shop/features/snapshots/pairs/2024-06-01.parquet")
    assert paths.catalogue(dt.date(2024, 5, 25)) == Path("runs/shop/features/catalogue/2024-05-25")
    of_the_day = (paths.model, paths.vectors, paths.index, paths.report, paths.steps)
    assert [str(path) for path in of_the_day] == [
        f"runs/shop/{folder}/2024-06-01" for folder in ("models", "vectors", "index", "reports", "steps")
    ]
