"""Validation of raw events: parses a chunk and finds the rows that cannot be used. n rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features import columns
from features.kinds import Storage, stored_as
from features.schema import ARROW_TYPES, MOMENT, Schema
from features.sources.declared import convert_declared
from features.sources.quarantine import REASONS, SOURCE, SOURCE_ROW, Reason
from features.sources.raw import Chunk, RawTable
from features.sources.values import to_ids, to_microseconds, to_numbers, to_text, too_large


def split_repeats(table: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Sorts a table by its keys and takes out all but the first row of each key.

    Args:
        table: Rows with the key columns, `SOURCE` (file) and `SOURCE_ROW`. Files are read in the order of their names,
            so these two give the order of the source.
        keys: Columns that together must be unique.

    Returns:
        The first row of each key, by key (text by code point); the other rows, in the order of the source.
    """
    table = _in_order(table, [*keys, SOURCE, SOURCE_ROW])
    if table.num_rows < 2:
        return table, table.slice(0, 0)
    again = np.zeros(table.num_rows, dtype=bool)
    again[1:] = True
    for key in keys:
        values = table.column(key).combine_chunks()
        again[1:] &= pc.equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy(zero_copy_only=False)
    if not again.any():
        return table, table.slice(0, 0)
    return table.filter(pa.array(~again)), _in_order(table.filter(pa.array(again)), [SOURCE, SOURCE_ROW])


def _in_order(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    return table.take(pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])).combine_chunks()


EVENTS_SCHEMA = pa.schema(
    [
        (columns.USER_ID, pa.string()),
        (columns.ITEM_ID, pa.string()),
        (columns.TIMESTAMP, MOMENT),
        (columns.REWARD, pa.float32()),
        (columns.VALUE, pa.float64()),
    ]
)


def events_schema(schema: Schema) -> pa.Schema:
    """Arrow schema of the files of days: `EVENTS_SCHEMA`, the kind where events have kinds, and declared columns."""
    kind = [pa.field(columns.KIND, pa.string())] if schema.event_kinds else []
    # Numbers as they came: what reads them rounds.
    types = {**ARROW_TYPES, Storage.FLOAT: pa.float64()}
    declared = [pa.field(name, types[stored_as(kinds)]) for name, kinds in schema.event_columns.items()]
    return pa.schema([*EVENTS_SCHEMA, *kind, *declared])


def traced_schema(schema: Schema) -> pa.Schema:
    """The same with where each comes from: until a day is complete, so that of equal events the first is kept."""
    return pa.schema([*events_schema(schema), pa.field(SOURCE, pa.string()), pa.field(SOURCE_ROW, pa.int64())])


MICROSECOND = dt.timedelta(microseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ValidatedEvents:
    """A chunk of events, validated.

    Attributes:
        events: Usable events, as `traced_schema` has them, in the order of the source.
        faults: [n], position in `REASONS` of what is wrong with a row, -1 where nothing is.
        num_filtered: Rows without fault whose reward is below the smallest that counts as an interaction, or that are
            of the hidden past of an item.
    """

    events: pa.Table
    faults: npt.NDArray[np.int8]
    num_filtered: int


def validate_events(chunk: Chunk, table: RawTable, *, schema: Schema, now: dt.datetime) -> ValidatedEvents:
    """Reads a chunk into canonical columns and finds its faults.

    Args:
        chunk: Raw rows.
        table: What their columns mean.
        schema: The declared kinds and columns of events.
        now: Events after this moment are faulty.

    Returns:
        The usable events and the faults.

    Raises:
        SourceError: A column has a type that cannot be read.
    """
    (user_id, bad_user), (item_id, bad_item) = (
        to_ids(chunk.rows.column(table.columns[name]), f"{chunk.file}, column {table.columns[name]!r}")
        for name in (columns.USER_ID, columns.ITEM_ID)
    )
    moments = to_microseconds(chunk.rows.column(table.columns[columns.TIMESTAMP]), table.timestamp_unit)
    reward, no_reward = _numbers(chunk, table, columns.REWARD)
    value, no_value = _numbers(chunk, table, columns.VALUE)
    masks: dict[Reason, Mask] = {
        Reason.OPEN_QUOTE: as_mask(chunk.swallowed),
        Reason.WRONG_FIELDS: as_mask(pc.is_valid(chunk.broken)),
        Reason.NULL_ID: as_mask(pc.or_(pc.is_null(user_id), pc.is_null(item_id))),
        Reason.BAD_ID: as_mask(pc.or_(bad_user, bad_item)),
        Reason.UNPARSABLE_TIMESTAMP: as_mask(pc.is_null(moments)),
        Reason.FUTURE_TIMESTAMP: as_mask(pc.greater(moments, (now - EPOCH) // MICROSECOND)),
        Reason.UNPARSABLE_NUMBER: as_mask(pc.or_(no_reward, no_value)),
        Reason.NUMBER_TOO_LARGE: as_mask(pc.or_(too_large(reward), too_large(value))),
        Reason.NEGATIVE_REWARD: as_mask(_no_amount(reward)),
        Reason.NEGATIVE_VALUE: as_mask(_no_amount(value)),
    }
    found: dict[str, pa.Array] = {}
    if (kinds := schema.kinds_of_events()) is not None:
        found[columns.KIND] = _kinds(chunk, table)
        of_kind = kinds.reward_of(found[columns.KIND])
        masks[Reason.UNKNOWN_KIND] = as_mask(pc.is_null(of_kind))
        reward = pc.coalesce(reward, of_kind)
    for name, own in schema.event_columns.items():
        raw = table.columns[name]
        converted = convert_declared(
            chunk.rows.column(raw), own, where=f"{chunk.file}, column {raw!r}", timestamp_unit=table.timestamp_unit
        )
        found[name] = converted.values
        for reason, mask in converted.faults.items():
            masks[reason] = masks[reason] | as_mask(mask) if reason in masks else as_mask(mask)
    faults = first_fault(masks, chunk.rows.num_rows)
    reward = pc.fill_null(reward, 1.0)
    filtered = np.zeros(len(faults), dtype=bool)
    if table.min_reward is not None:
        filtered = (faults < 0) & as_mask(pc.less(reward, table.min_reward))
    if table.hidden_past is not None:
        filtered |= (faults < 0) & table.hidden_past.hides(item_id, moments)
    good = pa.array((faults < 0) & ~filtered)
    file = pa.repeat(chunk.file, chunk.rows.num_rows)
    arrays = (user_id, item_id, moments, reward, value, *found.values(), file, chunk.numbers)
    traced = traced_schema(schema)
    kept = [array.filter(good).cast(field.type) for array, field in zip(arrays, traced, strict=True)]
    return ValidatedEvents(pa.table(kept, schema=traced), faults, int(filtered.sum()))


def first_fault(masks: dict[Reason, Mask], num_rows: int) -> npt.NDArray[np.int8]:
    """Position in `REASONS` of the first reason whose mask is true, -1 where none is: [n] int8."""
    faults = np.full(num_rows, -1, dtype=np.int8)
    for position in reversed(range(len(REASONS))):
        if REASONS[position] in masks:
            faults[masks[REASONS[position]]] = position
    return faults


def _numbers(chunk: Chunk, table: RawTable, name: str) -> tuple[pa.Array, pa.Array]:
    """Numbers of an optional column, and where it holds something else."""
    if name not in table.columns:
        return pa.nulls(chunk.rows.num_rows, pa.float64()), pa.repeat(False, chunk.rows.num_rows)
    raw = table.columns[name]
    return to_numbers(chunk.rows.column(raw), f"{chunk.file}, column {raw!r}")


def _kinds(chunk: Chunk, table: RawTable) -> pa.Array:
    raw = table.columns[columns.KIND]
    return pc.utf8_trim_whitespace(to_text(chunk.rows.column(raw), f"{chunk.file}, column {raw!r}"))


def _no_amount(numbers: pa.Array) -> pa.Array:
    return pc.or_(pc.less(numbers, 0.0), pc.invert(pc.is_finite(numbers)))


def as_mask(array: pa.Array) -> Mask:
    """[n] bool, false where it is null."""
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask
