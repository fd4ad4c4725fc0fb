"""The users or items table of a source: one row per id, sorted by id."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.forgotten import NOBODY, Forgotten
from features.kinds import Storage, stored_as
from features.schema import ENTITY_KEY, Schema, Tower
from features.sources.events import first_fault, split_repeats
from features.sources.quarantine import SOURCE, SOURCE_ROW, Quarantine, Reason
from features.sources.raw import Chunk, RawTable
from features.sources.values import to_ids, to_numbers, to_text, too_large, without

LEAST_MET = 0.01
"""Share of the ids that could meet, below which a run warns."""


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
    no_number = beyond = bad_id = pa.repeat(False, chunk.rows.num_rows)
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
            column, where = chunk.rows.column(raw), f"{chunk.file}, column {raw!r}"
            if not arrays:
                array, bad_id = to_ids(column, where)
            elif field.type == pa.string():
                array = to_text(column, where)
            else:
                numbers, wrong = to_numbers(column, where)
                # NaN and infinities are no knowledge.
                array = pc.if_else(pc.is_finite(numbers), numbers, None)
                no_number, beyond = pc.or_(no_number, wrong), pc.or_(beyond, too_large(array))
            arrays.append(array)
    masks = {
        Reason.OPEN_QUOTE: chunk.swallowed.to_numpy(zero_copy_only=False),
        Reason.WRONG_FIELDS: pc.is_valid(chunk.broken).to_numpy(zero_copy_only=False),
        Reason.NULL_ID: pc.is_null(arrays[0]).to_numpy(zero_copy_only=False),
        Reason.BAD_ID: bad_id.to_numpy(zero_copy_only=False),
        Reason.UNPARSABLE_NUMBER: no_number.to_numpy(zero_copy_only=False),
        Reason.NUMBER_TOO_LARGE: beyond.to_numpy(zero_copy_only=False),
    }
    faults = first_fault(masks, chunk.rows.num_rows)
    quarantine.add_faults(chunk, faults)
    return pa.table(arrays, schema=traced).filter(pa.array(faults < 0))


def unmet_note(name: str, entities: pa.Table, seen: pa.Array) -> tuple[str, ...]:
    """A warning where nearly no id of a table meets one of the events, with an example of each.

    Args:
        name: `users` or `items`.
        entities: The table; its first column is the id.
        seen: Distinct ids of the events.
    """
    ids = entities.column(0).combine_chunks()
    met = int(pc.sum(pc.is_in(ids, value_set=seen)).as_py() or 0)
    if not len(ids) or not len(seen) or met >= LEAST_MET * min(len(ids), len(seen)):
        return ()
    unmet = ids.filter(pc.invert(pc.is_in(ids, value_set=seen)))
    return (
        f"WARNING: {met:,} of {len(ids):,} ids of {name} meet one of the {len(seen):,} of the events; {name} have "
        f"{unmet[0].as_py()!r}, events have {seen[0].as_py()!r}: check that both write ids alike",
    )


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
