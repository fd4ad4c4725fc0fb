"""The users or items table of a source: one row per id, sorted by id."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.forgotten import NOBODY, Forgotten
from features.kinds import Storage, stored_as
from features.schema import ENTITY_KEY, Schema, Tower
from features.sources.events import SOURCE, SOURCE_ROW, first_fault, split_repeats
from features.sources.quarantine import Quarantine, Reason
from features.sources.raw import Chunk, RawTable
from features.sources.values import to_numbers, to_text, without


def entity_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of `users.parquet` or `items.parquet`: id, name of an item, declared columns."""
    head = [ENTITY_KEY[tower], *([columns.ITEM_NAME] if tower == "item" else [])]
    declared = [
        (name, pa.float64() if stored_as(kinds) == Storage.FLOAT else pa.string())
        for name, kinds in schema.columns_of(tower).items()
    ]
    return pa.schema([*((name, pa.string()) for name in head), *declared])


def read_entities(
    table: RawTable, target: pa.Schema, *, chunk_rows: int, quarantine: Quarantine, forgotten: Forgotten = NOBODY
) -> tuple[pa.Table, int, int]:
    """Reads a users or items table; its declared columns are held in memory as a whole.

    Args:
        table: The raw table.
        target: Its canonical schema; the first column is the id.
        chunk_rows: Rows read at a time.
        quarantine: Gets rows without id, with text in a numeric column, and all but the first of an id.
        forgotten: Ids whose rows are left out, unseen.

    Returns:
        One row per id, sorted by id; number of rows read; how many of those were left out.

    Raises:
        SourceError: A column has a type that cannot be read.
    """
    traced = pa.schema([*target, pa.field(SOURCE, pa.string()), pa.field(SOURCE_ROW, pa.int64())])
    parts = [traced.empty_table()]
    num_rows = num_forgotten = 0
    for read in table.read(chunk_rows):
        chunk = without(read, table.columns[target.names[0]], forgotten) if forgotten else read
        parts.append(_validate(chunk, table, traced, quarantine))
        num_rows += read.rows.num_rows
        num_forgotten += read.rows.num_rows - chunk.rows.num_rows
    kept, repeats = split_repeats(pa.concat_tables(parts), [target.names[0]])
    quarantine.add_repeats(repeats, Reason.DUPLICATE_ID)
    return kept.select(target.names), num_rows, num_forgotten


def _validate(chunk: Chunk, table: RawTable, traced: pa.Schema, quarantine: Quarantine) -> pa.Table:
    no_number = pa.repeat(False, chunk.rows.num_rows)
    arrays: list[pa.Array] = []
    for field in traced:
        if field.name == SOURCE:
            arrays.append(pa.repeat(chunk.file, chunk.rows.num_rows))
        elif field.name == SOURCE_ROW:
            arrays.append(chunk.numbers)
        elif field.name not in table.columns:
            arrays.append(pa.nulls(chunk.rows.num_rows, field.type))
        else:
            raw = table.columns[field.name]
            array, wrong = _read(chunk.rows.column(raw), field.type, f"{chunk.file}, column {raw!r}")
            arrays.append(array)
            no_number = pc.or_(no_number, wrong)
    masks = {
        Reason.OPEN_QUOTE: chunk.swallowed.to_numpy(zero_copy_only=False),
        Reason.WRONG_FIELDS: pc.is_valid(chunk.broken).to_numpy(zero_copy_only=False),
        Reason.NULL_ID: pc.is_null(arrays[0]).to_numpy(zero_copy_only=False),
        Reason.UNPARSABLE_NUMBER: no_number.to_numpy(zero_copy_only=False),
    }
    faults = first_fault(masks, chunk.rows.num_rows)
    quarantine.add_faults(chunk, faults)
    return pa.table(arrays, schema=traced).filter(pa.array(faults < 0))


def _read(column: pa.ChunkedArray, kind: pa.DataType, where: str) -> tuple[pa.Array, pa.Array]:
    """Values, and where a number was expected but something else found; NaN and infinities are no knowledge: null."""
    if kind == pa.string():
        return to_text(column, where), pa.repeat(False, len(column))
    numbers, wrong = to_numbers(column, where)
    return pc.if_else(pc.is_finite(numbers), numbers, None), wrong


def with_ids(entities: pa.Table, seen: pa.Array) -> tuple[pa.Table, int]:
    """Appends a row of nulls for each id that is not in the table yet.

    Args:
        entities: One row per id, sorted by id.
        seen: Distinct ids.

    Returns:
        One row per id, sorted by id (text by code point); number of rows appended.
    """
    key = entities.column_names[0]
    new = seen.filter(pc.invert(pc.is_in(seen, value_set=entities.column(key).combine_chunks())))
    arrays = [new, *(pa.nulls(len(new), field.type) for field in list(entities.schema)[1:])]
    joined = pa.concat_tables([entities, pa.table(arrays, schema=entities.schema)])
    return joined.take(pc.sort_indices(joined, sort_keys=[(key, "ascending")])).combine_chunks(), len(new)
