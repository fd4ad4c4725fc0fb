"""Merging the many exposure files of a finished day into few, and removing old days.

A merged file names the files whose lists it has. It is on disk, whole, before the first of them is removed, and readers
leave out those that it names: killed at any moment, every list is read once, and the next call finishes. A day that
goes is renamed to a name that no reader looks at before any file of it is deleted.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import sync_folder
from features.forgotten import NOBODY, Forgotten, are_of
from serving.exposures.files import (
    COMPRESSION,
    MERGED,
    REPLACES,
    SCHEMA,
    day_folders,
    files_of,
    read_file,
    whole_file,
)

# Of the files that become one: taking a person out of it reads it whole.
MERGED_BYTES = 64 << 20
# Of Arrow: what is held while a file is written.
ROW_GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class Tidied:
    """What became of the days.

    Attributes:
        num_removed: Days that went.
        num_replaced: Files whose lists are in merged ones now.
        problems: What was left as it is, and why.
    """

    num_removed: int
    num_replaced: int
    problems: tuple[str, ...]


def tidy(
    folder: Path, *, today: dt.date, keep_days: int | None, forgotten: Forgotten = NOBODY, max_bytes: int = MERGED_BYTES
) -> Tidied:
    """Removes old days and merges the files of finished ones; no other process may do either at the same time.

    Servers may write meanwhile: only days before yesterday are merged, and what comes late to one is left for the next
    call. A day with a damaged file is left as it is and reported.

    Args:
        folder: Of the days; it need not be there.
        today: UTC.
        keep_days: How many days before today stay; None keeps all.
        forgotten: People whose lists are left out of merged files.
        max_bytes: Most bytes of files that become one.
    """
    num_removed, num_replaced = 0, 0
    problems: list[str] = []
    first_kept = dt.date.min if keep_days is None else today - dt.timedelta(days=keep_days)
    for day in day_folders(folder, end_day=first_kept):
        try:
            _remove(day)
            num_removed += 1
        except OSError as error:
            problems.append(str(error))
    for day in day_folders(folder, first_kept, today - dt.timedelta(days=1)):
        try:
            num_replaced += merge_day(day, forgotten=forgotten, max_bytes=max_bytes)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return Tidied(num_removed, num_replaced, tuple(problems))


def merge_day(day: Path, *, forgotten: Forgotten = NOBODY, max_bytes: int = MERGED_BYTES) -> int:
    """Merges the files of a day to which no server writes any more; returns how many were replaced now.

    Merged files come first when a day is read, and are not merged again: of a process, lists stay in order.

    Args:
        day: The folder.
        forgotten: People whose lists are left out.
        max_bytes: Most bytes of files that become one.

    Raises:
        ValueError: A file is damaged or has other columns.
        OSError: There is no room, or the folder cannot be written to.
    """
    remove_replaced(day)
    merged, parts, _ = files_of(day)
    number = 1 + max((int(path.stem.removeprefix(MERGED)) for path in merged), default=-1)
    num_replaced = 0
    for group in _groups(parts, max_bytes):
        if len(group) > 1:
            _merge(group, day / f"{MERGED}{number:06}.parquet", forgotten)
            number += 1
            num_replaced += len(group)
    return num_replaced


def remove_replaced(day: Path) -> None:
    """Removes files of a day whose lists a merged one has: left by a merge that was killed."""
    for path in files_of(day)[2]:
        path.unlink(missing_ok=True)


def _groups(parts: Sequence[Path], max_bytes: int) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for part in parts:
        own = part.stat().st_size
        if group and size + own > max_bytes:
            yield group
            group, size = [], 0
        group.append(part)
        size += own
    yield group


def _merge(parts: Sequence[Path], path: Path, forgotten: Forgotten) -> None:
    schema = SCHEMA.with_metadata({REPLACES: json.dumps([part.name for part in parts])})
    with whole_file(path) as file, pq.ParquetWriter(file, schema, compression=COMPRESSION) as writer:
        for table in _tables(parts, forgotten):
            writer.write_table(table)
    # Else a power failure could keep the removals and lose the name.
    sync_folder(path.parent)
    for part in parts:
        part.unlink()


def _tables(parts: Sequence[Path], forgotten: Forgotten) -> Iterator[pa.Table]:
    """The lists of some files, in their order, in tables of some size."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for part in parts:
        for batch in read_file(part):
            if not batch.schema.equals(SCHEMA):
                raise ValueError(
                    f"{part}: has the columns {_told(batch.schema)}; expected {_told(SCHEMA)}; move it away"
                )
            if forgotten:
                batch = batch.filter(pa.array(~are_of(forgotten, batch.column("user_id"))))
            waiting.append(batch)
            size += batch.nbytes
            if size >= ROW_GROUP_BYTES:
                yield pa.Table.from_batches(waiting, SCHEMA)
                waiting, size = [], 0
    yield pa.Table.from_batches(waiting, SCHEMA)


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _remove(day: Path) -> None:
    gone = day.with_name(f".{day.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    day.rename(gone)
    sync_folder(day.parent)
    shutil.rmtree(gone)
