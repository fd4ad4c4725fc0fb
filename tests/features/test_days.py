"""Days begin at midnight UTC in every time zone of the machine."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from features.columns import day_range, midnight, number_of, seconds_of

DAYS = st.dates(dt.date(1971, 1, 1), dt.date(2100, 1, 1))


def test_a_day_of_daylight_saving_time_begins_at_midnight_utc() -> None:
    day = dt.date(2017, 3, 26)
    assert midnight(day) == dt.datetime(2017, 3, 26, tzinfo=dt.UTC)
    assert number_of(day) == 47 * 365 + 12 + 31 + 28 + 25  # 47 years with 12 leap days, January, February, 25 days
    assert seconds_of(day) == number_of(day) * 86_400


@given(DAYS)
def test_seconds_and_numbers_count_the_same_days(day: dt.date) -> None:
    assert seconds_of(day) == 86_400 * number_of(day)
    assert seconds_of(day + dt.timedelta(days=1)) - seconds_of(day) == 86_400


def test_a_range_has_its_first_day_and_not_its_end() -> None:
    first = dt.date(2016, 2, 28)
    assert day_range(first, dt.date(2016, 3, 2)) == [first, dt.date(2016, 2, 29), dt.date(2016, 3, 1)]
    assert day_range(first, first) == []
