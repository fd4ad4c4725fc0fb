"""A small schema, snapshot rows whose every field is known by design, and real stores over them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.kinds import Storage
from features.schema import ENTITY_KEY, TOWERS, Schema, Tower, snapshot_schema
from features.store import OnlineStore, Store, StoreSettings

Row = dict[str, Any]
REFRESH_DAYS: dict[Tower, int] = {"user": 5, "item": 3}
VERSION = "2017-01-05-5f3c9a71"
"""Of the online features."""


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema.model_validate(
        {
            "user_columns": {
                "age": "categorical",
                "income": "numeric",
                "likes": "categories",
                "likes_weights": "weights",
                "taste": "vector",
                "joined": "timestamp",
                "home": "geo",
                "member": "boolean",
            },
            "item_columns": {"aisle": ["categorical", "text"], "size": "numeric"},
            "item_category": "aisle",
            "user_statistics_of": ["aisle"],
            "item_statistics_of": ["age"],
        }
    )


@pytest.fixture(scope="session")
def snapshot_row(schema: Schema) -> Callable[..., Row]:
    """A row whose fields all tell which number it was made with; floats are exact in 32 bits."""

    def make(tower: Tower, key: str, at: dt.datetime, number: int, created: dt.datetime | None = None) -> Row:
        row: Row = {ENTITY_KEY[tower]: key, "event_timestamp": at, "created_timestamp": created or at}
        for place, (name, storage) in enumerate(schema.view_fields(tower)):
            row[name] = {
                Storage.STRING: f"{name} № {number}",
                Storage.FLOAT: number + place / 8,
                Storage.INT: 100 * number + place,
                Storage.STRINGS: [f"{name} {number}", f"é{place}"],
                Storage.INTS: [number, place, 2**40],
                Storage.FLOATS: [1 / 2 + number / 1024, 1 / 4],
                Storage.BOOL: bool(number % 2),
                Storage.MOMENT: 1_000_000_007 + number,
                Storage.VECTOR: [number / 2, place / 8, -1.0],
                Storage.WEIGHTS: [number / 4, 1.0],
                Storage.PLACE: [number / 8, -place / 8],
            }[storage]
        return row | {f"{tower}_as_of_seconds": int(at.timestamp())}

    return make


@pytest.fixture(scope="session")
def make_store(schema: Schema) -> Callable[..., Store]:
    """Writes snapshot rows, one file for each given list of them, and registers a store over them.

    It is that of the joins, or of a version of the online features.
    """

    def make(
        folder: Path,
        *,
        user: Sequence[Row] = (),
        item: Sequence[Row] = (),
        redis: str | None = None,
        version: str | None = None,
    ) -> Store:
        for tower, rows in zip(TOWERS, (user, item), strict=True):
            (folder / "snapshots" / tower).mkdir(parents=True)
            table = pa.Table.from_pylist(list(rows), schema=snapshot_schema(schema, tower))
            half = table.num_rows // 2
            for number, part in enumerate((table.slice(0, half), table.slice(half))):
                pq.write_table(part, folder / "snapshots" / tower / f"{number}.parquet")
        online: OnlineStore = "redis" if redis else "sqlite"
        settings = StoreSettings(
            project="small",
            schema=schema,
            refresh_days=REFRESH_DAYS,
            online_store=online,
            redis_connection=redis or "localhost:6379",
        )
        store = Store(folder, settings, version)
        store.apply()
        return store

    return make
