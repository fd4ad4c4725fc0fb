"""How is a file, or a folder of files, read as one table? Parquet by row batches, CSV by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.sources.delimited import Dialect, column_names, read_delimited
from features.sources.raw import Chunk, SourceError

PARQUET_SUFFIX = ".parquet"
CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2")


def table_files(path: Path) -> list[Path]:
    """The Parquet or CSV files of a table, by name.

    Raises:
        SourceError: There are none.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; relative paths start where the command runs")
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in found if file.name.endswith((PARQUET_SUFFIX, *CSV_SUFFIXES))]
    if not files:
        what = f"folder with {len(found)} other files" if path.is_dir() else "neither Parquet nor CSV by its name"
        raise SourceError(f"{path}: {what}; expected {PARQUET_SUFFIX} or {', '.join(CSV_SUFFIXES)}")
    return files


def file_columns(path: Path, dialect: Dialect) -> list[str]:
    """Columns of a file.

    Raises:
        SourceError: The file is empty or not what its name says.
    """
    if not path.name.endswith(PARQUET_SUFFIX):
        return column_names(path, dialect)
    try:
        return list(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path}: not a Parquet file: {error}. Write it again") from error


def file_kinds(path: Path, dialect: Dialect) -> dict[str, str]:
    """Column of a file -> its type as Arrow names it; text in a CSV file, whatever it holds."""
    if not path.name.endswith(PARQUET_SUFFIX):
        return dict.fromkeys(column_names(path, dialect), "text")
    return {field.name: str(field.type) for field in pq.read_schema(path)}


def read_file(path: Path, dialect: Dialect, *, wanted: Sequence[str], chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of a file's wanted columns."""
    if not path.name.endswith(PARQUET_SUFFIX):
        yield from read_delimited(path, dialect, wanted=wanted, chunk_rows=chunk_rows)
        return
    number = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=chunk_rows, columns=list(wanted)):
            numbers = pa.array(np.arange(number, number + batch.num_rows, dtype=np.int64))
            yield Chunk(path.name, numbers, pa.table(batch), pa.nulls(batch.num_rows, pa.string()))
            number += batch.num_rows


def read_files(
    paths: Sequence[Path], dialect: Dialect, *, columns: Mapping[str, str], chunk_rows: int
) -> Iterator[Chunk]:
    """Chunks of several files, one after the other."""
    wanted = list(dict.fromkeys(columns.values()))
    for path in paths:
        yield from read_file(path, dialect, wanted=wanted, chunk_rows=chunk_rows)
