"""Reads the canonical tables that ingestion wrote: events, users and items.

tables/events/2017-01-31.parquet   events of one UTC day by (timestamp, user_id, item_id)
users.parquet               user_id and the declared user columns, by user_id
items.parquet               item_id, item_name and the declared item columns, by item_id
withdrawn_items.parquet     item_id of those that only events know, where the source has a table of items
quarantine/                 rows set aside
manifest.json               counts, and of each day a digest of its events
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.sources.events import EVENTS_SCHEMA
from features.sources.summary import DayFacts

WITHDRAWN_FILE = "withdrawn_items.parquet"


def event_days(tables: Path) -> list[dt.date]:
    """Days that have events, in order.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return sorted(dt.date.fromisoformat(path.stem) for path in (tables / "events").glob("*.parquet"))


def day_facts(tables: Path) -> dict[dt.date, DayFacts]:
    """Digest and number of events of each day, from the manifest: no day is read.

    Raises:
        FileNotFoundError: There are no tables in the folder.
        ValueError: They were written before manifests had this.
    """
    _check(tables)
    days = json.loads((tables / "manifest.json").read_text(encoding="utf-8")).get("days")
    if days is None:
        raise ValueError(f"{tables / 'manifest.json'}: has no digests of days; run `twinspire ingest --force` once")
    return {dt.date.fromisoformat(day): DayFacts(**facts) for day, facts in days.items()}


def read_events(tables: Path, *, first_day: dt.date, end_day: dt.date) -> pa.Table:
    """Events of the days from `first_day` to the one before `end_day`, in order of time.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    days = [day for day in event_days(tables) if first_day <= day < end_day]
    files = (tables / "events" / f"{day}.parquet" for day in days)
    return pa.concat_tables([EVENTS_SCHEMA.empty_table(), *(pq.read_table(file) for file in files)])


def read_users(tables: Path) -> pa.Table:
    """All users, by user_id.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return pq.read_table(tables / "users.parquet")


def read_items(tables: Path) -> pa.Table:
    """All items, by item_id.

    Raises:
        FileNotFoundError: There are no tables in the folder.
    """
    _check(tables)
    return pq.read_table(tables / "items.parquet")


def withdrawn_items(tables: Path) -> list[str]:
    """Items that are known from events only, though the source has a table of items: they left it, or never were in it.

    Their events stay part of everybody's history; they are not offered any more. Where a source has no table of items,
    everything is offered.
    """
    path = tables / WITHDRAWN_FILE
    return pq.read_table(path).column(0).to_pylist() if path.exists() else []


def _check(tables: Path) -> None:
    if not (tables / "manifest.json").exists():
        raise FileNotFoundError(f"{tables}: no canonical tables here; run `twinspire ingest` first")
