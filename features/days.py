"""Which moment does a day begin at? Days are UTC, moments are midnights."""

from __future__ import annotations

import datetime as dt


def midnight(day: dt.date) -> dt.datetime:
    """The first moment of a day, UTC."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)


def seconds_of(day: dt.date) -> int:
    """The first moment of a day, Unix seconds."""
    return int(midnight(day).timestamp())


def number_of(day: dt.date) -> int:
    """Days from 1970-01-01 to a day."""
    return (day - dt.date(1970, 1, 1)).days


def day_range(first: dt.date, end: dt.date) -> list[dt.date]:
    """The days from `first` to the one before `end`."""
    return [first + dt.timedelta(days=offset) for offset in range((end - first).days)]
