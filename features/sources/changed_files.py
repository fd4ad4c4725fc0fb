"""Incremental ingestion: only event files that changed are read, and only the days that they touch are written.

A day is written again where a changed file, as it was or as it is, has events of it. Then all files that have some are
read for it, for the first of equal events may lie in any of them.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import json_text, json_value
from features import columns, schema
from features.forgotten import NOBODY, Forgotten
from features.sources import events, summary, write_events
from features.sources.quarantine import SCHEMA, Quarantine, Reason
from features.sources.raw import Chunk, RawTable, SourcePart

FORMAT = 2


@dataclass(frozen=True)
class PartFacts:
    """What is in one file of events.

    Attributes:
        size: Bytes.
        mtime_ns: When it was last changed.
        digest: SHA-256 of its bytes.
        num_rows: Rows.
        num_filtered: Rows filtered by their reward.
        faults: Reason -> rows set aside, without repeated rows.
        days: Day numbers of its usable events, ascending.
        latest: Its latest usable event, microseconds since 1970; None where there is none.
        num_forgotten: Rows left out because they are of somebody who is forgotten.
        num_other_lines: Lines that are no row.
    """

    size: int
    mtime_ns: int
    digest: str
    num_rows: int
    num_filtered: int
    faults: Mapping[str, int]
    days: Sequence[int]
    latest: int | None
    num_forgotten: int = 0
    num_other_lines: int = 0

    @property
    def num_faults(self) -> int:
        """Rows set aside, without repeated rows."""
        return sum(self.faults.values())

    def depends_on(self, now: dt.datetime) -> bool:
        """Whether another moment of the run could change which events are valid."""
        return Reason.FUTURE_TIMESTAMP in self.faults or (self.latest or 0) > (now - events.EPOCH) // events.MICROSECOND


@dataclass(frozen=True)
class Ledger:
    """All files of the events.

    Attributes:
        tables: Content digest of the tables that were made of them.
        reading: How they were read; otherwise the facts are of no use.
        files: Name -> facts.
        ids: Users and items, as `count_days` gives them.
    """

    tables: str
    reading: str
    files: Mapping[str, PartFacts]
    ids: tuple[pa.Table, pa.Table]

    def save(self, folder: Path) -> None:
        """Writes it in place of what is there."""
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, table in zip(("user_ids", "item_ids"), self.ids, strict=True):
            pq.write_table(table, temporary / f"{name}.parquet", compression="zstd")
        plain = {
            "format": FORMAT,
            "tables": self.tables,
            "reading": self.reading,
            "files": {name: asdict(facts) for name, facts in self.files.items()},
        }
        (temporary / "ledger.json").write_text(json_text(plain), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: Path, *, tables: str, reading: str) -> Ledger | None:
        """Reads it; None where there is none, or one of other tables or another way of reading."""
        path = folder / "ledger.json"
        plain = json_value(path.read_text(encoding="utf-8")) if path.exists() else {}
        if (plain.get("format"), plain.get("tables"), plain.get("reading")) != (FORMAT, tables, reading):
            return None
        ids = (pq.read_table(folder / "user_ids.parquet"), pq.read_table(folder / "item_ids.parquet"))
        return cls(tables, reading, {name: PartFacts(**facts) for name, facts in plain["files"].items()}, ids)


def unchanged_parts(parts: Sequence[SourcePart], ledger: Ledger, *, now: dt.datetime) -> dict[str, PartFacts]:
    """The files that are as they were: by size and time, and where only the time differs by their bytes."""
    found = {}
    for part in parts:
        facts = ledger.files.get(part.name)
        stat = part.path.stat()
        if facts is None or facts.size != stat.st_size or facts.depends_on(now):
            continue
        if facts.mtime_ns == stat.st_mtime_ns:
            found[part.name] = facts
        elif facts.digest == write_events.digest_of_file(part.path):
            found[part.name] = replace(facts, mtime_ns=stat.st_mtime_ns)
    return found


def day_of(number: int) -> dt.date:
    """The day with a day number."""
    return (events.EPOCH + number * write_events.DAY_MICROSECONDS * events.MICROSECOND).date()


class KeptRows:
    """Reads stretches of a quarantine file, each behind the one before; memory: one batch.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        self._batches = pq.ParquetFile(path).iter_batches()
        self._batch = pa.RecordBatch.from_pylist([], SCHEMA)
        self._begin = 0

    def read(self, start: int, num_rows: int) -> Iterator[pa.Table]:
        """Rows from position `start` on.

        Raises:
            StopIteration: The file has fewer rows.
        """
        end = start + num_rows
        while num_rows:
            batch_end = self._begin + self._batch.num_rows
            low, high = max(start, self._begin), min(end, batch_end)
            if low < high:
                yield pa.Table.from_batches([self._batch.slice(low - self._begin, high - low)])
            if end <= batch_end:
                return
            self._begin, self._batch = batch_end, next(self._batches)


Key = TypeVar("Key")


@dataclass(frozen=True)
class Before:
    """What an earlier ingestion left.

    Attributes:
        folder: Its tables.
        days: What is in its day files.
        ledger: What it found in each file of the events; None where that is of no use any more.
    """

    folder: Path
    days: Mapping[dt.date, summary.DayFacts]
    ledger: Ledger | None


@dataclass(frozen=True)
class EventsRead:
    """What was read and written.

    Attributes:
        num_rows: Event rows of the source, with those that were not read again.
        num_filtered: Of those, filtered by their reward.
        num_forgotten: Of those, left out because they are of somebody who is forgotten.
        num_other_lines: Lines of the source that are no row.
        days: What is in the day files.
        ids: Users and items of the events, as `IdDays.table` gives them.
        files: What is in each file of the source; empty where it is one file.
    """

    num_rows: int
    num_filtered: int
    num_forgotten: int
    num_other_lines: int
    days: dict[dt.date, summary.DayFacts]
    ids: tuple[pa.Table, pa.Table]
    files: Mapping[str, PartFacts]


@dataclass(frozen=True)
class EventReader:
    """Reads events of a source into day files.

    Attributes:
        raw: The events of the source.
        folder: Where the tables go; it exists.
        chunk_rows: Rows read at a time.
        now: Later events are set aside.
        quarantine: Open for writing.
        progress: Told how many more rows are done.
        dataset: Its schema.
        forgotten: Users whose rows are left out.
    """

    raw: RawTable
    folder: Path
    chunk_rows: int
    now: dt.datetime
    quarantine: Quarantine
    progress: Callable[[int], None]
    dataset: schema.Schema
    forgotten: Forgotten = NOBODY

    def read(self, before: Before | None) -> EventsRead:
        """Reads what changed since; all, where nothing is known of before."""
        scratch = self.folder / "scratch.arrow"
        try:
            if self.raw.parts:
                return self._read_parts(write_events.DaySpill(scratch, self.dataset), before)
            return self._read_whole(write_events.DaySpill(scratch, self.dataset), before)
        finally:
            scratch.unlink(missing_ok=True)

    def _read_whole(self, spill: write_events.DaySpill, before: Before | None) -> EventsRead:
        with spill:
            counts = self._spill(self.raw.read, spill)
        ids = (write_events.IdDays(), write_events.IdDays())
        same = _none_stays(before)
        days = write_events.write_days(spill, self.folder / "events", quarantine=self.quarantine, before=same, ids=ids)
        numbers = (counts.num_rows, counts.num_filtered, counts.num_forgotten, counts.num_other_lines)
        return EventsRead(*numbers, days, (ids[0].table(), ids[1].table()), {})

    def _read_parts(self, spill: write_events.DaySpill, before: Before | None) -> EventsRead:
        ledger = None if before is None else before.ledger
        same = {} if ledger is None else unchanged_parts(self.raw.parts, ledger, now=self.now)
        earlier = {} if ledger is None else ledger.files
        kept_rows = None
        if before is not None and ledger is not None:
            kept_rows = KeptRows(before.folder / "quarantine" / "events.parquet")
        begins = _begins({name: facts.num_faults for name, facts in earlier.items()})
        files: dict[str, PartFacts] = {}
        with spill:
            for part in self.raw.parts:
                name = part.name
                if name in same and kept_rows is not None:
                    files[name] = same[name]
                    for rows in kept_rows.read(begins[name], same[name].num_faults):
                        self.quarantine.add_kept(rows)
                else:
                    files[name] = self._facts(part, spill)
            changed = [facts for name, facts in earlier.items() if name not in same]
            changed += [facts for name, facts in files.items() if name not in same]
            touched = {number for facts in changed for number in facts.days}
            for part in self.raw.parts:
                if part.name in same and not touched.isdisjoint(same[part.name].days):
                    chunks = part.read(self.chunk_rows)
                    write_events.spill_days(
                        chunks, self.raw, spill, now=self.now, days=touched, forgotten=self.forgotten
                    )
        ids, stay = (write_events.IdDays(), write_events.IdDays()), _none_stays(before)
        if before is not None and ledger is not None and kept_rows is not None:
            written_again = {day_of(number) for number in touched}
            ids = (write_events.IdDays(ledger.ids[0]), write_events.IdDays(ledger.ids[1]))
            _take_away(ids, before, written_again)
            stay = _stays(before, written_again, kept_rows, sum(facts.num_faults for facts in earlier.values()))
        return EventsRead(
            sum(facts.num_rows for facts in files.values()),
            sum(facts.num_filtered for facts in files.values()),
            sum(facts.num_forgotten for facts in files.values()),
            sum(facts.num_other_lines for facts in files.values()),
            write_events.write_days(spill, self.folder / "events", quarantine=self.quarantine, before=stay, ids=ids),
            (ids[0].table(), ids[1].table()),
            files,
        )

    def _facts(self, part: SourcePart, spill: write_events.DaySpill) -> PartFacts:
        # Before it is read: what is written meanwhile shows in the time next time.
        stat = part.path.stat()
        digest = write_events.digest_of_file(part.path)
        counts = self._spill(part.read, spill)
        return PartFacts(
            stat.st_size,
            stat.st_mtime_ns,
            digest,
            counts.num_rows,
            counts.num_filtered,
            dict(counts.faults),
            sorted(counts.days),
            counts.latest,
            counts.num_forgotten,
            counts.num_other_lines,
        )

    def _spill(self, read: Callable[[int], Iterator[Chunk]], spill: write_events.DaySpill) -> write_events.Counts:
        return write_events.spill_events(
            read(self.chunk_rows),
            self.raw,
            spill,
            now=self.now,
            quarantine=self.quarantine,
            progress=self.progress,
            forgotten=self.forgotten,
        )


def _take_away(ids: tuple[write_events.IdDays, write_events.IdDays], before: Before, days: set[dt.date]) -> None:
    """Takes days, as they were before, out of the counts of ids."""
    for day in sorted(days & before.days.keys()):
        path = before.folder / "events" / f"{day}.parquet"
        for counted, name in zip(ids, (columns.USER_ID, columns.ITEM_ID), strict=True):
            counted.add(pq.read_table(path, columns=[name]).column(0), -1)


def _stays(
    before: Before, written_again: set[dt.date], kept_rows: KeptRows, num_faults: int
) -> write_events.DaysBefore:
    """The days that stay; repeated rows lie behind all faults, day by day."""
    begins = _begins({day: facts.num_repeats for day, facts in sorted(before.days.items())})

    def repeats(day: dt.date) -> Iterator[pa.Table]:
        return kept_rows.read(num_faults + begins[day], before.days[day].num_repeats)

    return write_events.DaysBefore(before.folder / "events", before.days, before.days.keys() - written_again, repeats)


def _none_stays(before: Before | None) -> write_events.DaysBefore | None:
    """All days are written again; those that come out as they were are not."""
    return (
        None
        if before is None
        else write_events.DaysBefore(before.folder / "events", before.days, (), lambda day: iter(()))
    )


def _begins(numbers: Mapping[Key, int]) -> dict[Key, int]:
    """Where the rows of each begin, one after the other."""
    begins, total = {}, 0
    for key, number in numbers.items():
        begins[key] = total
        total += number
    return begins
