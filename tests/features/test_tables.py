"""Which days become examples."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.tables import EVENTS_PER_USER, LEAST_EVENTS, example_days


def day(number: int) -> dt.date:
    return dt.date(2020, 1, number)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Days 1, 2, 4 and 5 with 10, 20, 30 and 40 events; three users."""
    days = {
        str(day(number)): {"digest": "", "num_events": num, "num_repeats": 0}
        for number, num in ((4, 30), (1, 10), (2, 20), (5, 40))
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"days": days}))
    pq.write_table(pa.table({"user_id": ["a", "b", "c"]}), tmp_path / "users.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("num_events", "expected"), [(1, [5]), (40, [5]), (41, [4, 5]), (70, [4, 5]), (71, [2, 4, 5]), (1000, [1, 2, 4, 5])]
)
def test_the_latest_days_with_enough_events_are_taken(tables: Path, num_events: int, expected: list[int]) -> None:
    found = example_days(tables, first=day(1), end=day(6), num_events=num_events)
    assert found == [day(number) for number in expected]


def test_days_before_the_first_and_from_the_end_on_are_not(tables: Path) -> None:
    assert example_days(tables, first=day(2), end=day(5), num_events=1000) == [day(2), day(4)]
    assert example_days(tables, first=day(6), end=day(9), num_events=1000) == []


@pytest.mark.parametrize(("num_users", "enough"), [(3, LEAST_EVENTS), (20_000, 20_000 * EVENTS_PER_USER)])
def test_how_many_are_enough_goes_with_the_users(tables: Path, num_users: int, enough: int) -> None:
    counts = {day(1): 5, day(2): 1, day(3): enough - 1}
    plain = {str(day): {"digest": "", "num_events": num, "num_repeats": 0} for day, num in counts.items()}
    (tables / "manifest.json").write_text(json.dumps({"days": plain}))
    pq.write_table(pa.table({"user_id": [str(user) for user in range(num_users)]}), tables / "users.parquet")
    assert example_days(tables, first=day(1), end=day(6), num_events=None) == [day(2), day(3)]
