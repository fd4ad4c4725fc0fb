"""A night merges exposure files and removes old days, as configured."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artefacts.paths import RunPaths
from features.forgotten import Forgotten
from serving.exposures.files import Exposure, exposure_files, read_exposures, to_table, write_exposures
from serving.steps import tidy_exposures
from twinspire.cli import app
from twinspire.forget_everywhere import forget, known, remember
from twinspire.load_config import load

TABLES = Path(__file__).parents[3] / "configs" / "tables_example.yaml"
FIRST, DAY = dt.date(2024, 6, 1), dt.date(2024, 6, 6)
NOW = dt.datetime(2024, 6, 6, 3, tzinfo=dt.UTC)


def write(folder: Path, day: dt.date, name: str, user: str) -> Path:
    moment = dt.datetime.combine(day, dt.time(1), dt.UTC).timestamp()
    path = folder / f"day={day}" / f"{name}.parquet"
    write_exposures(to_table([Exposure(moment, user, "a", "v", "fused", 1, (), ["i1"])]), path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """Two files for each of six days, of which the last is the night's own: u0 and u1 on each."""
    found = RunPaths(tmp_path / "my_shop", DAY)
    for number in range(6):
        for user in range(2):
            write(found.exposures, FIRST + dt.timedelta(days=number), f"{user}a-000000", f"u{user}")
    return found


def counts(paths: RunPaths) -> list[int]:
    """Files of each day."""
    days = [FIRST + dt.timedelta(days=number) for number in range(6)]
    return [len(exposure_files(paths.exposures, day, day + dt.timedelta(days=1))) for day in days]


def users(paths: RunPaths) -> list[str]:
    batches = read_exposures(paths.exposures, dt.date.min, dt.date.max)
    return [user for batch in batches for user in batch.column("user_id").to_pylist()]


def test_finished_days_are_merged_and_none_goes_unless_asked_for(paths: RunPaths) -> None:
    assert tidy_exposures(None, paths, now=NOW) == ["exposures: 8 files of finished days merged"]
    assert counts(paths) == [1, 1, 1, 1, 2, 2]
    assert users(paths) == ["u0", "u1"] * 6
    assert tidy_exposures(None, paths, now=NOW) == []


def test_days_older_than_those_that_are_kept_go(paths: RunPaths) -> None:
    assert tidy_exposures(3, paths, now=NOW) == [
        "exposures: 2 days removed, older than 3 days",
        "exposures: 4 files of finished days merged",
    ]
    assert counts(paths) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("as_of", "now"), [(dt.date(2024, 6, 4), NOW), (DAY, NOW - dt.timedelta(days=2)), (dt.date(2024, 7, 1), NOW)]
)
def test_later_days_and_files_are_left_alone(paths: RunPaths, as_of: dt.date, now: dt.datetime) -> None:
    tidy_exposures(1, RunPaths(paths.root, as_of), now=now)
    # Of the earlier of the two, and kept is the day before it.
    assert counts(paths) == ([0, 0, 0, 0, 2, 2] if as_of > DAY else [0, 0, 2, 2, 2, 2])


def test_people_who_are_forgotten_are_left_out(paths: RunPaths) -> None:
    Forgotten().and_also(["u1"]).save(paths.forgotten)
    tidy_exposures(None, paths, now=NOW)
    # Not merged are the last two days, which forgetting itself has rewritten before.
    assert users(paths) == ["u0"] * 4 + ["u0", "u1"] * 2


def test_an_unreadable_list_of_the_forgotten_leaves_all_files_alone(paths: RunPaths) -> None:
    paths.forgotten.write_text("{")
    (line,) = tidy_exposures(1, paths, now=NOW)
    assert line.startswith("exposures are left as they are: ")
    assert "forgotten.json: cannot be read" in line
    assert counts(paths) == [2] * 6


def test_a_day_that_cannot_be_merged_is_reported_and_stays(paths: RunPaths) -> None:
    bad = exposure_files(paths.exposures)[0]
    bad.write_bytes(b"PAR1")
    problem, merged = tidy_exposures(None, paths, now=NOW)
    assert problem.startswith(f"exposures are left as they are: {bad}: cannot be read (")
    assert merged == "exposures: 6 files of finished days merged"


def test_forgetting_cleans_files_that_a_killed_merge_has_left(paths: RunPaths) -> None:
    left = exposure_files(paths.exposures)[1]
    content = left.read_bytes()
    tidy_exposures(None, paths, now=NOW)
    left.write_bytes(content)
    assert users(paths) == ["u0", "u1"] * 6
    remember(paths, ["u1"])
    [removed] = forget(paths, ["u1"])
    assert (removed.where, removed.num_rows) == ("exposures", 6)
    assert known(paths, ["u1"]) == set()
    assert not left.exists()


def test_a_night_merges_before_its_first_step_and_logs_it(paths: RunPaths) -> None:
    # There are no tables to ingest.
    asked = ["daily", "--config", str(TABLES), "--runs", str(paths.root.parent), "--date", str(DAY), "--now", str(DAY)]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 1
    assert "exposures: 8 files of finished days merged" in found.stdout.splitlines()
    assert counts(paths) == [1, 1, 1, 1, 2, 2]
    (log,) = paths.root.glob("nights/*.log")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["lines"] for line in events if line["event"] == "exposures"] == [
        ["exposures: 8 files of finished days merged"]
    ]


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="keep_exposure_days"):
        load(TABLES, ["daily.keep_exposure_days=0"])
