"""Exposure files: the lists that users got, as Parquet files of a day; days that are over are merged, old ones removed.

    <folder>/day=YYYY-MM-DD/<process>-<number>.parquet     by the day of the list, UTC
    <folder>/day=YYYY-MM-DD/merged-<number>.parquet        several of them, which it names

A file is there whole or not at all; one that a merged file names is not read. Within the files of a process, lists come
in the order in which they were answered with; between processes there is no order but by `moment`.

A merged file is on disk, whole, before the first of those that it names is removed: killed at any moment, every list is
read once, and the next call finishes. A day that goes is renamed to a name that no reader looks at before any file of
it is deleted.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.files import json_text, sync_folder
from features.forgotten import NOBODY, Forgotten, are_of

DAY = "day="
MERGED = "merged-"
# In the metadata of a merged file: names of the files whose lists it has.
REPLACES = b"twinspire.replaces"
ITEM_IDS = "item_ids"
SCHEMA = pa.schema(
    [
        ("moment", pa.timestamp("us", "UTC")),
        ("user_id", pa.string()),
        ("arm", pa.string()),
        ("bundle_version", pa.string()),
        ("retriever", pa.string()),
        ("k", pa.int32()),
        ("reasons", pa.list_(pa.string())),
        (ITEM_IDS, pa.list_(pa.string())),
    ]
)
BATCH_ROWS = 10_000
COMPRESSION = "zstd"
# Strings that are turned into Arrow's in one call, which lets no other thread run meanwhile: half a millisecond.
CALL_ITEMS = 10_000
# Of the files that become one: taking a person out of it reads it whole.
MERGED_BYTES = 64 << 20
# Of Arrow: what is held while a file is written.
ROW_GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class Exposure:
    """A list that a user got."""

    moment: float
    """Unix seconds."""
    user_id: str
    arm: str
    bundle_version: str
    retriever: str
    k: int
    """Length that was asked for; the list is shorter where there are not more items."""
    reasons: Sequence[str]
    """Why the list is not the arm's plain one, such as `no_history`; nothing where it is."""
    item_ids: Sequence[str]
    """Best first."""

    @property
    def day(self) -> dt.date:
        """UTC."""
        return dt.datetime.fromtimestamp(self.moment, dt.UTC).date()

    @property
    def size(self) -> int:
        """What it takes of a queue: one, and one for each item."""
        return 1 + len(self.item_ids)


def to_table(exposures: Sequence[Exposure]) -> pa.Table:
    """The rows of some exposures, in their order."""
    batches, part, size = [], [], 0
    for exposure in exposures:
        part.append(exposure)
        size += exposure.size
        if size >= CALL_ITEMS:
            batches.append(_batch(part))
            part, size = [], 0
    return pa.Table.from_batches([*batches, _batch(part)], SCHEMA)


def write_exposures(table: pa.Table, path: Path) -> None:
    """Writes a file whole or not at all, on disk before this returns; its folder is made if it is not there.

    Raises:
        OSError: There is no room, or the folder cannot be written to; what the file held stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        pq.write_table(table, file, compression=COMPRESSION)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name once it is on disk; if anything is raised, nothing has changed."""
    # Another temporary name than that of the erasure of a person from the same file.
    temporary = path.with_name(f".{path.stem}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def exposure_files(folder: Path, first_day: dt.date = dt.date.min, end_day: dt.date = dt.date.max) -> list[Path]:
    """The files of the days from `first_day` to the one before `end_day`, in order; none without the folder.

    Raises:
        ValueError: A merged file is damaged.
    """
    days = day_folders(folder, first_day, end_day)
    return [file for day in days for files in files_of(day)[:2] for file in files]


def day_folders(folder: Path, first_day: dt.date = dt.date.min, end_day: dt.date = dt.date.max) -> list[Path]:
    """The folders of the days from `first_day` to the one before `end_day`, in order."""
    days = [(day, path) for path in folder.glob(f"{DAY}*") if (day := _day_of(path)) is not None]
    return [path for day, path in sorted(days) if first_day <= day < end_day]


def files_of(day: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The files of a day's folder: merged ones, others, and others that are not to be read, as a merged one has them.

    Raises:
        ValueError: A merged file is damaged.
    """
    files = sorted(day.glob("*.parquet"))
    merged = [path for path in files if path.name.startswith(MERGED)]
    parts = [path for path in files if not path.name.startswith(MERGED)]
    # Of files alone there is nothing to ask, nor of merged ones alone.
    replaced = {name for path in merged for name in _replaced_by(path)} if parts else set()
    return (
        merged,
        [path for path in parts if path.name not in replaced],
        [path for path in parts if path.name in replaced],
    )


def are_exposures(folder: Path) -> bool:
    """Whether a folder holds lists by day, and not pairs of users and items for instance."""
    files = exposure_files(folder)
    return bool(files) and ITEM_IDS in pq.read_schema(files[0]).names


def read_exposures(
    folder: Path, first_day: dt.date, end_day: dt.date, *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Streams the lists of some days, one file after the other.

    Args:
        folder: Such as `runs/<dataset>/exposures`.
        first_day: UTC.
        end_day: The day after the last one.
        columns: Of `SCHEMA`; None takes all.

    Yields:
        At most `BATCH_ROWS` rows; days rise.

    Raises:
        ValueError: The folder is not there, or a file is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: does not exist; a server with serving.log_exposures makes it")
    for path in exposure_files(folder, first_day, end_day):
        yield from read_file(path, columns=columns)


def read_file(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Streams the lists of one file.

    Raises:
        ValueError: It is damaged, or not there any more.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns))
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from None
    except FileNotFoundError:
        raise ValueError(
            f"{path}: is gone since it was listed, merged or removed by a nightly run; read again"
        ) from None


def _batch(exposures: Sequence[Exposure]) -> pa.RecordBatch:
    moments = pa.array([round(exposure.moment * 1e6) for exposure in exposures], pa.int64())
    others = [
        pa.array([getattr(exposure, field.name) for exposure in exposures], field.type) for field in list(SCHEMA)[1:]
    ]
    return pa.RecordBatch.from_arrays([moments.cast(SCHEMA.field(0).type), *others], schema=SCHEMA)


def _replaced_by(merged: Path) -> list[str]:
    try:
        found: list[str] = json.loads(pq.read_metadata(merged).metadata[REPLACES])
    except pa.ArrowInvalid as error:
        raise _damaged(merged, error) from None
    return found


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: cannot be read ({error}); remove it to continue without its lists")


def _day_of(path: Path) -> dt.date | None:
    try:
        return dt.date.fromisoformat(path.name.removeprefix(DAY))
    except ValueError:
        return None


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
    schema = SCHEMA.with_metadata({REPLACES: json_text([part.name for part in parts])})
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
