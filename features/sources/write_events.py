"""How do raw events become day files? Judged chunk by chunk, then sorted and freed of repeats day by day."""

from __future__ import annotations

import datetime as dt
import hashlib
import heapq
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import columns
from features.forgotten import NOBODY, Forgotten, without
from features.quarantine import REASONS, Quarantine, Reason
from features.sources.day_files import DAY_MICROSECONDS, DaySpill
from features.sources.events import EVENTS_SCHEMA, judge_events
from features.sources.id_days import IdDays
from features.sources.raw import Chunk, RawTable
from features.sources.repeats import split_repeats
from features.sources.summary import DayFacts

EVENT_KEY = (columns.TIMESTAMP, columns.USER_ID, columns.ITEM_ID)
Days = Mapping[dt.date, DayFacts]


@dataclass
class Counts:
    """What was found in some chunks.

    Attributes:
        num_rows: Rows read.
        num_filtered: Of those, filtered by their reward.
        num_forgotten: Of those, left out because they are of somebody who is forgotten.
        faults: Reason -> rows set aside.
        days: Day numbers of usable events.
        latest: Moment of the latest of them, microseconds since 1970; None where there is none.
    """

    num_rows: int = 0
    num_filtered: int = 0
    num_forgotten: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    days: set[int] = field(default_factory=set)
    latest: int | None = None


def spill_events(
    chunks: Iterator[Chunk],
    raw: RawTable,
    spill: DaySpill,
    *,
    now: dt.datetime,
    quarantine: Quarantine,
    progress: Callable[[int], None],
    forgotten: Forgotten = NOBODY,
) -> Counts:
    """Reads events; the usable ones go to the spill, the others to the quarantine.

    Args:
        chunks: Events of the source.
        raw: What their columns mean.
        spill: Open for writing.
        now: Later events are set aside.
        quarantine: Open for writing.
        progress: Told how many more rows are done.
        forgotten: Users whose rows are left out, unseen: set aside they would be kept.

    Returns:
        What was found.
    """
    counts = Counts()
    for read in chunks:
        chunk = _known(read, raw, forgotten)
        judged = judge_events(chunk, raw, now=now)
        quarantine.add_faults(chunk, judged.faults)
        spill.add(judged.events)
        counts.num_rows += read.rows.num_rows
        counts.num_forgotten += read.rows.num_rows - chunk.rows.num_rows
        counts.num_filtered += judged.num_filtered
        positions, numbers = np.unique(judged.faults[judged.faults >= 0], return_counts=True)
        counts.faults.update({REASONS[place].value: int(n) for place, n in zip(positions, numbers, strict=True)})
        if judged.events.num_rows:
            moments = _microseconds(judged.events)
            counts.days.update(np.unique(moments // DAY_MICROSECONDS).tolist())
            counts.latest = max(int(moments.max()), moments[0] if counts.latest is None else counts.latest)
        progress(read.rows.num_rows)
    return counts


def spill_days(
    chunks: Iterator[Chunk],
    raw: RawTable,
    spill: DaySpill,
    *,
    now: dt.datetime,
    days: Collection[int],
    forgotten: Forgotten = NOBODY,
) -> None:
    """Reads events once more, for some days: their usable events go to the spill, all others are left out."""
    wanted = np.array(sorted(days))
    for chunk in chunks:
        events = judge_events(_known(chunk, raw, forgotten), raw, now=now).events
        spill.add(events.filter(pa.array(np.isin(_microseconds(events) // DAY_MICROSECONDS, wanted))))


@dataclass(frozen=True)
class DaysBefore:
    """Day files of an earlier ingestion.

    Attributes:
        folder: With a file each.
        days: What is in them.
        kept: Those that stay as they are.
        repeats: The repeated rows of a day that stays, as they were set aside.
    """

    folder: Path
    days: Days
    kept: Collection[dt.date]
    repeats: Callable[[dt.date], Iterator[pa.Table]]


def write_days(
    spill: DaySpill, folder: Path, *, quarantine: Quarantine, before: DaysBefore | None, ids: tuple[IdDays, IdDays]
) -> dict[dt.date, DayFacts]:
    """Writes `<folder>/2017-01-31.parquet`, one file a day, by (timestamp, user_id, item_id).

    A file that would come out as it was before is the one from before.

    Args:
        spill: Closed for writing; has no event of the days that stay.
        folder: Is created.
        quarantine: Gets all but the first event of each user, item and timestamp.
        before: Earlier files; None where there are none.
        ids: Users and items, in which the days written are counted.

    Returns:
        Each day and what is in its file, in order.
    """
    folder.mkdir()
    stay = [] if before is None else sorted(before.kept)
    days: dict[dt.date, DayFacts] = {}
    for day, events in heapq.merge(((day, None) for day in stay), spill.days(), key=lambda pair: pair[0]):
        if events is None and before is not None:
            link(before.folder / f"{day}.parquet", folder / f"{day}.parquet")
            for rows in before.repeats(day):
                quarantine.add_kept(rows)
            days[day] = before.days[day]
            continue
        kept, repeats = split_repeats(events, EVENT_KEY)
        quarantine.add_repeats(repeats, Reason.DUPLICATE)
        kept = kept.select(EVENTS_SCHEMA.names)
        digest = _write_day(kept, folder / f"{day}.parquet", day, before)
        days[day] = DayFacts(digest, kept.num_rows, repeats.num_rows)
        for counted, name in zip(ids, (columns.USER_ID, columns.ITEM_ID), strict=True):
            counted.add(kept.column(name))
    return days


def _write_day(events: pa.Table, path: Path, day: dt.date, before: DaysBefore | None) -> str:
    """Writes a day's file and returns its digest."""
    sink = pa.BufferOutputStream()
    pq.write_table(events, sink, compression="zstd")
    content = sink.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    if before is not None and day in before.days and before.days[day].digest == digest:
        link(before.folder / path.name, path)
    else:
        path.write_bytes(content)
    return digest


def span_of(folder: Path, days: Collection[dt.date]) -> tuple[dt.datetime, dt.datetime] | None:
    """Moments of the first and the last event of some day files; None where there are none."""
    if not days:
        return None
    first, last = (
        pq.read_table(folder / f"{day}.parquet", columns=[columns.TIMESTAMP]).column(0)
        for day in (min(days), max(days))
    )
    return first[0].as_py(), last[-1].as_py()


def link(path: Path, target: Path) -> None:
    """Gives a file, which nobody changes, a second name; copies it where the file system has no such thing."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(chunk: Chunk, raw: RawTable, forgotten: Forgotten) -> Chunk:
    return without(chunk, raw.columns[columns.USER_ID], forgotten) if forgotten else chunk


def _microseconds(events: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    moments: np.ndarray[tuple[int], np.dtype[np.int64]] = pc.cast(
        events.column(columns.TIMESTAMP), pa.int64()
    ).to_numpy()
    return moments
