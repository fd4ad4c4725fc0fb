"""Does a source that has grown by a day cost that day only, and is what is new in it known at once?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from twinspire.config import Config
from twinspire.load_config import load
from twinspire.paths import RunPaths
from twinspire.pipeline.features import make_features
from twinspire.pipeline.ingest import make_tables

FIRST, DAY, NEXT = dt.date(2024, 1, 1), dt.date(2024, 1, 9), dt.date(2024, 1, 10)
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
CONFIG = """
name: stall
as_of: 2024-01-09
dataset: {{item_columns: {{kind: categorical}}}}
ingest:
  source:
    kind: tables
    events: {{path: {data}/orders.csv}}
    items: {{path: {data}/items.csv}}
features: {{history_length: 5, example_days: 6, join_days: 3, item_refresh_days: 28}}
training: {{example_days: 6, validation_days: 2}}
beam: {{shards: 2}}
"""


def write_source(folder: Path, *, end: dt.date, items: int) -> None:
    days = [FIRST + dt.timedelta(days=number) for number in range((end - FIRST).days)]
    orders = [
        (f"u{user}", f"i{(user + number) % 4}", f"{day}T1{user}:00:00")
        for number, day in enumerate(days)
        for user in range(4)
    ]
    pd.DataFrame(orders, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "orders.csv", index=False)
    kinds = [(f"i{item}", "old" if item < 4 else "new") for item in range(items)]
    pd.DataFrame(kinds, columns=["item_id", "kind"]).to_csv(folder / "items.csv", index=False)


def run_day(config_file: Path, runs: Path, day: dt.date) -> tuple[Config, RunPaths, str]:
    config = load(config_file, [f"as_of={day}"])
    paths = RunPaths(runs / config.name, config.as_of)
    make_tables(config, paths, now=NOW)
    return config, paths, make_features(config, paths)


def partitions(paths: RunPaths) -> dict[str, tuple[int, int]]:
    files = {str(file.relative_to(paths.examples)): file.stat() for file in paths.examples.rglob("*.parquet")}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in files.items()}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    file = tmp_path / "stall.yaml"
    file.write_text(CONFIG.format(data=tmp_path / "data"))
    return file


def test_a_day_more_joins_that_day_only_and_a_new_item_is_described_at_once(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=DAY, items=4)
    _, paths, _ = run_day(config_file, tmp_path / "runs", DAY)
    before = partitions(paths)
    write_source(tmp_path / "data", end=NEXT, items=6)
    _, paths, outcome = run_day(config_file, tmp_path / "runs", NEXT)
    assert outcome.startswith("1 days of snapshots; 4 examples joined for 1 new days")
    after = partitions(paths)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {str(DAY)}
    items = pq.read_table(paths.catalogue(NEXT) / "items.parquet").to_pydict()
    assert items["item_id"] == ["i0", "i1", "i2", "i3", "i4", "i5"]
    assert items["kind"] == ["old"] * 4 + ["new"] * 2


def test_a_changed_past_starts_over(config_file: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "data", end=NEXT, items=4)
    _, paths, _ = run_day(config_file, tmp_path / "runs", DAY)
    before = partitions(paths)
    orders = (tmp_path / "data" / "orders.csv").read_text()
    (tmp_path / "data" / "orders.csv").write_text(orders.replace("u3,i3,2024-01-01T13", "u3,i1,2024-01-01T13"))
    _, paths, outcome = run_day(config_file, tmp_path / "runs", NEXT)
    assert "24 examples joined for 6 new days" in outcome
    after = partitions(paths)
    assert not any(after.get(name) == written for name, written in before.items())
