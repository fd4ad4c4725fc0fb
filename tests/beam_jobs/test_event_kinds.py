"""Histories are made of all kinds of events, and what users and items have met of positives alone."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.snapshot_state import SavedState
from beam_jobs.snapshots import PARTS, DailySnapshots, run
from features.schema import Schema
from features.sources.events import events_schema

START = dt.date(2017, 1, 1)
SCHEMA = Schema.model_validate(
    {
        "event_kinds": {"view": 0, "order": 1, "hide": 0},
        "history_kinds": ["view", "order"],
        "item_columns": {"aisle": "categorical"},
        "user_statistics_of": ["aisle"],
    }
)
# Of user u: looks at a and b on the first day, orders b on the second after looking again, hides c; v looks only.
EVENTS = [
    (0, "u", "a", "view"),
    (0, "u", "b", "view"),
    (0, "v", "b", "view"),
    (1, "u", "b", "view"),
    (1, "u", "b", "order"),
    (1, "u", "c", "hide"),
    (2, "u", "a", "view"),
    (2, "v", "b", "order"),
    (2, "v", "b", "order"),
]
Rows = dict[str, list[dict[str, Any]]]


def midnight(day: int) -> dt.datetime:
    return dt.datetime(2017, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=day)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "events").mkdir()
    for day in range(3):
        rows = [
            {
                "timestamp": midnight(day) + dt.timedelta(seconds=number),
                "user_id": user,
                "item_id": item,
                "reward": 1.0,
                "value": 2.0 if kind == "order" else None,
                "kind": kind,
            }
            for number, (of_day, user, item, kind) in enumerate(EVENTS)
            if of_day == day
        ]
        path = folder / "events" / f"{midnight(day).date()}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=events_schema(SCHEMA)), path)
    pq.write_table(pa.table({"user_id": ["u", "v"]}), folder / "users.parquet")
    items = {"item_id": ["a", "b", "c"], "item_name": ["A", "B", "C"], "aisle": ["tea", "rice", "milk"]}
    pq.write_table(pa.table(items), folder / "items.parquet")
    return folder


def snapshots(tables: Path, out: Path, first: int, end: int, saved: SavedState | None = None) -> Rows:
    out.mkdir()
    days = [START + dt.timedelta(days=number) for number in range(first, end)]
    transform = DailySnapshots(
        tables,
        SCHEMA,
        days=(days[0], days[-1] + dt.timedelta(days=1)),
        rows_from=START,
        num_shards=2,
        history_length=5,
        user_refresh_days=1,
        item_refresh_days=1,
        saved=saved,
    )
    paths = [str(tables / "events" / f"{day}.parquet") for day in days]
    run(transform, paths, out=out, schema=SCHEMA, options=PipelineOptions(["--runner=FnApiRunner"]))
    keys = [("event_timestamp", "ascending")]
    made = {}
    for part in PARTS:
        table = pq.read_table(out / f"{part}.parquet")
        ids = [(name, "ascending") for name in ("user_id", "item_id") if name in table.column_names]
        made[part] = table.sort_by([*(keys if part in ("user", "item") else []), *ids]).to_pylist()
    return made


@pytest.fixture(scope="module")
def everything(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return snapshots(tables, tmp_path_factory.mktemp("all") / "out", 0, 3)


def at(rows: Rows, tower: str, name: str, day: int) -> dict[str, Any]:
    [row] = [row for row in rows[tower] if row[f"{tower}_id"] == name and row["event_timestamp"] == midnight(day)]
    return row


def test_a_history_has_what_was_looked_at_and_not_what_was_hidden(everything: Rows) -> None:
    assert at(everything, "user", "u", 1)["user_history"] == ["b", "a"]
    assert at(everything, "user", "u", 2)["user_history"] == ["b", "a"]
    assert at(everything, "user", "u", 3)["user_history"] == ["a", "b"]
    assert [at(everything, "user", "u", day)["user_num_events"] for day in (1, 2, 3)] == [2, 4, 5]


def test_items_and_users_have_met_what_was_ordered(everything: Rows) -> None:
    assert [at(everything, "user", "u", day)["user_num_items"] for day in (1, 2, 3)] == [0, 1, 1]
    assert [at(everything, "user", "u", day)["user_aisle_values"] for day in (1, 2)] == [[], ["rice"]]
    assert [at(everything, "item", "b", day)["item_num_events"] for day in (1, 2, 3)] == [0, 1, 3]
    assert [at(everything, "item", "b", day)["item_num_buyers"] for day in (1, 2, 3)] == [0, 1, 2]
    assert at(everything, "item", "b", 3)["item_price"] == 2
    assert [at(everything, "item", item, 3)["item_num_events"] for item in "ac"] == [0, 0]
    assert [(row["user_id"], row["item_id"], row["num_events"]) for row in everything["pairs"]] == [
        ("u", "b", 1),
        ("v", "b", 2),
    ]


def test_a_run_from_a_saved_state_finds_the_same(everything: Rows, tables: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    snapshots(tables, first, 0, 2)
    saved = SavedState(first / "user_state.parquet", first / "item_state.parquet", first / "pairs.parquet")
    later = snapshots(tables, tmp_path / "later", 2, 3, saved)
    assert later["pairs"] == everything["pairs"]
    for tower in ("user", "item"):
        assert later[tower] == [row for row in everything[tower] if row["event_timestamp"] == midnight(3)]
        assert later[f"{tower}_state"] == everything[f"{tower}_state"]
