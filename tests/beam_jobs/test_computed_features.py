"""Computed features in the snapshots: carried from day to day, the same for any sharding, never from the future."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.snapshot_state import SavedState
from beam_jobs.snapshots import DailySnapshots, run
from features.computed import COMPUTED, ComputedFeature, DayEvents, carried
from features.schema import Schema

START = dt.date(2017, 1, 1)  # a Sunday
NUM_DAYS = 6
NAMES = ("user_weekend_events", "item_weekend_events", "user_faded_value")
Event = dict[str, Any]


def test_the_weekend_is_saturday_and_sunday_in_utc() -> None:
    # From Friday 2024-01-05 23:59:59 over two days to Monday 00:00:00, one second inside and outside of each end.
    midnight = int(dt.datetime(2024, 1, 6, tzinfo=dt.UTC).timestamp())
    seconds = np.array([midnight - 1, midnight, midnight + 2 * 86_400 - 1, midnight + 2 * 86_400])
    day = DayEvents(np.array([0, 1, 1, 2]), 3, seconds, np.zeros(4), np.zeros(4, np.int64))
    for name in ("user_weekend_events", "item_weekend_events"):
        np.testing.assert_array_equal(COMPUTED[name].of_day(day), [0, 2, 0])


def test_totals_are_carried_by_their_own_rule_on_days_without_events_too() -> None:
    fading = ComputedFeature("user", "value, halved daily", lambda day: day.sum(day.value), lambda x, new: x / 2 + new)
    adding = ComputedFeature("user", "value", lambda day: day.sum(day.value))
    totals = np.array([[8.0, 1.0], [8.0, 1.0]])
    nothing = np.zeros(0, np.int64)
    empty = DayEvents(nothing, 2, nothing, np.zeros(0), nothing)
    found = carried(totals, {"fading": fading, "adding": adding}, empty)
    np.testing.assert_array_equal(found, [[4.0, 0.5], [8.0, 1.0]])


@pytest.fixture
def fading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that only the registry knows."""
    feature = ComputedFeature("user", "value, halved daily", lambda day: day.sum(day.value), lambda x, new: x / 2 + new)
    monkeypatch.setitem(COMPUTED, "user_faded_value", feature)


@pytest.mark.usefixtures("fading")
@pytest.mark.parametrize(("num_shards", "cut"), [(1, None), (3, None), (2, 4)])
def test_rows_sum_up_the_events_before_their_midnight(
    write_tables: Callable[[Path, list[Event]], Path],
    events: list[Event],
    options: PipelineOptions,
    tmp_path: Path,
    num_shards: int,
    cut: int | None,
) -> None:
    schema = Schema(computed_features=NAMES)
    tables = write_tables(tmp_path / "tables", events)
    saved = None
    for first, end in [(0, NUM_DAYS)] if cut is None else [(0, cut), (cut, NUM_DAYS)]:
        days = START + dt.timedelta(days=first), START + dt.timedelta(days=end)
        transform = DailySnapshots(
            tables, schema, days=days, rows_from=START, num_shards=num_shards, history_length=3,
            user_refresh_days=1, item_refresh_days=1, saved=saved,
        )  # fmt: skip
        out = tmp_path / str(end)
        out.mkdir()
        paths = [str(path) for path in (tables / "events").iterdir() if str(days[0]) <= path.stem < str(days[1])]
        run(transform, sorted(paths), out=out, schema=schema, options=options)
        saved = SavedState(out / "user_state.parquet", out / "item_state.parquet", out / "pairs.parquet")
    for tower in ("user", "item"):
        rows = pq.read_table(tmp_path / str(NUM_DAYS) / f"{tower}.parquet").to_pylist()
        assert rows
        for row in rows:
            before = [event for event in events if event["timestamp"] < row["event_timestamp"]]
            own = [event for event in before if event[f"{tower}_id"] == row[f"{tower}_id"]]
            at_weekend = sum(event["timestamp"].weekday() >= 5 for event in own)
            assert row[f"{tower}_weekend_events"] == at_weekend
            if tower == "user":
                ages = [(row["event_timestamp"].date() - event["timestamp"].date()).days for event in own]
                values = [event["value"] or 0.0 for event in own]
                faded = sum(value / 2 ** (age - 1) for age, value in zip(ages, values, strict=True))
                assert row["user_faded_value"] == pytest.approx(faded, rel=1e-6)
