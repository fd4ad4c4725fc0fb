"""Reads a file, or a folder of files, as one table: Parquet by row batches, CSV by blocks of whole records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from features.sources import records
from features.sources.raw import Chunk, SourceError

MAX_BROKEN_AT_ONCE = 1_000_000  # wider than any damage; beyond it the delimiter is wrong
NO_DELIMITER = "\x1f"
PARQUET_SUFFIX = ".parquet"
CSV_SUFFIXES = (".csv", ".tsv")
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
SUFFIXES = f"{PARQUET_SUFFIX}, {', '.join(CSV_SUFFIXES)}, the latter also with {', '.join(CODECS)}"
UTF8_MARK = b"\xef\xbb\xbf"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


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

    def of(self, path: Path) -> Dialect:
        """The same for a file: `.tsv` has tabs where no other delimiter is configured."""
        is_tabbed = self.delimiter == "," and _without_codec(path.name)[0].endswith(".tsv")
        return replace(self, delimiter="\t") if is_tabbed else self


def column_names(path: Path, dialect: Dialect) -> list[str]:
    """Columns of a file, from its header or from the dialect.

    Raises:
        SourceError: The file is empty or cannot be parsed.
    """
    if dialect.names:
        return list(dialect.names)
    with _explained(path), _open(path) as stream:
        return _header(path, stream, dialect.of(path))[0]


def _header(path: Path, stream: Any, dialect: Dialect) -> tuple[list[str], bytes]:
    """Names in the first line, and what was read behind it."""
    header, behind = records.split_header(stream, delimiter=dialect.delimiter.encode(), quoted=dialect.quoted)
    if header.startswith((b"\xff\xfe", b"\xfe\xff")) or header[:2].count(0) == 1:
        raise SourceError(
            f"{path}: cannot be read: it is UTF-16 (as Excel writes 'Unicode text'), expected UTF-8; save it as "
            "'CSV UTF-8', or convert it with `iconv -f UTF-16 -t UTF-8`"
        )
    header = header.removeprefix(UTF8_MARK)
    header.decode(dialect.encoding)
    return list(_parse(header, dialect, None, None, []).column_names), behind


def read_delimited(
    path: Path, dialect: Dialect, *, wanted: Sequence[str], chunk_rows: int, name: str = ""
) -> Iterator[Chunk]:
    """Rows of a file in order, broken ones included.

    Args:
        path: The file; `.gz`, `.bz2` and `.zst` are decompressed.
        dialect: How it is delimited.
        wanted: Columns to read.
        chunk_rows: Most rows of a chunk.
        name: Of the file in chunks; its own if empty.

    Yields:
        Chunks of text columns; an empty field is null. Every file has one at least, which may have no rows.

    Raises:
        SourceError: The file cannot be parsed or is not in the dialect's encoding.
    """
    name = name or path.name
    if len(dialect.delimiter) > 1:
        lines = Dialect(NO_DELIMITER, quoted=False, encoding=dialect.encoding, names=("line",))
        for chunk in read_delimited(path, lines, wanted=["line"], chunk_rows=chunk_rows, name=name):
            yield _split_lines(chunk, dialect, wanted)
        return
    dialect = dialect.of(path)
    next_number, last = 1, None
    with _explained(path), _open(path) as opened:
        stream = records.CountedLines(opened)
        names, held = (list(dialect.names), b"") if dialect.names else _header(path, stream, dialect)
        framed = records.frame(
            stream,
            delimiter=dialect.delimiter.encode(),
            quoted=dialect.quoted,
            num_columns=len(names),
            held=held,
        )
        for block in framed:
            broken: list[tuple[int, str]] = []
            _check_encoding(path, dialect, block.whole, next_number)
            rows = _parse(block.whole, dialect, names, wanted, broken)
            at = [next_number - 1 + number for number, _ in broken]
            numbers = _numbers_of_whole_rows(next_number, rows.num_rows, at)
            next_number += rows.num_rows + len(broken)
            swallowed = [line.decode(dialect.encoding, "replace") for line in block.swallowed if line]
            at += range(next_number, next_number + len(swallowed))
            next_number += len(swallowed)
            texts = [text for _, text in broken] + swallowed
            for chunk in _merge(name, numbers, rows, at, texts, len(swallowed)).slices(chunk_rows):
                if last is not None:
                    yield last
                last = chunk
    if last is None:
        last = _merge(name, np.zeros(0, np.int64), _parse(b"", dialect, names, wanted, []), [], [], 0)
    yield replace(last, num_other_lines=stream.num_lines - (next_number - 1))


def _open(path: Path) -> Any:
    """The bytes of a file, decompressed."""
    codec = _without_codec(path.name)[1]
    file = pa.OSFile(str(path), "rb")
    return pa.CompressedInputStream(file, codec) if codec else file


def _without_codec(name: str) -> tuple[str, str | None]:
    """A file's name in lower case without the suffix of its compression, and the compression."""
    name = name.lower()
    for suffix, codec in CODECS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), codec
    return name, None


def _parse(
    data: bytes,
    dialect: Dialect,
    names: list[str] | None,
    wanted: Sequence[str] | None,
    broken: list[tuple[int, str]],
) -> pa.Table:
    """Rows of a block as text; those with another number of fields go to `broken`, with their number in the block."""
    if names is not None and not data.strip(b"\r\n"):
        return pa.table({name: pa.array([], pa.string()) for name in wanted or ()})

    def set_aside(row: Any) -> str:
        broken.append((row.number, row.text))
        return "skip" if len(broken) <= MAX_BROKEN_AT_ONCE else "error"

    # A block of its own and no reader of a stream: such a reader has threads that outlive it.
    return pacsv.read_csv(
        pa.BufferReader(data),
        pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names, encoding=dialect.encoding),
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


def _check_encoding(path: Path, dialect: Dialect, data: bytes, first: int) -> None:
    """Names the row of a block whose bytes are not in the encoding.

    Of a row with too many fields the parser would only lose it, and of a column that nothing uses say nothing.
    """
    if data.isascii():
        return
    try:
        data.decode(dialect.encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        is_inside = bool(before) and not before.endswith((b"\n", b"\r"))
        row = first + sum(1 for line in before.replace(b"\r", b"\n").split(b"\n") if line) - is_inside
        raise SourceError(
            f"{path}: cannot be read: invalid UTF8 data (byte 0x{data[error.start]:02x}) about row {row}, not counting "
            "the header; expected UTF-8. Save it as UTF-8, or convert it, for example with `iconv -f WINDOWS-1252 -t "
            "UTF-8`"
        ) from None


def _numbers_of_whole_rows(first: int, num_rows: int, broken: Sequence[int]) -> npt.NDArray[np.int64]:
    """Numbers of the next whole rows, counted from `first`, where the numbers in `broken` are taken."""
    offsets = first + np.arange(num_rows, dtype=np.int64)
    # The j-th broken row lies before a whole row when fewer than broken[j] - j - first whole rows come before it.
    whole_rows_before = np.asarray(broken, dtype=np.int64) - np.arange(len(broken))
    return offsets + np.searchsorted(whole_rows_before, offsets, side="right")


def _merge(
    name: str,
    numbers: npt.NDArray[np.int64],
    rows: pa.Table,
    broken: Sequence[int],
    broken_texts: Sequence[str],
    num_swallowed: int,
) -> Chunk:
    """Whole and broken rows in the order of the file; the last of the broken ones are those that a quote swallowed."""
    texts = pa.concat_arrays([pa.nulls(len(numbers), pa.string()), pa.array(broken_texts, pa.string())])
    total = len(numbers) + len(broken)
    swallowed = pa.array(np.arange(total) >= total - num_swallowed)
    chunk = Chunk(name, pa.array(np.concatenate([numbers, np.array(broken, np.int64)])), rows, texts, swallowed)
    if not broken:
        return chunk
    gaps = pa.table({column: pa.nulls(len(broken), pa.string()) for column in rows.column_names})
    chunk = replace(chunk, rows=pa.concat_tables([rows, gaps]))
    return chunk.take(pa.array(np.argsort(chunk.numbers.to_numpy(), kind="stable")))


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
    """Turns any error of a library into one that names the file."""
    try:
        yield
    except (SourceError, MemoryError):
        raise
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: cannot be read: its header has invalid UTF8 data ({error}); expected UTF-8. Save it as UTF-8"
        ) from error
    except records.RecordTooLongError as error:
        raise SourceError(
            f"{path}: cannot be read: {error}, which is the limit; shorten the text, or write the table as Parquet"
        ) from error
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        if path.name.lower().endswith(PARQUET_SUFFIX):
            expected = "not a Parquet file that is whole: {}. Write it again, or fetch it again"
        elif _without_codec(path.name)[1]:
            expected = "cannot be read: {}. The compressed file is damaged or not complete; fetch it again"
        else:
            expected = (
                "cannot be read: {}. Expected delimited text in the configured encoding with a line per row; check "
                "that the file is whole and that the delimiter is right"
            )
        found = str(error).rstrip(".") or type(error).__name__
        raise SourceError(f"{path}: {expected.format(found)}") from error


@dataclass(frozen=True)
class TableFile:
    """One of the files of a table.

    Attributes:
        path: The file.
        name: Path from the table's folder, with `/`.
        partition: Columns that the names of its folders give, as in `day=2024-01-02/`.
    """

    path: Path
    name: str
    partition: Mapping[str, str | None] = field(default_factory=dict)


def table_files(path: Path) -> tuple[list[TableFile], list[str]]:
    """The Parquet or CSV files of a table by name, those in subfolders too, and the names of all others.

    Names that begin with `.` or `_` are no data: editors, rsync, Spark and others leave them.

    Raises:
        SourceError: There are none.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; relative paths start where the command runs")
    if not path.is_dir():
        if not _is_readable(path.name):
            raise SourceError(f"{path}: neither Parquet nor CSV by its name; expected {SUFFIXES}")
        return [TableFile(path, path.name)], []
    with _explained(path):
        found = [file for file in path.rglob("*") if not file.is_dir() and not _is_hidden(file.relative_to(path))]
    names = sorted((file.relative_to(path).as_posix(), file) for file in found)
    files = [TableFile(file, name, _partition(name)) for name, file in names if _is_readable(name)]
    others = [name for name, _ in names if not _is_readable(name)]
    if not files:
        some = f" ({', '.join(others[:5])})" if others else ""
        raise SourceError(f"{path}: folder with {len(others)} other files{some}; expected {SUFFIXES}")
    return files, others


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in relative.parts)


def _is_readable(name: str) -> bool:
    return name.lower().endswith(PARQUET_SUFFIX) or _without_codec(name)[0].endswith(CSV_SUFFIXES)


def _partition(name: str) -> dict[str, str | None]:
    """Columns in the names of folders, as Hive and Spark write them."""
    pairs = [part.partition("=") for part in name.split("/")[:-1] if "=" in part]
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, _, value in pairs}


def file_columns(path: Path, dialect: Dialect) -> list[str]:
    """Columns of a file.

    Raises:
        SourceError: The file is empty or not of the type that its name suggests.
    """
    if not path.name.lower().endswith(PARQUET_SUFFIX):
        return column_names(path, dialect)
    with _explained(path):
        return list(pq.read_schema(path).names)


def file_kinds(path: Path, dialect: Dialect) -> dict[str, str]:
    """Column of a file -> its type as Arrow names it; always text for a CSV file."""
    if not path.name.lower().endswith(PARQUET_SUFFIX):
        return dict.fromkeys(column_names(path, dialect), "text")
    with _explained(path):
        return {field.name: str(field.type) for field in pq.read_schema(path)}


def read_file(
    path: Path, dialect: Dialect, *, wanted: Sequence[str], chunk_rows: int, name: str = ""
) -> Iterator[Chunk]:
    """Chunks of a file's wanted columns."""
    if not path.name.lower().endswith(PARQUET_SUFFIX):
        yield from read_delimited(path, dialect, wanted=wanted, chunk_rows=chunk_rows, name=name)
        return
    number = 1
    with _explained(path), pq.ParquetFile(path, metadata=_metadata(path)) as file:
        for batch in file.iter_batches(batch_size=chunk_rows, columns=list(wanted)):
            numbers = pa.array(np.arange(number, number + batch.num_rows, dtype=np.int64))
            none = pa.nulls(batch.num_rows, pa.string())
            yield Chunk(name or path.name, numbers, pa.table(batch), none, pa.repeat(False, batch.num_rows))
            number += batch.num_rows


def _metadata(path: Path) -> pq.FileMetaData:
    """A Parquet file's metadata; without the types that Arrow had when it wrote lists of one size.

    Arrow cannot read such lists back where some are null (apache/arrow issue 35692); as plain lists it can.
    """
    metadata = pq.read_metadata(path)
    if not any(pa.types.is_fixed_size_list(field.type) for field in metadata.schema.to_arrow_schema()):
        return metadata
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(end - 8)
        size = int.from_bytes(file.read(4), "little") + 8
        file.seek(end - size)
        footer = file.read().replace(b"ARROW:schema", b"ARROW-schema")
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))


def read_files(
    files: Sequence[TableFile], dialect: Dialect, *, columns: Mapping[str, str], chunk_rows: int
) -> Iterator[Chunk]:
    """Chunks of several files, one after the other; a column that a file lacks is null in its rows."""
    wanted = list(dict.fromkeys(columns.values()))
    for file in files:
        there = file_columns(file.path, dialect)
        own = [name for name in wanted if name in there]
        for chunk in read_file(file.path, dialect, wanted=own, chunk_rows=chunk_rows, name=file.name):
            rows = chunk.rows
            for name in wanted:
                if name not in own:
                    value = pa.scalar(file.partition.get(name), pa.string())
                    rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
            yield replace(chunk, rows=rows)
