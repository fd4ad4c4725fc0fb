"""Merging exposure files: every list is read once, in order, and old days go whole."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.forgotten import Forgotten
from features.tables import without_users
from serving.exposures import files as module
from serving.exposures.files import (
    REPLACES,
    Exposure,
    Tidied,
    exposure_files,
    files_of,
    merge_day,
    read_exposures,
    remove_replaced,
    tidy,
    to_table,
    write_exposures,
)
from tests import forking

REPOSITORY = Path(__file__).parents[2]
DAY = dt.date(2024, 1, 31)
DAY_SECONDS = 1_706_659_200  # 2024-01-31 00:00 UTC
TODAY = DAY + dt.timedelta(days=2)
ONE, TWO = "0a", "9f"  # Processes.


def later(days: int) -> dt.date:
    return DAY + dt.timedelta(days=days)


def write(folder: Path, name: str, users: Sequence[int], day: dt.date = DAY) -> Path:
    path = folder / f"day={day}" / f"{name}.parquet"
    shown = [Exposure(DAY_SECONDS + user, f"u{user}", "a", "v", "fused", 2, (), [f"i{user}"]) for user in users]
    write_exposures(to_table(shown), path)
    return path


def fill(folder: Path) -> Path:
    """Users 0 to 5 by two processes, of which one has three files; returns the folder of the day."""
    write(folder, f"{TWO}-000007", [5])
    write(folder, f"{ONE}-000001", [2])
    write(folder, f"{ONE}-000000", [0, 1])
    return write(folder, f"{ONE}-000002", [3, 4]).parent


def users(folder: Path) -> list[int]:
    batches = read_exposures(folder, dt.date.min, dt.date.max)
    return [int(user[1:]) for batch in batches for user in batch.column("user_id").to_pylist()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_become_one_with_the_lists_of_all_in_their_order(tmp_path: Path) -> None:
    day = fill(tmp_path)
    before = pa.Table.from_batches(read_exposures(tmp_path, DAY, TODAY))
    assert merge_day(day) == 4
    assert names(day) == ["merged-000000.parquet"]
    assert pa.Table.from_batches(read_exposures(tmp_path, DAY, TODAY)).equals(before)
    assert users(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert merge_day(day) == 0
    replaced = json.loads(pq.read_metadata(day / "merged-000000.parquet").metadata[REPLACES])
    assert replaced == [
        f"{ONE}-000000.parquet",
        f"{ONE}-000001.parquet",
        f"{ONE}-000002.parquet",
        f"{TWO}-000007.parquet",
    ]


def test_late_files_follow_merged_ones_and_are_merged_together(
    tmp_path: Path,
) -> None:
    day = fill(tmp_path)
    merge_day(day)
    write(tmp_path, f"{ONE}-000003", [6])
    assert merge_day(day) == 0
    assert names(day) == [f"{ONE}-000003.parquet", "merged-000000.parquet"]
    write(tmp_path, f"{ONE}-000004", [7])
    assert users(tmp_path) == list(range(8))
    assert merge_day(day) == 2
    assert names(day) == ["merged-000000.parquet", "merged-000001.parquet"]
    assert users(tmp_path) == list(range(8))


def test_merged_files_are_of_bounded_size(tmp_path: Path) -> None:
    day = fill(tmp_path)
    sizes = [path.stat().st_size for path in exposure_files(tmp_path)]
    # The first two fit, then the other two.
    assert merge_day(day, max_bytes=max(sizes[0] + sizes[1], sizes[2] + sizes[3])) == 4
    assert names(day) == ["merged-000000.parquet", "merged-000001.parquet"]
    assert [pq.read_metadata(path).num_rows for path in exposure_files(tmp_path)] == [3, 3]
    assert users(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_files_too_large_to_be_merged_stay(tmp_path: Path) -> None:
    day = fill(tmp_path)
    before = names(day)
    assert merge_day(day, max_bytes=1) == 0
    assert names(day) == before


def test_no_more_than_some_rows_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = fill(tmp_path)
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1)
    merge_day(day)
    # One for each file, and one of what was left: nothing.
    assert pq.read_metadata(day / "merged-000000.parquet").num_row_groups in (4, 5)
    assert users(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_a_merge_that_is_killed_at_any_step_loses_and_doubles_nothing_and_is_finished_by_the_next(
    tmp_path: Path, dying: Any
) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        day = fill(folder)
        with dying(step) as life:
            merge_day(day)
        assert users(folder) == [0, 1, 2, 3, 4, 5]
        write(folder, f"{ONE}-000003", [6])
        assert sorted(users(folder)) == [0, 1, 2, 3, 4, 5, 6]
        merge_day(day)
        assert sorted(users(folder)) == [0, 1, 2, 3, 4, 5, 6]
        assert files_of(day)[2] == []
        assert [name for name in names(day) if name.startswith("merged")] == ["merged-000000.parquet"]
        if not life.ended:
            break
    # A sync of the file, its renaming, a sync of its folder, and the removal of four.
    assert step > 6


def test_people_who_are_forgotten_are_in_no_merged_file(tmp_path: Path) -> None:
    day = fill(tmp_path)
    merge_day(day, forgotten=Forgotten().and_also(["u2", "u5"]))
    assert users(tmp_path) == [0, 1, 3, 4]


def test_a_day_of_forgotten_users_only_is_read_as_empty(tmp_path: Path) -> None:
    day = fill(tmp_path)
    merge_day(day, forgotten=Forgotten().and_also([f"u{user}" for user in range(6)]))
    assert (names(day), users(tmp_path)) == (["merged-000000.parquet"], [])


def test_a_merged_file_that_lost_a_user_still_names_the_files_that_it_replaces(tmp_path: Path, dying: Any) -> None:
    day = fill(tmp_path)
    # Renamed, and no part removed yet: a sync, the renaming, another sync.
    with dying(3):
        merge_day(day)
    assert len(files_of(day)[2]) == 4
    assert without_users(day / "merged-000000.parquet", {"u2"}) == 1
    assert users(tmp_path) == [0, 1, 3, 4, 5]
    remove_replaced(day)
    assert (names(day), users(tmp_path)) == (["merged-000000.parquet"], [0, 1, 3, 4, 5])


def test_only_days_before_yesterday_are_merged_and_days_beyond_those_that_are_kept_go(tmp_path: Path) -> None:
    for number in range(6):
        for process in (ONE, TWO):
            write(tmp_path, f"{process}-000000", [number], day=later(number))
    today = later(5)
    assert tidy(tmp_path, today=today, keep_days=4) == Tidied(1, 6, ())
    assert names(tmp_path) == [f"day={later(number)}" for number in range(1, 6)]
    counts = [len(exposure_files(tmp_path, later(number), later(number + 1))) for number in range(1, 6)]
    assert counts == [1, 1, 1, 2, 2], "yesterday's and today's are as they were"
    assert tidy(tmp_path, today=today, keep_days=4) == Tidied(0, 0, ())
    assert tidy(tmp_path, today=today, keep_days=None) == Tidied(0, 0, ())
    assert tidy(tmp_path / "none", today=today, keep_days=4) == Tidied(0, 0, ())


def test_a_removal_that_is_killed_at_any_step_leaves_a_whole_day_or_none(tmp_path: Path, dying: Any) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        fill(folder)
        write(folder, f"{ONE}-000009", [6], day=later(1))
        with dying(step) as life:
            tidy(folder, today=later(2), keep_days=1)
        assert users(folder) in ([0, 1, 2, 3, 4, 5, 6], [6])
        tidy(folder, today=later(2), keep_days=1)
        assert users(folder) == [6]
        if not life.ended:
            break
    assert step > 5


def test_a_day_with_a_damaged_file_stays_and_is_reported_while_others_are_merged(tmp_path: Path) -> None:
    day = fill(tmp_path)
    bad = day / f"{ONE}-000001.parquet"
    bad.write_bytes(bad.read_bytes()[:-9])
    before = names(day)
    for process in (ONE, TWO):
        write(tmp_path, f"{process}-000000", [6], day=later(1))
    tidied = tidy(tmp_path, today=later(3), keep_days=None)
    assert (tidied.num_removed, tidied.num_replaced) == (0, 2)
    (problem,) = tidied.problems
    assert problem.startswith(f"{bad}: cannot be read (")
    assert problem.endswith("; remove it to continue without its lists")
    assert names(day) == before


def test_files_of_other_columns_are_reported(tmp_path: Path) -> None:
    day = fill(tmp_path)
    pq.write_table(pa.table({"user_id": ["u1"]}), day / f"{ONE}-000001.parquet")
    with pytest.raises(
        ValueError, match=r"000001\.parquet: has the columns user_id \(string\); expected moment \(.*k \("
    ):
        merge_day(day)
    assert len(names(day)) == 4


def test_a_damaged_merged_file_among_others_is_reported_and_not_passed_over(tmp_path: Path) -> None:
    day = fill(tmp_path)
    merge_day(day)
    write(tmp_path, f"{ONE}-000003", [6])
    merged = day / "merged-000000.parquet"
    merged.write_bytes(merged.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"merged-000000\.parquet: cannot be read \(.*\); remove it to continue"):
        exposure_files(tmp_path)


def test_a_file_that_is_merged_between_listing_and_reading_is_reported(tmp_path: Path) -> None:
    day = fill(tmp_path)
    reading = read_exposures(tmp_path, DAY, TODAY)
    assert next(reading).num_rows == 2
    merge_day(day)
    with pytest.raises(ValueError, match=r"0a-000001\.parquet: is gone since it was listed, .*; read again"):
        next(reading)


FULL_DISK = """
import resource, sys
from pathlib import Path
from serving.exposures.files import tidy
import datetime as dt

resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
print(tidy(Path(sys.argv[1]), today=dt.date(2024, 2, 5), keep_days=None).problems)
"""


def test_a_disk_that_is_full_leaves_the_day_as_it_was(tmp_path: Path) -> None:
    day = fill(tmp_path)
    before = names(day)
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path)]
    ran = forking.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=120)
    assert "File too large" in ran.stdout
    assert names(day) == before
    assert users(tmp_path) == [0, 1, 2, 3, 4, 5]
