"""Reads a file, or a folder of files, as one table: Parquet by row batches, CSV by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from features.sources.raw import Chunk, SourceError

BLOCK_BYTES = 4 << 20
MAX_BROKEN_AT_ONCE = 1_000_000  # wider than any damage; beyond it the delimiter is wrong, and memory would not do
NO_DELIMITER = "\x1f"


@dataclass(frozen=True)
class Dialect:
    """How a text file is delimited.

    Attributes:
        delimiter: One character, or several (then without quotes).
        quoted: Fields may be quoted, and quoted fields may hold line breaks.
        encoding: As Python names it.
        names: Columns of a file without header; empty where the first line names them.
    """

    delimiter: str = ","
    quoted: bool = True
    encoding: str = "utf-8"
    names: tuple[str, ...] = ()


def column_names(path: Path, dialect: Dialect) -> list[str]:
    """Columns of a file, from its header or from the dialect.

    Raises:
        SourceError: The file is empty or cannot be parsed.
    """
    if dialect.names:
        return list(dialect.names)
    with _explained(path), _open(path, dialect, None, []) as reader:
        return list(reader.schema.names)


def read_delimited(path: Path, dialect: Dialect, *, wanted: Sequence[str], chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a file in order, broken ones included.

    Args:
        path: The file; `.gz` and `.bz2` are decompressed.
        dialect: How it is delimited.
        wanted: Columns to read.
        chunk_rows: Most rows of a chunk.

    Yields:
        Chunks of text columns; an empty field is null.

    Raises:
        SourceError: The file cannot be parsed or is not in the dialect's encoding.
    """
    if len(dialect.delimiter) > 1:
        lines = Dialect(NO_DELIMITER, quoted=False, encoding=dialect.encoding, names=("line",))
        for chunk in read_delimited(path, lines, wanted=["line"], chunk_rows=chunk_rows):
            yield _split_lines(chunk, dialect, wanted)
        return
    broken: list[tuple[int, str]] = []
    next_number = 1
    with _explained(path), _open(path, dialect, wanted, broken) as reader:
        for batch in reader:
            numbers = _numbers_of_whole_rows(next_number, batch.num_rows, [number for number, _ in broken])
            next_number = int(numbers[-1]) + 1 if len(numbers) else next_number
            before = [row for row in broken if row[0] < next_number]
            broken[:] = broken[len(before) :]
            yield from _merge(path, numbers, pa.table(batch), before).slices(chunk_rows)
        empty = pa.table({name: pa.array([], pa.string()) for name in wanted})
        yield from _merge(path, np.empty(0, np.int64), empty, broken).slices(chunk_rows)


def _open(
    path: Path, dialect: Dialect, wanted: Sequence[str] | None, broken: list[tuple[int, str]]
) -> pacsv.CSVStreamingReader:
    header_rows = 0 if dialect.names else 1

    def set_aside(row: Any) -> str:
        broken.append((row.number - header_rows, row.text))
        return "skip" if len(broken) <= MAX_BROKEN_AT_ONCE else "error"

    return pacsv.open_csv(
        path,
        # Row numbers are known to the handler only without threads.
        pacsv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES, column_names=dialect.names or None, encoding=dialect.encoding
        ),
        pacsv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=dialect.quoted,
            invalid_row_handler=set_aside,
        ),
        pacsv.ConvertOptions(
            include_columns=list(wanted) if wanted else None,
            column_types={name: pa.string() for name in wanted or ()},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _numbers_of_whole_rows(first: int, num_rows: int, broken: Sequence[int]) -> npt.NDArray[np.int64]:
    """Numbers of the next whole rows, counted from `first`, where the numbers in `broken` are taken."""
    offsets = first + np.arange(num_rows, dtype=np.int64)
    # The j-th broken row lies before a whole row when fewer than broken[j] - j - first whole rows come before it.
    whole_rows_before = np.asarray(broken, dtype=np.int64) - np.arange(len(broken))
    return offsets + np.searchsorted(whole_rows_before, offsets, side="right")


def _merge(path: Path, numbers: npt.NDArray[np.int64], rows: pa.Table, broken: list[tuple[int, str]]) -> Chunk:
    """Whole and broken rows in the order of the file."""
    texts = pa.concat_arrays([pa.nulls(len(numbers), pa.string()), pa.array([t for _, t in broken], pa.string())])
    if not broken:
        return Chunk(path.name, pa.array(numbers), rows, texts)
    numbers = np.concatenate([numbers, np.array([number for number, _ in broken], np.int64)])
    gaps = pa.table({name: pa.nulls(len(broken), pa.string()) for name in rows.column_names})
    order = pa.array(np.argsort(numbers, kind="stable"))
    return Chunk(
        path.name, pa.array(numbers).take(order), pa.concat_tables([rows, gaps]).take(order), texts.take(order)
    )


def _split_lines(chunk: Chunk, dialect: Dialect, wanted: Sequence[str]) -> Chunk:
    line = chunk.rows.column("line").combine_chunks()
    fields = pc.split_pattern(line, dialect.delimiter)
    whole = pc.equal(pc.list_value_length(fields), len(dialect.names))
    # Padding makes every list long enough for list_element, even the shortest.
    padding = dialect.delimiter.join([""] * len(dialect.names))
    fields = pc.split_pattern(pc.if_else(whole, line, padding), dialect.delimiter)
    columns = {name: pc.list_element(fields, dialect.names.index(name)) for name in wanted}
    rows = pa.table({name: pc.if_else(pc.equal(text, ""), None, text) for name, text in columns.items()})
    return replace(chunk, rows=rows, broken=pc.if_else(whole, None, line))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an error of the parser into one that names the file."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{path}: cannot be read: {error}. Expected delimited text in the configured encoding with a line per row; "
            "check that the file is whole and that the delimiter is right"
        ) from error


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
        SourceError: The file is empty or not of the type that its name suggests.
    """
    if not path.name.endswith(PARQUET_SUFFIX):
        return column_names(path, dialect)
    try:
        return list(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path}: not a Parquet file: {error}. Write it again") from error


def file_kinds(path: Path, dialect: Dialect) -> dict[str, str]:
    """Column of a file -> its type as Arrow names it; always text for a CSV file."""
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
