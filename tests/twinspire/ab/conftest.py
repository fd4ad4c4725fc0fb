"""Tables of a tiny shop by hand: four users, five items, two weeks."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from features.sources.events import EVENTS_SCHEMA
from twinspire.config import Config

CUT = dt.date(2024, 1, 8)
ITEMS = ["apple", "bread", "cheese", "drill", "nails"]
# (day of January, hour, user, item)
EVENTS = [
    (1, 9, "ann", "apple"),
    (1, 9, "ann", "bread"),
    (2, 9, "bob", "drill"),
    (3, 9, "ann", "apple"),
    (7, 23, "cid", "bread"),
    (8, 0, "ann", "cheese"),
    (8, 12, "bob", "nails"),
    (9, 9, "ann", "apple"),
    (10, 9, "dan", "apple"),
    (10, 9, "dan", "nails"),
    (12, 9, "bob", "drill"),
]


@pytest.fixture
def config() -> Config:
    source = {"kind": "tables", "events": {"path": "events.csv"}}
    columns = {"item_columns": {"category": "categorical"}, "item_category": "category"}
    return Config.model_validate({"name": "shop", "as_of": str(CUT), "dataset": columns, "ingest": {"source": source}})


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "shop", CUT)
    (paths.tables / "events").mkdir(parents=True)
    for day in sorted({day for day, *_ in EVENTS}):
        rows = [row for row in EVENTS if row[0] == day]
        table = pa.table(
            {
                "user_id": [user for _, _, user, _ in rows],
                "item_id": [item for *_, item in rows],
                "timestamp": [dt.datetime(2024, 1, day, hour, tzinfo=dt.UTC) for _, hour, *_ in rows],
            }
        )
        filled = [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(rows), field.type)
            for field in EVENTS_SCHEMA
        ]
        pq.write_table(pa.table(filled, schema=EVENTS_SCHEMA), paths.tables / "events" / f"2024-01-{day:02}.parquet")
    items = {
        "item_id": ITEMS,
        "item_name": ["Apple", "Bread", None, "Drill", "Nails"],
        "category": ["food", "food", "food", "tools", None],
    }
    pq.write_table(pa.table(items), paths.tables / "items.parquet")
    pq.write_table(pa.table({"user_id": ["ann", "bob", "cid", "dan"]}), paths.tables / "users.parquet")
    (paths.tables / "manifest.json").write_text("{}")
    return paths
