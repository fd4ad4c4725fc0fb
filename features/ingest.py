"""Ingestion: raw events are read in chunks, validated, sorted into days and written as canonical tables.

The users and items tables have one row per id, sorted by id. `features/tables.py` shows what is written and reads it.

Memory: one chunk, the events of one day, the users and items tables with their declared columns, and the distinct ids.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.forgotten import NOBODY, Forgotten
from features.schema import Schema, Tower
from features.schema_changes import SchemaFacts
from features.sources.changed_files import Before, EventReader, EventsRead, Ledger
from features.sources.complete_journey import open_complete_journey
from features.sources.dated import write_dated
from features.sources.entities import entity_schema, read_entities, unmet_note, with_ids
from features.sources.lightgcn import open_lightgcn
from features.sources.movielens import open_movielens
from features.sources.quarantine import Quarantine, QuarantineError
from features.sources.raw import RawTable, Source, SourceError, nearest
from features.sources.summary import DayFacts, IngestSummary
from features.sources.tables import open_tables
from features.sources.write_events import digest_of_file, span_of
from features.tables import DATED_FILE, WITHDRAWN_FILE

OPENERS: dict[str, Callable[..., Source]] = {
    "complete_journey": open_complete_journey,
    "lightgcn": open_lightgcn,
    "movielens": open_movielens,
    "tables": open_tables,
}
__all__ = ["IngestSummary", "QuarantineError", "SourceError", "ingest", "open_source"]
BELOW_MIN_RATING, HIDDEN_PAST, FORGOTTEN = "below_min_rating", "hidden_past", "forgotten"


class SourceSettings(Protocol):
    """A source as configured: its kind, and pairs of the adapter's arguments and their values."""

    @property
    def kind(self) -> str:
        """One of `OPENERS`."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of name and value, the kind among them."""


def open_source(settings: SourceSettings, *, schema: Schema) -> Source:
    """Opens a source, checks its files and columns, and reads nothing more.

    Args:
        settings: Its kind and the keyword arguments of the adapter.
        schema: The declared columns.

    Returns:
        The dataset.

    Raises:
        SourceError: The kind is unknown, or a file or a column is missing.
    """
    if settings.kind not in OPENERS:
        raise SourceError(
            f"ingest.source.kind is {settings.kind!r}; did you mean {nearest(settings.kind, OPENERS)}? "
            f"Expected one of: {', '.join(OPENERS)}"
        )
    return OPENERS[settings.kind](schema=schema, **{name: value for name, value in settings if name != "kind"})


def ingest(
    source: Source,
    *,
    schema: Schema,
    out: Path,
    chunk_rows: int,
    max_quarantine_share: float,
    now: dt.datetime,
    progress: Callable[[int], None] | None = None,
    reuse: bool = True,
    forgotten: Forgotten = NOBODY,
) -> IngestSummary:
    """Reads a source into canonical tables. Same source and arguments, same bytes, independent of earlier runs.

    Where the events are several files, those that are as they were are not read again, unless a changed file has events
    of the same days. Day files that come out as they were are kept as they are.

    Args:
        source: As `open_source` found it.
        schema: The declared columns.
        out: Folder to write; what was there is replaced when everything else has succeeded.
        chunk_rows: Rows read at a time, at least 1; the tables do not depend on it.
        max_quarantine_share: Share of the rows of a table that may be set aside, from 0 to 1.
        now: Moment of the run, with a time zone; later events are set aside.
        progress: Told how many more event rows are done; rows that are not read again are not among them.
        reuse: Whether to use what `out` has; otherwise all is read.
        forgotten: Users whose rows are left out and counted, even if they are faulty: in quarantine they would be kept.

    Returns:
        The counts, which are also in `manifest.json`.

    Raises:
        QuarantineError: Too many rows were set aside; they are in `<out>.quarantine/`, and `out` is as it was.
        SourceError: A file cannot be read, or no event can be used.
        ValueError: `chunk_rows` is below 1, or `now` has no time zone.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows}; give at least 1")
    if now.tzinfo is None:
        raise ValueError(f"now is {now.isoformat()} without a time zone; give one, such as datetime.UTC")
    ledger = out.with_name(f"{out.name}.sources")
    # Another version of Arrow may write other bytes.
    kinds = f"{schema.kinds_of_events() or ''}{schema.event_columns or ''}"
    reading = f"{source.events.reading()} {kinds}{pa.__version__}{forgotten.digest()}"
    with _replacing(out) as folder:
        job = _Job(folder, out.with_name(f"{out.name}.quarantine"), chunk_rows, max_quarantine_share, now, forgotten)
        before = _read_before(out, ledger, reading) if reuse else None
        summary, read = job.run(source, schema, before, progress or (lambda done: None))
    if read.files:
        # Last: until it is written, the existing ledger describes other tables.
        Ledger(_identity(out), reading, read.files, read.ids).save(ledger)
    else:
        shutil.rmtree(ledger, ignore_errors=True)
    return summary


def _read_before(out: Path, ledger: Path, reading: str) -> Before | None:
    """What the earlier ingestion left; None where there is none, or one that had no digests of days."""
    manifest = out / "manifest.json"
    days = json.loads(manifest.read_text(encoding="utf-8")).get("days") if manifest.exists() else None
    if days is None:
        return None
    facts = {dt.date.fromisoformat(day): DayFacts(**found) for day, found in days.items()}
    return Before(out, facts, Ledger.load(ledger, tables=_identity(out), reading=reading))


def _identity(folder: Path) -> str:
    """Tells tables from others: SHA-256 over the manifest and the events set aside."""
    parts = [folder / "manifest.json", folder / "quarantine" / "events.parquet"]
    return hashlib.sha256("".join(digest_of_file(part) for part in parts).encode()).hexdigest()


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder next to `out` that replaces it when the block ends without an error."""
    folder, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("tmp", "old"))
    failed = out.with_name(f"{out.name}.quarantine")
    if old.exists() and not out.exists():
        # Killed between the two renames below.
        old.rename(out)
    for path in (folder, failed, old):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except QuarantineError:
        (folder / "quarantine").rename(failed)
        raise
    else:
        if out.exists():
            out.rename(old)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _digest(folder: Path, days: Mapping[dt.date, DayFacts]) -> str:
    """SHA-256 over names and bytes of the tables of a folder."""
    total = hashlib.sha256()
    for day in sorted(days):
        total.update(f"{day}.parquet".encode() + bytes.fromhex(days[day].digest))
    for path in filter(Path.exists, (folder / f"{name}.parquet" for name in ("items", "users", "dated"))):
        total.update(path.name.encode() + bytes.fromhex(digest_of_file(path)))
    return total.hexdigest()


@dataclass(frozen=True)
class _Job:
    """What every part of an ingestion needs; `failed` is where the quarantine goes when the job stops."""

    folder: Path
    failed: Path
    chunk_rows: int
    max_share: float
    now: dt.datetime
    forgotten: Forgotten

    def run(
        self, source: Source, schema: Schema, before: Before | None, progress: Callable[[int], None]
    ) -> tuple[IngestSummary, EventsRead]:
        """Reads users and items first: they are small, and their mistakes show early."""
        users, bad_users, num_forgotten = self._entities(source.users, schema, "user")
        items, bad_items, _ = self._entities(source.items, schema, "item")
        bad_dated = {} if source.dated is None else {"dated": self._dated(source.dated, schema)}
        offered = items.column(0)
        read, bad_events = self._events(source.events, schema, before, progress)
        span = span_of(self.folder / "events", read.days)
        reasons = [BELOW_MIN_RATING] if source.events.min_reward is not None else []
        reasons += [HIDDEN_PAST] if source.events.hidden_past is not None else []
        filtered = {" or ".join(reasons): read.num_filtered} if reasons else {}
        filtered |= {FORGOTTEN: read.num_forgotten} if self.forgotten else {}
        if span is None:
            raise SourceError(
                f"none of {read.num_rows:,} event rows can be used: {sum(bad_events.values()):,} were set aside and "
                f"{read.num_filtered:,} filtered; check the files and columns of ingest.source"
            )
        seen_users, seen_items = (ids.column("id").combine_chunks() for ids in read.ids)
        warnings = unmet_note("users", users, seen_users) + unmet_note("items", items, seen_items)
        users, num_added_users = with_ids(users, seen_users)
        items, num_added_items = with_ids(items, seen_items)
        if source.items is not None:
            gone = pc.invert(pc.is_in(items.column(0), value_set=offered.combine_chunks()))
            pq.write_table(items.select([0]).filter(gone), self.folder / WITHDRAWN_FILE, compression="zstd")
        pq.write_table(users, self.folder / "users.parquet", compression="zstd")
        pq.write_table(items, self.folder / "items.parquet", compression="zstd")
        tables = source.tables()
        summary = IngestSummary(
            rows_read=read.num_rows,
            rows_kept=sum(facts.num_events for facts in read.days.values()),
            filtered=filtered,
            quarantined={"events": bad_events, "users": bad_users, "items": bad_items, **bad_dated},
            num_users=users.num_rows,
            num_items=items.num_rows,
            num_added_users=num_added_users,
            num_added_items=num_added_items,
            num_days=len(read.days),
            days={str(day): facts for day, facts in read.days.items()},
            first_event=span[0],
            last_event=span[1],
            unused_columns={name: table.unused for name, table in tables.items()},
            content_digest=_digest(self.folder, read.days),
            num_forgotten_users=num_forgotten,
            lines_read=read.num_rows + read.num_other_lines,
            other_lines=read.num_other_lines,
            notes=warnings + tuple(note for table in tables.values() for note in table.notes),
        )
        (self.folder / "manifest.json").write_text(
            summary.to_json(SchemaFacts.of(source, schema).to_plain()), encoding="utf-8"
        )
        return summary, read

    def _entities(self, raw: RawTable | None, schema: Schema, tower: Tower) -> tuple[pa.Table, dict[str, int], int]:
        name, table, num_rows, num_forgotten = f"{tower}s", entity_schema(schema, tower).empty_table(), 0, 0
        # Items have ids of their own, which may look like those of users.
        forgotten = self.forgotten if name == "users" else NOBODY
        with Quarantine(self.folder / "quarantine" / f"{name}.parquet", name) as quarantine:
            if raw is not None:
                table, num_rows, num_forgotten = read_entities(
                    raw, schema, tower, chunk_rows=self.chunk_rows, quarantine=quarantine, forgotten=forgotten
                )
        self._check(quarantine, num_rows - num_forgotten, name)
        return table, quarantine.counts_by_reason(), num_forgotten

    def _dated(self, raw: RawTable, schema: Schema) -> dict[str, int]:
        with Quarantine(self.folder / "quarantine" / "dated.parquet", "dated") as quarantine:
            path = self.folder / DATED_FILE
            num_rows = write_dated(raw, schema, path=path, chunk_rows=self.chunk_rows, quarantine=quarantine)
        self._check(quarantine, num_rows, "dated")
        return quarantine.counts_by_reason()

    def _events(
        self, raw: RawTable, schema: Schema, before: Before | None, progress: Callable[[int], None]
    ) -> tuple[EventsRead, dict[str, int]]:
        with Quarantine(self.folder / "quarantine" / "events.parquet", "events") as quarantine:
            reader = EventReader(
                raw, self.folder, self.chunk_rows, self.now, quarantine, progress, schema, forgotten=self.forgotten
            )
            read = reader.read(before)
        self._check(quarantine, read.num_rows - read.num_forgotten, "events")
        return read, quarantine.counts_by_reason()

    def _check(self, quarantine: Quarantine, num_rows: int, name: str) -> None:
        quarantine.check(num_rows, max_share=self.max_share, kept_at=self.failed / f"{name}.parquet")
