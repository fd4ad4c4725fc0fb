"""Canonical column names: the only place where they are spelled."""

from __future__ import annotations

import datetime as dt
from typing import Final

USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
TIMESTAMP: Final = "timestamp"
REWARD: Final = "reward"
VALUE: Final = "value"
KIND: Final = "kind"
ITEM_NAME: Final = "item_name"
# The days of which a fact of an item is true, both included.
FIRST_DAY: Final = "first_day"
LAST_DAY: Final = "last_day"

# Feature snapshots, as Feast reads them.
EVENT_TIMESTAMP: Final = "event_timestamp"
CREATED_TIMESTAMP: Final = "created_timestamp"

# The moment a snapshot row speaks of, seconds since 1970 UTC. It is an ordinary feature, so that it comes back from
# every join and from the online store: that is how "no value is younger than its example" can be checked at all.
USER_AS_OF: Final = "user_as_of_seconds"
ITEM_AS_OF: Final = "item_as_of_seconds"

EVENT_COLUMNS: Final = (USER_ID, ITEM_ID, TIMESTAMP, REWARD, VALUE)


def midnight(day: dt.date) -> dt.datetime:
    """The first moment of a day, UTC."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)


def seconds_of(day: dt.date) -> int:
    """The first moment of a day, Unix seconds."""
    return int(midnight(day).timestamp())


def number_of(day: dt.date) -> int:
    """Days from 1970-01-01 to a day."""
    return (day - dt.date(1970, 1, 1)).days


def day_of(number: int) -> dt.date:
    """The day of a number of `number_of`."""
    return dt.date(1970, 1, 1) + dt.timedelta(days=number)


def day_range(first: dt.date, end: dt.date) -> list[dt.date]:
    """The days from `first` to the one before `end`."""
    return [first + dt.timedelta(days=offset) for offset in range((end - first).days)]
