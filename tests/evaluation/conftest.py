"""A split small enough to read."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest

from evaluation.split import Split, make_split

CUT = dt.datetime(2020, 1, 10, tzinfo=dt.UTC)
ITEMS = ["a", "b", "c", "d", "e"]


def events_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """A row per (user, item, time)."""
    users, items, times = zip(*rows, strict=True)
    stamps = pd.to_datetime(pd.Series(times), format="ISO8601", utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": stamps, "value": 1.0})


@pytest.fixture
def events() -> pd.DataFrame:
    return events_of(
        ("ann", "a", "2020-01-01"),
        ("ann", "a", "2020-01-04"),
        ("ann", "b", "2020-01-09T23:59:59.999999"),  # the last microsecond before the cut
        ("ann", "b", "2020-01-10"),  # the first one of the window
        ("ann", "c", "2020-01-11"),
        ("ann", "c", "2020-01-12"),
        ("ann", "d", "2020-01-13"),  # the first microsecond behind a window of three days
        ("bob", "b", "2020-01-05"),
        ("bob", "gone", "2020-01-05"),
        ("cat", "e", "2020-01-12T23:59:59.999999"),
        ("cat", "gone", "2020-01-11"),
        ("cat", "gone", "2020-01-12"),
        ("dan", "gone", "2020-01-11"),
        ("eve", "a", "2020-01-13"),
    )


@pytest.fixture
def split(events: pd.DataFrame) -> Split:
    return make_split(events, ITEMS, cut=CUT, window_days=3)
