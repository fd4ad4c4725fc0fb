"""Data sets of a benchmark are read before anything is fitted, and what is wrong with one is explained."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from artefacts.config import ConfigError
from twinspire.time_split import load_data_sets
from twinspire.trained_arm import Invocation

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "benchmarks" / "time_split"
JOURNEY = REPOSITORY / "configs" / "complete_journey.yaml"
RUN = Invocation(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "1")
WORLD = "users: 20\nitems: 40\ndays: 9\ncatalogue: {departments: 1, categories: 2}\n"


def test_every_configuration_of_the_folder_is_valid(tmp_path: Path) -> None:
    names = ["complete_journey", "gowalla_timed", "movielens"]
    found = load_data_sets([FOLDER], tmp_path, RUN, only=names)
    assert [one.config.name for one in found] == names
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*names, "world_drift", "world_order"}


def test_tuned_settings_change_the_keys_that_they_have(tmp_path: Path) -> None:
    (tmp_path / "journey.yaml").write_text(JOURNEY.read_text())
    (tmp_path / "journey.tuned.yaml").write_text("extends: journey.yaml\ntowers: {embedding_dim: 47}\n")
    (found,) = load_data_sets([tmp_path], tmp_path / "runs", RUN)
    assert found.tuned is not None
    assert (found.config.towers.embedding_dim, found.tuned.towers.embedding_dim) == (64, 47)
    assert found.tuned.ingest == found.config.ingest


def test_a_world_is_made_once_and_again_when_its_file_has_changed(tmp_path: Path) -> None:
    file, runs = tmp_path / "hamlet.yaml", tmp_path / "runs"
    file.write_text(WORLD)
    (found,) = load_data_sets([file], runs, RUN)
    world = runs / "worlds" / "hamlet"
    assert (found.config.name, found.config.evaluation.world) == ("hamlet", world)
    made = (world / "users.parquet").stat().st_mtime_ns
    load_data_sets([file], runs, RUN)
    assert (world / "users.parquet").stat().st_mtime_ns == made
    file.write_text(f"{WORLD}seed: 3\n")
    load_data_sets([file], runs, RUN)
    assert (world / "users.parquet").stat().st_mtime_ns > made


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no data sets; expected files NAME.yaml"),
        ({"a.yaml": "name: one\nusers: 3\n", "b.yaml": "name: one\n"}, "two data sets are called 'one'"),
        ({"a.yaml": "as_of: 2020-01-01\n"}, "unknown key 'as_of'"),
        ({"a.yaml": "as_of: 2020-01-01\n"}, "read as a world, for it has no key `ingest`"),
        ({"journey.yaml": JOURNEY, "journey.tuned.yaml": "as_of: 2017-11-01\n"}, "as_of is not that of the defaults"),
        ({"journey.yaml": JOURNEY, "journey.tuned.yaml": "tower: {}\n"}, "journey.tuned.yaml: unknown key 'tower'"),
        (
            {"journey.yaml": JOURNEY, "journey.tuned.yaml": "training: {negatives: {easy_per_hard: 100}}\n"},
            "has no earlier fit to mine hard negatives from",
        ),
    ],
)
def test_what_is_wrong_is_explained(tmp_path: Path, files: dict[str, str | Path], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text.read_text() if isinstance(text, Path) else text)
    with pytest.raises(ConfigError, match=message):
        load_data_sets([tmp_path], tmp_path / "runs", RUN)


def test_a_name_that_no_data_set_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set 'other'; they are: complete_journey, gowalla_timed, movielens"):
        load_data_sets([FOLDER], tmp_path, RUN, only=["movielens", "other"])
