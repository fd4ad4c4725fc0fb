"""Tables of users and items: one row per id, with the declared columns as their kinds store them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.forgotten import NOBODY, Forgotten
from features.kinds import Storage, stored_as
from features.schema import ARROW_TYPES, ENTITY_KEY, Schema, Tower
from features.sources.declared import are_of_wrong_width, convert_declared
from features.sources.events import as_mask, first_fault, split_repeats
from features.sources.quarantine import SOURCE, SOURCE_ROW, Quarantine, Reason
from features.sources.raw import Chunk, RawTable
from features.sources.values import to_ids, to_text, without

LEAST_MET = 0.01
"""Share of the ids that could meet, below which a run warns."""


def entity_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of `users.parquet` or `items.parquet`: id, name of an item, declared columns."""
    head = [ENTITY_KEY[tower], *([columns.ITEM_NAME] if tower == "item" else [])]
    # Numbers as they came: what reads them rounds.
    types = {**ARROW_TYPES, Storage.FLOAT: pa.float64()}
    declared = [(name, types[stored_as(kinds)]) for name, kinds in schema.columns_of(tower).items()]
    return pa.schema([*((name, pa.string()) for name in head), *declared])


def read_entities(
    table: RawTable,
    schema: Schema,
    tower: Tower,
    *,
    chunk_rows: int,
    quarantine: Quarantine,
    forgotten: Forgotten = NOBODY,
) -> tuple[pa.Table, int, int]:
    """Reads a users or items table; its declared columns are held in memory as a whole.

    Args:
        table: The raw table.
        schema: The declared columns.
        tower: Whose table it is.
        chunk_rows: Rows read at a time.
        quarantine: Gets rows without id, with values that are not of their column's kind, and all but the first of an
            id.
        forgotten: Ids whose rows are left out, unseen.

    Returns:
        One row per id, sorted by id, as `entity_schema` has it; number of rows read; how many of those were left out.

    Raises:
        SourceError: A column has a type that cannot be read.
    """
    target, kinds = entity_schema(schema, tower), schema.columns_of(tower)
    traced = pa.schema([*target, pa.field(SOURCE, pa.string()), pa.field(SOURCE_ROW, pa.int64())])
    parts = [traced.empty_table()]
    num_rows = num_forgotten = 0
    for read in table.read(chunk_rows):
        chunk = without(read, table.columns[target.names[0]], forgotten) if forgotten else read
        parts.append(validate_rows(chunk, table, traced, kinds, quarantine))
        num_rows += read.rows.num_rows
        num_forgotten += read.rows.num_rows - chunk.rows.num_rows
    found = pa.concat_tables(parts)
    wrong = are_of_wrong_width(found, kinds)
    quarantine.add_canonical(found.filter(pa.array(wrong)), Reason.WRONG_WIDTH)
    kept, repeats = split_repeats(found.filter(pa.array(~wrong)), [target.names[0]])
    quarantine.add_canonical(repeats, Reason.DUPLICATE_ID)
    return kept.select(target.names), num_rows, num_forgotten


def validate_rows(
    chunk: Chunk, table: RawTable, traced: pa.Schema, kinds: Mapping[str, tuple[str, ...]], quarantine: Quarantine
) -> pa.Table:
    """Reads a chunk of rows with an id and columns; the others go to the quarantine.

    Args:
        chunk: Raw rows.
        table: What their columns mean.
        traced: What is wanted: the id, columns, and where rows come from; text, unless they have kinds.
        kinds: Of columns.
        quarantine: Gets rows without id, and with values that are not of their column's kind.
    """
    num_rows = chunk.rows.num_rows
    bad_id = pa.repeat(False, num_rows)
    masks: dict[Reason, npt.NDArray[np.bool_]] = {}
    arrays: list[pa.Array] = []
    for field in traced:
        if field.name == SOURCE:
            arrays.append(pa.repeat(chunk.file, num_rows))
        elif field.name == SOURCE_ROW:
            arrays.append(chunk.numbers)
        elif field.name not in table.columns:
            arrays.append(pa.nulls(num_rows, field.type))
        else:
            raw = table.columns[field.name]
            column, where = chunk.rows.column(raw), f"{chunk.file}, column {raw!r}"
            if not arrays:
                array, bad_id = to_ids(column, where)
            elif field.name not in kinds:
                array = to_text(column, where)
            else:
                unit = table.timestamp_unit
                converted = convert_declared(column, kinds[field.name], where=where, timestamp_unit=unit)
                array = converted.values
                for reason, mask in converted.faults.items():
                    masks[reason] = masks[reason] | as_mask(mask) if reason in masks else as_mask(mask)
            arrays.append(array.cast(field.type))
    masks |= {
        Reason.OPEN_QUOTE: as_mask(chunk.swallowed),
        Reason.WRONG_FIELDS: as_mask(pc.is_valid(chunk.broken)),
        Reason.NULL_ID: as_mask(pc.is_null(arrays[0])),
        Reason.BAD_ID: as_mask(bad_id),
    }
    faults = first_fault(masks, num_rows)
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
