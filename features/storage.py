"""Which Arrow type does a feature have in snapshots, examples and stores, and what are its views called there?"""

from __future__ import annotations

import pyarrow as pa

from features import columns
from features.schema import ENTITY_KEY, Schema, Storage, Tower

ARROW_TYPES: dict[Storage, pa.DataType] = {
    Storage.STRING: pa.string(),
    Storage.FLOAT: pa.float32(),
    Storage.INT: pa.int64(),
    Storage.STRINGS: pa.list_(pa.string()),
    Storage.INTS: pa.list_(pa.int64()),
    Storage.FLOATS: pa.list_(pa.float32()),
}
MOMENT = pa.timestamp("us", tz="UTC")
VIEW_NAMES: dict[Tower, str] = {"user": "user_daily", "item": "item_daily"}

# Who has met which item until a given midnight: the repeat-purchase retriever, the already-bought filter and the mark
# of first purchases all read it.
PAIRS_SCHEMA = pa.schema(
    [
        (columns.USER_ID, pa.string()),
        (columns.ITEM_ID, pa.string()),
        ("num_events", pa.int64()),
        ("first_seconds", pa.int64()),
        ("last_seconds", pa.int64()),
    ]
)


def view_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of the fields of a tower's feature view, without key and timestamps."""
    return pa.schema([(name, ARROW_TYPES[storage]) for name, storage in schema.view_fields(tower)])


def snapshot_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of a tower's snapshot files: key, the two timestamps that Feast needs, then the view's fields."""
    head = [
        (ENTITY_KEY[tower], pa.string()),
        (columns.EVENT_TIMESTAMP, MOMENT),
        (columns.CREATED_TIMESTAMP, MOMENT),
    ]
    return pa.schema([*(pa.field(name, kind) for name, kind in head), *view_schema(schema, tower)])
