"""Writes events into day files: validated chunk by chunk, then sorted and deduplicated day by day."""

from __future__ import annotations

import datetime as dt
import hashlib
import heapq
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import columns
from features.forgotten import NOBODY, Forgotten
from features.schema import Schema
from features.sources.events import split_repeats, traced_schema, validate_events
from features.sources.quarantine import REASONS, SOURCE, SOURCE_ROW, Quarantine, Reason
from features.sources.raw import Chunk, RawTable
from features.sources.summary import DayFacts
from features.sources.values import without

COMPACT_AT = 1_000_000
SCHEMA = pa.schema([("id", pa.string()), ("num_days", pa.int64())])


class IdDays:
    """Counts days for each id; all distinct ids are held in memory.

    Args:
        known: Counts to begin with, as `table` gives them; None for no day.
    """

    def __init__(self, known: pa.Table | None = None) -> None:
        """Begins with what is known."""
        self._parts: list[pa.Table] = [SCHEMA.empty_table() if known is None else known]
        self._num_pending = 0

    def add(self, ids: pa.ChunkedArray, num_days: int = 1) -> None:
        """Counts a day with these ids, or takes one away with `num_days` -1."""
        distinct = ids.unique()
        self._parts.append(pa.table([distinct, pa.repeat(num_days, len(distinct))], schema=SCHEMA))
        self._num_pending += len(distinct)
        if self._num_pending > max(COMPACT_AT, self._parts[0].num_rows):
            self._parts, self._num_pending = [self._sums()], 0

    def table(self) -> pa.Table:
        """Ids that occur on some day, by id, and on how many."""
        found = self._sums()
        return found.filter(pc.greater(found.column("num_days"), 0)).sort_by("id").combine_chunks()

    def _sums(self) -> pa.Table:
        # Without threads: the same order each time.
        summed = pa.concat_tables(self._parts).group_by("id", use_threads=False).aggregate([("num_days", "sum")])
        return summed.rename_columns(SCHEMA.names).cast(SCHEMA)


DAY_MICROSECONDS = 86_400_000_000


class DaySpill:
    """Events on their way to their days; writing ends with the `with` block, after it `days` can be read.

    Args:
        path: The scratch file.
        schema: Of the dataset.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        """Creates the file."""
        self._path, self.schema = path, schema
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, traced_schema(schema))
        self._num_batches = 0
        self._slices: dict[int, list[tuple[int, int, int]]] = defaultdict(list)

    def __enter__(self) -> DaySpill:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends writing."""
        self._writer.close()
        self._file.close()

    def add(self, events: pa.Table) -> None:
        """Appends events, as `traced_schema` has them, in the order of the source."""
        if not events.num_rows:
            return
        moments = events.column(columns.TIMESTAMP).cast(pa.int64()).to_numpy()
        day = moments // DAY_MICROSECONDS
        order = np.argsort(day, kind="stable")
        [batch] = events.take(pa.array(order)).combine_chunks().to_batches()
        self._writer.write_batch(batch)
        days, starts, counts = np.unique(day[order], return_index=True, return_counts=True)
        for number, start, count in zip(days.tolist(), starts.tolist(), counts.tolist(), strict=True):
            self._slices[number].append((self._num_batches, start, count))
        self._num_batches += 1

    def days(self) -> Iterator[tuple[dt.date, pa.Table]]:
        """Each day with its events, day by day; within a day in the order of the source."""
        with pa.memory_map(str(self._path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            for number in sorted(self._slices):
                parts = [reader.get_batch(index).slice(start, count) for index, start, count in self._slices[number]]
                yield columns.day_of(number), pa.Table.from_batches(parts)


EVENT_KEY = (columns.TIMESTAMP, columns.USER_ID, columns.ITEM_ID, columns.KIND)
Days = Mapping[dt.date, DayFacts]


@dataclass
class Counts:
    """What was found in some chunks.

    Attributes:
        num_rows: Rows read.
        num_other_lines: Lines read that are no row, as `Chunk` has them.
        num_filtered: Of the rows, filtered by their reward.
        num_forgotten: Of the rows, left out because they are of somebody who is forgotten.
        faults: Reason -> rows set aside.
        days: Day numbers of usable events.
        latest: Moment of the latest of them, microseconds since 1970; None where there is none.
    """

    num_rows: int = 0
    num_other_lines: int = 0
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
        found = validate_events(chunk, raw, schema=spill.schema, now=now)
        quarantine.add_faults(chunk, found.faults)
        spill.add(found.events)
        counts.num_rows += read.rows.num_rows
        counts.num_other_lines += read.num_other_lines
        counts.num_forgotten += read.rows.num_rows - chunk.rows.num_rows
        counts.num_filtered += found.num_filtered
        positions, numbers = np.unique(found.faults[found.faults >= 0], return_counts=True)
        counts.faults.update({REASONS[place].value: int(n) for place, n in zip(positions, numbers, strict=True)})
        if found.events.num_rows:
            moments = _microseconds(found.events)
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
        events = validate_events(_known(chunk, raw, forgotten), raw, schema=spill.schema, now=now).events
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
    """Writes `<folder>/2017-01-31.parquet`, one file a day, by `EVENT_KEY`.

    A file that would come out as it was before is the one from before.

    Args:
        spill: Closed for writing; has no event of the days that stay.
        folder: Is created.
        quarantine: Gets all but the first event of each user, item and timestamp, and kind where events have kinds.
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
        kept, repeats = split_repeats(events, [name for name in EVENT_KEY if name in events.column_names])
        quarantine.add_canonical(repeats, Reason.DUPLICATE)
        kept = kept.drop_columns([SOURCE, SOURCE_ROW])
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
    """Hard-links a file, which is never changed; copies it where the file system has no hard links."""
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
