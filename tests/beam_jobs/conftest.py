"""Canonical tables of a tiny shop, and the snapshot job over them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from features.schema import Schema
from features.sources.events import EVENTS_SCHEMA

START = dt.datetime(2017, 1, 1, tzinfo=dt.UTC)
NUM_USERS, NUM_ITEMS, NUM_DAYS = 7, 9, 6


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema.model_validate(
        {
            "user_columns": {"age": "categorical"},
            "item_columns": {"aisle": ["categorical", "text"], "size": "numeric"},
            "item_category": "aisle",
        }
    )


@pytest.fixture(scope="session")
def options() -> PipelineOptions:
    # Another runner would first look for a binary on the network.
    return PipelineOptions(["--runner=FnApiRunner"])


@pytest.fixture(scope="session")
def write_tables() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Writes canonical tables with the given events; users and items are the same in all of them."""

    def write(folder: Path, events: list[dict[str, Any]]) -> Path:
        (folder / "events").mkdir(parents=True)
        for day in {event["timestamp"].date() for event in events}:
            rows = [event for event in events if event["timestamp"].date() == day]
            rows.sort(key=lambda event: (event["timestamp"], event["user_id"], event["item_id"]))
            pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA), folder / "events" / f"{day}.parquet")
        users = {"user_id": [f"u{number}" for number in range(NUM_USERS)]}
        ages = pa.array(["old", None, "young", "old", "young", None, "old"])
        pq.write_table(pa.table({**users, "age": ages}), folder / "users.parquet")
        items = {
            "item_id": [f"i{number}" for number in range(NUM_ITEMS)],
            "item_name": [f"Item {number}" for number in range(NUM_ITEMS)],
            "aisle": ["tea", "ice cream", None] * 3,
        }
        size = pa.array([number / 4 for number in range(NUM_ITEMS)], pa.float32())
        pq.write_table(pa.table({**items, "size": size}), folder / "items.parquet")
        (folder / "manifest.json").write_text("{}")
        return folder

    return write


@pytest.fixture(scope="session")
def events() -> list[dict[str, Any]]:
    """Six days; the last user and the last item never meet anybody; u0 has bought i0 at the stroke of each midnight."""
    rng = np.random.default_rng(5)
    moments = [float(second) for second in (0, 1, 40_000, 86_399, 86_399.75)]
    drawn = {
        (rng.integers(NUM_DAYS), rng.choice(moments), rng.integers(NUM_USERS - 1), rng.integers(NUM_ITEMS - 1))
        for _ in range(90)
    }
    drawn |= {(day, 0.0, 0, 0) for day in range(NUM_DAYS)}
    return [
        {
            "timestamp": START + dt.timedelta(days=int(day), seconds=float(second)),
            "user_id": f"u{user}",
            "item_id": f"i{item}",
            "reward": None,
            "value": None if number % 7 == 0 else number / 8,
        }
        for number, (day, second, user, item) in enumerate(sorted(drawn))
    ]
