"""Items are described by what is true of them at each midnight, and by nothing that begins later or has ended."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.dated_facts import DatedFacts, read_facts
from beam_jobs.snapshot_state import SavedState
from beam_jobs.snapshots import DailySnapshots, run
from features.schema import Schema
from features.sources.dated import dated_schema

START = dt.date(2017, 1, 1)
NUM_DAYS = 6
SCHEMA = Schema.model_validate(
    {
        "user_columns": {"age": "categorical"},
        "item_columns": {"aisle": "categorical"},
        "dated_columns": {"discount": "numeric", "shelf": "categorical"},
    }
)
# Of i0: one fact inside another, and two that begin together; of i1: two in a row; of i2: one that has no end; of i3:
# one that begins after all days, and one that ended before them.
FACTS = [
    ("i0", 0, 4, 0.1, "front"),
    ("i0", 2, 3, 0.2, None),
    ("i0", 5, 5, 0.3, "left"),
    ("i0", 5, 5, 0.4, "right"),
    ("i1", 1, 2, 0.5, "a"),
    ("i1", 3, 3, 0.6, "b"),
    ("i2", 2, None, 0.7, "c"),
    ("i3", 9, 12, 0.8, "d"),
    ("i3", -9, -2, 0.9, "e"),
    ("unknown", 0, 9, 1.0, "f"),
]
Event = dict[str, Any]


def day(number: int) -> dt.date:
    return START + dt.timedelta(days=number)


def expected(item: str, number: int) -> tuple[float | None, str | None]:
    """The fact of an item that began last, among those of a day; of several the last one."""
    valid = [fact for fact in FACTS if fact[0] == item and fact[1] <= number <= (99 if fact[2] is None else fact[2])]
    latest = [fact for fact in valid if fact[1] == max(one[1] for one in valid)]
    return (latest[-1][3], latest[-1][4]) if latest else (None, None)


@pytest.fixture(scope="module")
def tables(write_tables: Callable[..., Path], events: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tables(tmp_path_factory.mktemp("tables") / "tables", events)
    rows = [
        {
            "item_id": item,
            "first_day": day(first),
            "last_day": dt.date(9999, 12, 31) if last is None else day(last),
            "discount": discount,
            "shelf": shelf,
        }
        for item, first, last, discount, shelf in FACTS
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=dated_schema(SCHEMA)), folder / "dated.parquet")
    return folder


def snapshots(
    tables: Path, out: Path, first: int, end: int, *, num_shards: int = 2, saved: SavedState | None = None
) -> list[dict[str, Any]]:
    out.mkdir()
    transform = DailySnapshots(
        tables,
        SCHEMA,
        days=(day(first), day(end)),
        rows_from=START,
        num_shards=num_shards,
        history_length=3,
        user_refresh_days=4,
        item_refresh_days=4,
        saved=saved,
    )
    paths = [str(tables / "events" / f"{day(number)}.parquet") for number in range(first, end)]
    run(transform, paths, out=out, schema=SCHEMA, options=PipelineOptions(["--runner=FnApiRunner"]))
    rows = pq.read_table(out / "item.parquet")
    found: list[dict[str, Any]] = rows.sort_by([(name, "ascending") for name in rows.column_names[:2]]).to_pylist()
    return found


@pytest.fixture(scope="module")
def rows(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return snapshots(tables, tmp_path_factory.mktemp("all") / "out", 0, NUM_DAYS)


def known_at(rows: list[dict[str, Any]], item: str, number: int) -> dict[str, Any]:
    """The latest row of an item up to a midnight, as a join finds it."""
    return max(
        (row for row in rows if row["item_id"] == item and row["event_timestamp"].date() <= day(number)),
        key=lambda row: row["event_timestamp"],
    )


def test_what_a_join_finds_at_each_midnight_is_what_is_true_then(rows: list[dict[str, Any]]) -> None:
    for number in range(1, NUM_DAYS + 1):
        for item in ("i0", "i1", "i2", "i3", "i8"):
            row, (discount, shelf) = known_at(rows, item, number), expected(item, number)
            assert row["discount"] == (None if discount is None else pytest.approx(discount)), (item, number)
            assert row["shelf"] == shelf


def test_a_promotion_that_begins_tomorrow_is_not_known_today(rows: list[dict[str, Any]]) -> None:
    assert known_at(rows, "i2", 1)["discount"] is None
    assert known_at(rows, "i2", 2)["discount"] == pytest.approx(0.7)
    assert known_at(rows, "i3", NUM_DAYS)["discount"] is None


def test_rows_do_not_depend_on_shards_or_on_where_a_run_begins(
    rows: list[dict[str, Any]], tables: Path, tmp_path: Path
) -> None:
    assert snapshots(tables, tmp_path / "shards", 0, NUM_DAYS, num_shards=3) == rows
    first = tmp_path / "first"
    earlier = snapshots(tables, first, 0, 3)
    saved = SavedState(first / "user_state.parquet", first / "item_state.parquet", first / "pairs.parquet")
    later = snapshots(tables, tmp_path / "later", 3, NUM_DAYS, saved=saved)
    by_id = sorted([*earlier, *later], key=lambda row: (row["item_id"], row["event_timestamp"]))
    assert by_id == rows


def test_a_new_item_comes_with_what_is_true_of_it(tables: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    snapshots(tables, first, 0, 4)
    state = pq.read_table(first / "item_state.parquet")
    without = [state.filter(pa.array([name != "i2" for name in state.column("item_id").to_pylist()]))]
    pq.write_table(pa.concat_tables(without), first / "item_state.parquet")
    saved = SavedState(first / "user_state.parquet", first / "item_state.parquet", first / "pairs.parquet")
    later = snapshots(tables, tmp_path / "later", 4, 5, saved=saved)
    assert known_at(later, "i2", 4)["discount"] == pytest.approx(0.7)


def test_only_facts_of_the_days_asked_for_and_the_shards_items_are_held(tables: Path) -> None:
    def read(*names: str, first_day: int = 10, end_day: int = 11) -> DatedFacts:
        ids = pa.array(["i3", "i0"])
        return read_facts(
            tables, 0, num_shards=1, item_ids=ids, names=list(names), first_day=first_day, end_day=end_day
        )

    begin = (START - dt.date(1970, 1, 1)).days
    facts = read("shelf", first_day=begin + 4, end_day=begin + 5)
    assert facts.item.tolist() == [1, 1, 1, 1]
    assert (facts.first - begin).tolist() == [0, 2, 5, 5]
    assert facts.changed(begin + 4).tolist() == [1]
    assert facts.changed(begin + 3).tolist() == []
    assert [values.to_pylist() for values in facts.at(np.array([1, 0]), begin + 5)] == [["right", None]]
    # Nothing declared: nothing is read.
    assert read().at(np.array([0, 1]), begin) == []
    assert read("shelf").item.tolist() == []
