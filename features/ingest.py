"""How do raw events become canonical tables? Read in chunks, judged, sorted into days, written once.

`features/tables.py` shows what is written and reads it. Memory: one chunk, the events of one day, the users and items
tables with their declared columns, and the distinct ids.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.quarantine import Quarantine, QuarantineError
from features.schema import Schema
from features.sources.day_files import DaySpill
from features.sources.entities import entity_schema, read_entities, with_ids
from features.sources.opening import open_source
from features.sources.raw import RawTable, Source, SourceError
from features.sources.summary import IngestSummary
from features.sources.write_events import WrittenDays, spill_events, write_days

__all__ = ["IngestSummary", "QuarantineError", "SourceError", "ingest", "open_source"]

BELOW_MIN_RATING = "below_min_rating"


def ingest(
    source: Source,
    *,
    schema: Schema,
    out: Path,
    chunk_rows: int,
    max_quarantine_share: float,
    now: dt.datetime,
    progress: Callable[[int], None] | None = None,
) -> IngestSummary:
    """Reads a source into canonical tables. Same source and arguments, same bytes.

    Args:
        source: As `open_source` found it.
        schema: The declared columns.
        out: Folder to write; what was there is replaced when everything else has succeeded.
        chunk_rows: Rows read at a time, at least 1; the tables do not depend on it.
        max_quarantine_share: Share of the rows of a table that may be set aside, from 0 to 1.
        now: Moment of the run, with a time zone; later events are set aside.
        progress: Told how many more event rows are done.

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
    with _replacing(out) as folder:
        job = _Job(folder, out.with_name(f"{out.name}.quarantine"), chunk_rows, max_quarantine_share, now)
        return job.run(source, schema, progress or (lambda done: None))


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends without an error."""
    folder = out.with_name(f".{out.name}.tmp")
    failed = out.with_name(f"{out.name}.quarantine")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(failed, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except QuarantineError:
        (folder / "quarantine").rename(failed)
        raise
    else:
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest(folder: Path) -> str:
    """SHA-256 over names and bytes of the tables of a folder."""
    total = hashlib.sha256()
    for path in [*sorted((folder / "events").iterdir()), folder / "items.parquet", folder / "users.parquet"]:
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class _Job:
    """What every part of an ingestion needs; `failed` is where the quarantine goes when the job stops."""

    folder: Path
    failed: Path
    chunk_rows: int
    max_share: float
    now: dt.datetime

    def run(self, source: Source, schema: Schema, progress: Callable[[int], None]) -> IngestSummary:
        """Reads users and items first: they are small, and their mistakes show early."""
        users, bad_users = self._entities(source.users, entity_schema(schema, "user"), "users")
        items, bad_items = self._entities(source.items, entity_schema(schema, "item"), "items")
        num_rows, filtered, bad_events, written = self._events(source.events, progress)
        if written.span is None:
            raise SourceError(
                f"none of {num_rows:,} event rows can be used: {sum(bad_events.values()):,} were set aside and "
                f"{sum(filtered.values()):,} filtered; check the files and columns of ingest.source"
            )
        users, num_added_users = with_ids(users, written.user_ids)
        items, num_added_items = with_ids(items, written.item_ids)
        pq.write_table(users, self.folder / "users.parquet", compression="zstd")
        pq.write_table(items, self.folder / "items.parquet", compression="zstd")
        tables = {"events": source.events, "users": source.users, "items": source.items}
        summary = IngestSummary(
            rows_read=num_rows,
            rows_kept=written.num_rows,
            filtered=filtered,
            quarantined={"events": bad_events, "users": bad_users, "items": bad_items},
            num_users=users.num_rows,
            num_items=items.num_rows,
            num_added_users=num_added_users,
            num_added_items=num_added_items,
            num_days=written.num_days,
            first_event=written.span[0],
            last_event=written.span[1],
            unused_columns={name: table.unused for name, table in tables.items() if table is not None},
            content_digest=_digest(self.folder),
        )
        (self.folder / "manifest.json").write_text(summary.to_json(), encoding="utf-8")
        return summary

    def _entities(self, raw: RawTable | None, target: pa.Schema, name: str) -> tuple[pa.Table, dict[str, int]]:
        table, num_rows = target.empty_table(), 0
        with Quarantine(self.folder / "quarantine" / f"{name}.parquet", name) as quarantine:
            if raw is not None:
                table, num_rows = read_entities(raw, target, chunk_rows=self.chunk_rows, quarantine=quarantine)
        self._check(quarantine, num_rows, name)
        return table, quarantine.counts_by_reason()

    def _events(
        self, raw: RawTable, progress: Callable[[int], None]
    ) -> tuple[int, dict[str, int], dict[str, int], WrittenDays]:
        scratch = self.folder / "scratch.arrow"
        with Quarantine(self.folder / "quarantine" / "events.parquet", "events") as quarantine:
            spill = DaySpill(scratch)
            num_rows, num_filtered = spill_events(
                raw, spill, chunk_rows=self.chunk_rows, now=self.now, quarantine=quarantine, progress=progress
            )
            written = write_days(spill, self.folder / "events", quarantine=quarantine)
        scratch.unlink()
        self._check(quarantine, num_rows, "events")
        filtered = {} if raw.min_reward is None else {BELOW_MIN_RATING: num_filtered}
        return num_rows, filtered, quarantine.counts_by_reason(), written

    def _check(self, quarantine: Quarantine, num_rows: int, name: str) -> None:
        quarantine.check(num_rows, max_share=self.max_share, kept_at=self.failed / f"{name}.parquet")
