"""Dated facts of items: what is true of an item from one day to another, such as a promotion and its discount."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import columns
from features.kinds import Storage, stored_as
from features.schema import ARROW_TYPES, Schema
from features.sources.entities import validate_rows
from features.sources.quarantine import SOURCE, SOURCE_ROW, Quarantine, Reason
from features.sources.raw import RawTable

VALIDITY = (columns.FIRST_DAY, columns.LAST_DAY)
NO_END = np.datetime64("9999-12-31", "D")
_DAY_SECONDS = 86_400


def dated_schema(schema: Schema) -> pa.Schema:
    """Arrow schema of `dated.parquet`: item, first and last day, declared columns."""
    # Numbers as they came: what reads them rounds.
    types = {**ARROW_TYPES, Storage.FLOAT: pa.float64()}
    declared = [(name, types[stored_as(kinds)]) for name, kinds in schema.dated_columns.items()]
    return pa.schema([(columns.ITEM_ID, pa.string()), *((name, pa.date32()) for name in VALIDITY), *declared])


def write_dated(table: RawTable, schema: Schema, *, path: Path, chunk_rows: int, quarantine: Quarantine) -> int:
    """Reads dated facts and writes them in the order of the source; memory: one chunk.

    Args:
        table: The raw table.
        schema: The declared columns.
        path: The Parquet file to write.
        chunk_rows: Rows read at a time.
        quarantine: Gets rows without an item, without a first day or with a last day before it, and rows with values
            that are not of their column's kind.

    Returns:
        Number of rows read.

    Raises:
        SourceError: A column has a type that cannot be read.
    """
    target = dated_schema(schema)
    moments = [pa.field(name, pa.int64()) for name in VALIDITY]
    traced = pa.schema(
        [target.field(0), *moments, *list(target)[3:], pa.field(SOURCE, pa.string()), pa.field(SOURCE_ROW, pa.int64())]
    )
    kinds = {**dict.fromkeys(VALIDITY, ("timestamp",)), **schema.dated_columns}
    num_rows = 0
    with pq.ParquetWriter(path, target, compression="zstd") as writer:
        for chunk in table.read(chunk_rows):
            found = validate_rows(chunk, table, traced, kinds, quarantine)
            first, last = (found.column(name) for name in VALIDITY)
            wrong = pc.or_(pc.is_null(first), pc.fill_null(pc.less(last, first), False))
            quarantine.add_canonical(found.filter(wrong), Reason.NO_VALIDITY)
            writer.write_table(_with_days(found.filter(pc.invert(wrong)), target))
            num_rows += chunk.rows.num_rows
    return num_rows


def _with_days(found: pa.Table, target: pa.Schema) -> pa.Table:
    """Rows with the days that their moments lie in; without a last day, a fact has no end."""
    for place, name in enumerate(VALIDITY, start=1):
        seconds = found.column(name)
        days = (seconds.fill_null(0).to_numpy() // _DAY_SECONDS).astype("datetime64[D]")
        days = np.where(seconds.is_null().to_numpy(), NO_END, days)
        found = found.set_column(place, name, pa.array(days, pa.date32()))
    return found.select(target.names).cast(target)
