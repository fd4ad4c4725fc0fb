"""Tables of other systems: Parquet or CSV, columns by any of their usual names, and what in them cannot be used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.report import Problem
from features import columns
from features.sources.files import Dialect, file_columns, read_file
from features.sources.values import TIME_FORMS, to_ids, to_microseconds, to_numbers

CHUNK_ROWS = 250_000
NUM_ROWS = 5
"""Rows that a report names of each kind of problem."""


def read_table(path: Path, names: Mapping[str, Sequence[str]], *, optional: Sequence[str] = ()) -> pa.Table:
    """Reads the columns that are needed.

    Args:
        path: `.parquet`, or anything else as CSV with a header.
        names: Column of the result -> other names that it may have in the file.
        optional: Columns that are taken where they are there.

    Returns:
        The columns by their first names, in this order; those of a CSV file as text.

    Raises:
        ValueError: The file is not there, cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected Parquet or CSV with the columns {', '.join(names)}")
    dialect = Dialect()
    there = file_columns(path, dialect)
    found = {}
    for name, others in names.items():
        own = [other for other in (name, *others) if other in there]
        if not own:
            raise ValueError(
                f"{path}: has the columns {', '.join(there)}; expected {name}"
                f"{f' (or {chr(32).join(others)})' if others else ''}"
            )
        found[name] = own[0]
    found |= {name: name for name in optional if name in there}
    wanted = list(dict.fromkeys(found.values()))
    parts = []
    for chunk in read_file(path, dialect, wanted=wanted, chunk_rows=CHUNK_ROWS):
        for number, line in zip(chunk.numbers.to_pylist(), chunk.broken.to_pylist(), strict=True):
            if line is not None:
                raise ValueError(
                    f"{path}: row {number} is no row of {len(there)} fields, or in a quote that is not closed: "
                    f"{line[:80]!r}; correct the file"
                )
        parts.append(chunk.rows)
    table = pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in wanted})
    return pa.table({name: table.column(raw) for name, raw in found.items()})


def ids_of(path: Path, table: pa.Table, name: str) -> pa.Array:
    """The ids of a column as ingestion writes them: [n] string, null where there is none that can be used."""
    ids, faulty = to_ids(table.column(name), f"{path}, column {name!r}")
    return pc.if_else(faulty, None, ids)


def moments_of(path: Path, table: pa.Table, name: str = columns.TIMESTAMP) -> npt.NDArray[np.int64]:
    """The moments of a column as ingestion reads them: [n] int64 microseconds, the least integer for null.

    Raises:
        ValueError: There is something that is no moment.
    """
    raw = table.column(name)
    found = to_microseconds(raw, "s")
    wrong = np.flatnonzero(pc.and_(pc.is_null(found), pc.is_valid(raw.combine_chunks())).to_numpy(zero_copy_only=False))
    if len(wrong):
        raise ValueError(
            f"{path}: column {name!r} has {raw[int(wrong[0])].as_py()!r} in row {wrong[0] + 1}, which is no moment; "
            f"expected {TIME_FORMS}, UTC where no zone is given"
        )
    return np.asarray(found.fill_null(np.iinfo(np.int64).min).to_numpy(zero_copy_only=False), np.int64)


def microseconds_of(day: dt.date) -> int:
    """The first moment of a day, UTC, microseconds since 1970."""
    return columns.seconds_of(day) * 1_000_000


def numbers_of(path: Path, table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """The numbers of a column: [n] float64, nan where there is none.

    Raises:
        ValueError: Nothing in it is a number.
    """
    found, wrong = to_numbers(table.column(name), f"{path}, column {name!r}")
    if pc.any(wrong).as_py() and not found.is_valid().true_count:
        row = int(np.flatnonzero(wrong.to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"{path}: column {name!r} is not of numbers: row {row + 1} has {table.column(name)[row].as_py()!r}"
        )
    return np.asarray(found.fill_null(np.nan).to_numpy(zero_copy_only=False), np.float64)


def refuse_useless(
    path: Path, num_rows: int, problems: Sequence[Problem], examples: Mapping[str, tuple[pa.Array, pa.Array]]
) -> None:
    """Refuses a file of which nothing can be used.

    Args:
        path: The file.
        num_rows: Its rows.
        problems: What is wrong with them.
        examples: What an id is of -> the ids of the file, those of the tables.

    Raises:
        ValueError: Always; shows an id of the file beside one of the tables.
    """
    counts = ", ".join(f"{problem.count:,} {problem.kind}" for problem in problems) or "it is empty"
    shown = [
        f"{what} of the file such as {_first(theirs)}, of the tables such as {_first(ours)}"
        for what, (theirs, ours) in examples.items()
    ]
    raise ValueError(
        f"{path}: none of its {num_rows:,} rows can be used: {counts}. It has {'; '.join(shown)}. Write ids as the "
        "tables have them"
    )


def _first(ids: pa.Array) -> str:
    known = ids.drop_null()
    return repr(known[0].as_py()) if len(known) else "(none)"


def rows_of(values: pa.Array | pa.ChunkedArray, order: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Place of each value in an order, -1 where it is not there: int64."""
    if isinstance(order, pa.ChunkedArray):
        order = order.combine_chunks()
    found = pc.fill_null(pc.index_in(values, value_set=order), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def problem_of(kind: str, rows: npt.NDArray[np.int64]) -> tuple[Problem, ...]:
    """A problem with the numbers of its first rows; none where there are no rows."""
    return (Problem(kind, len(rows), tuple(rows[:NUM_ROWS].tolist())),) if len(rows) else ()


def set_aside(
    bad: Mapping[str, npt.NDArray[np.bool_]], numbers: npt.NDArray[np.int64]
) -> tuple[tuple[Problem, ...], npt.NDArray[np.bool_]]:
    """Counts each row that cannot be used once, by the first thing that is wrong with it.

    Args:
        bad: What is wrong -> [n] bool, where.
        numbers: [n] int64, numbers of the rows, for the report.

    Returns:
        The problems, and [n] bool, which rows can be used.
    """
    problems: list[Problem] = []
    usable = np.ones(len(numbers), np.bool_)
    for kind, which in bad.items():
        problems += problem_of(kind, numbers[which & usable])
        usable &= ~which
    return tuple(problems), usable
