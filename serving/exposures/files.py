"""Exposure files: the lists that users got, as Parquet files of a day.

    <folder>/day=YYYY-MM-DD/<process>-<number>.parquet     by the day of the list, UTC
    <folder>/day=YYYY-MM-DD/merged-<number>.parquet        several of them, which it names (`serving.exposures.merge`)

A file is there whole or not at all; one that a merged file names is not read. Within the files of a process, lists come
in the order in which they were answered with; between processes there is no order but by `moment`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

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
