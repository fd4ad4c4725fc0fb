"""Tables of other systems: Parquet or CSV, columns by any of their usual names, and what in them cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from evaluation.report import Problem

NUM_ROWS = 5
"""Rows that a report names of each kind of problem."""


def read_table(path: Path, names: Mapping[str, Sequence[str]], *, optional: Sequence[str] = ()) -> pa.Table:
    """Reads the columns that are needed.

    Args:
        path: `.parquet`, or anything else as CSV with a header.
        names: Column of the result -> other names that it may have in the file.
        optional: Columns that are taken where they are there.

    Returns:
        The columns by their first names, in this order.

    Raises:
        ValueError: The file is not there, cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected Parquet or CSV with the columns {', '.join(names)}")
    texts = {name: pa.string() for key, others in names.items() for name in (key, *others) if key.endswith("_id")}
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=texts, strings_can_be_null=True))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix or 'CSV'}: {error}") from None
    found = {}
    for name, others in names.items():
        there = [other for other in (name, *others) if other in table.column_names]
        if not there:
            raise ValueError(
                f"{path}: has the columns {', '.join(table.column_names)}; expected {name}"
                f"{f' (or {chr(32).join(others)})' if others else ''}"
            )
        found[name] = table.column(there[0])
    found |= {name: table.column(name) for name in optional if name in table.column_names}
    return pa.table(found)


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
