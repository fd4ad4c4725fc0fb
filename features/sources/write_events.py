"""How do raw events become day files? Judged chunk by chunk, then sorted and freed of repeats day by day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features import columns
from features.quarantine import Quarantine, Reason
from features.sources.day_files import DaySpill
from features.sources.entities import DistinctIds
from features.sources.events import EVENTS_SCHEMA, judge_events
from features.sources.raw import RawTable
from features.sources.repeats import split_repeats

EVENT_KEY = (columns.TIMESTAMP, columns.USER_ID, columns.ITEM_ID)


@dataclass(frozen=True)
class WrittenDays:
    """What is in the day files.

    Attributes:
        num_rows: Events.
        num_days: Files.
        span: Moments of the first and the last event; None where there is no event.
        user_ids, item_ids: Distinct ids.
    """

    num_rows: int
    num_days: int
    span: tuple[dt.datetime, dt.datetime] | None
    user_ids: pa.Array
    item_ids: pa.Array


def spill_events(
    raw: RawTable,
    spill: DaySpill,
    *,
    chunk_rows: int,
    now: dt.datetime,
    quarantine: Quarantine,
    progress: Callable[[int], None],
) -> tuple[int, int]:
    """Reads all events; the usable ones go to the spill, the others to the quarantine.

    Args:
        raw: The events of the source.
        spill: Open for writing.
        chunk_rows: Rows read at a time.
        now: Later events are set aside.
        quarantine: Open for writing.
        progress: Told how many more rows are done.

    Returns:
        Number of rows read, and of those filtered by their reward.
    """
    num_rows = num_filtered = 0
    with spill:
        for chunk in raw.read(chunk_rows):
            judged = judge_events(chunk, raw, now=now)
            quarantine.add_faults(chunk, judged.faults)
            spill.add(judged.events)
            num_rows += chunk.rows.num_rows
            num_filtered += judged.num_filtered
            progress(chunk.rows.num_rows)
    return num_rows, num_filtered


def write_days(spill: DaySpill, folder: Path, *, quarantine: Quarantine) -> WrittenDays:
    """Writes `<folder>/2017-01-31.parquet`, one file a day, by (timestamp, user_id, item_id).

    Args:
        spill: Closed for writing.
        folder: Is created.
        quarantine: Gets all but the first event of each user, item and timestamp.

    Returns:
        What was written.
    """
    folder.mkdir()
    users, items = DistinctIds(), DistinctIds()
    num_rows = num_days = 0
    moments: list[dt.datetime] = []
    for day, events in spill.days():
        kept, repeats = split_repeats(events, EVENT_KEY)
        quarantine.add_repeats(repeats, Reason.DUPLICATE)
        kept = kept.select(EVENTS_SCHEMA.names)
        pq.write_table(kept, folder / f"{day}.parquet", compression="zstd")
        users.add(kept.column(columns.USER_ID))
        items.add(kept.column(columns.ITEM_ID))
        num_rows += kept.num_rows
        num_days += 1
        times = kept.column(columns.TIMESTAMP)
        moments = [moments[0] if moments else times[0].as_py(), times[-1].as_py()]
    span = (moments[0], moments[1]) if moments else None
    return WrittenDays(num_rows, num_days, span, users.values(), items.values())
