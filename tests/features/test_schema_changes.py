"""A change of columns is reported before training, with its consequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import TableFile
from features.schema import Schema
from features.schema_changes import SchemaFacts, schema_changes
from features.sources.raw import SourceError
from features.sources.tables import open_tables

ITEMS = {"item_id": ["i1"], "brand": ["acme"], "price": [1.5], "colour": ["red"]}
EVENTS = {"user_id": ["u1"], "item_id": ["i1"], "timestamp": [5], "value": [2.0]}
DECLARED = {"brand": "categorical", "price": "numeric"}


def facts(
    folder: Path,
    *,
    items: dict[str, list[Any]] = ITEMS,
    events: dict[str, list[Any]] = EVENTS,
    item_columns: dict[str, Any] = DECLARED,
    names: dict[str, str] | None = None,
    **dataset: Any,
) -> SchemaFacts:
    """What opening a small source finds."""
    schema = Schema.model_validate({"item_columns": item_columns, **dataset})
    for name, table in (("items", items), ("events", events)):
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    source = open_tables(
        schema=schema,
        events=TableFile(path=folder / "events.parquet"),
        items=TableFile(path=folder / "items.parquet", columns=names or {}),
    )
    return SchemaFacts.of(source, schema)


def without(table: dict[str, list[Any]], name: str) -> dict[str, list[Any]]:
    return {column: values for column, values in table.items() if column != name}


VECTORS: dict[int, list[Any]] = {size: pa.array([[1.0] * size], pa.list_(pa.float32(), size)) for size in (2, 3)}


def test_vectors_of_another_width_need_a_full_retrain(tmp_path: Path) -> None:
    declared = DECLARED | {"content": "vector"}
    before, now = (facts(tmp_path, items=ITEMS | {"content": VECTORS[n]}, item_columns=declared) for n in (2, 3))
    [found] = schema_changes(before, now)
    assert found.needs_full
    assert str(found) == (
        "items.content was fixed_size_list<element: float>[2] and is fixed_size_list<element: float>[3] now in the "
        "source: vectors of another width, which what was learned of them does not fit; do a full retrain with --full"
    )


CHANGES = [
    pytest.param(
        {"items": ITEMS | {"shelf": [3]}},
        "items.shelf is new in the source (int64): nothing reads it; to use it, declare it in dataset and do a full "
        "retrain",
        False,
        id="new column",
    ),
    pytest.param(
        {"items": without(ITEMS, "colour")}, "items.colour is gone from the source: nothing read it", False, id="gone"
    ),
    pytest.param(
        {"item_columns": DECLARED | {"brand": "numeric"}},
        "items.brand was categorical and is numeric now: the id tables of it cannot be carried over; do a full retrain "
        "with --full",
        True,
        id="another kind",
    ),
    pytest.param(
        {"item_columns": DECLARED | {"brand": ["categorical", "text"]}},
        "items.brand was categorical and is categorical and text now: a new input of the tower; do a full retrain with "
        "--full",
        True,
        id="one more kind",
    ),
    pytest.param(
        {"items": ITEMS | {"price": ["1.5"]}},
        "items.price was double and is string now in the source: it is read as declared; what cannot be read so is set "
        "aside and counted",
        False,
        id="another type",
    ),
    pytest.param(
        {"events": EVENTS | {"user_id": [17.0]}},
        "events.user_id was string and is double now in the source: ids are compared as text: check whether 17 has "
        "become 17.0, as then no id would be known any more",
        False,
        id="another type of an id",
    ),
    pytest.param(
        {"item_columns": DECLARED | {"colour": "categorical"}},
        "items.colour is declared now (categorical): a new input of the tower; do a full retrain with --full",
        True,
        id="declared",
    ),
    pytest.param(
        {"item_columns": {"price": "numeric"}},
        "items.brand is not declared any more (was categorical): the tower loses an input; do a full retrain with "
        "--full",
        True,
        id="dropped",
    ),
    pytest.param(
        {"item_columns": {"maker": "categorical", "price": "numeric"}, "names": {"maker": "brand"}},
        "items.maker was called brand (column 'brand' of the source): what was learned of it goes by its name and is "
        "lost; do a full retrain with --full",
        True,
        id="renamed",
    ),
    pytest.param(
        {"names": {"brand": "colour"}},
        "items.brand was column 'brand' of the source and is 'colour' now: its values may mean something else; do a "
        "full retrain with --full",
        True,
        id="another column",
    ),
    pytest.param(
        {"events": without(EVENTS, "value")},
        "events.value is gone from the source: events have no value from now on; do a full retrain with --full, or "
        "bring the column back",
        True,
        id="no value",
    ),
    pytest.param(
        {"user_statistics_of": ["brand"]},
        "dataset.user_statistics_of was nothing and is brand now: the user tower has other inputs; do a full retrain "
        "with --full",
        True,
        id="shares",
    ),
    pytest.param(
        {"item_category": "brand"},
        "dataset.item_category was None and is brand now: reports, filters and answers name another column; no model "
        "depends on it",
        False,
        id="category",
    ),
]


@pytest.mark.parametrize(("change", "expected", "needs_full"), CHANGES)
def test_a_change_is_reported_with_its_consequences(
    change: dict[str, Any], expected: str, needs_full: bool, tmp_path: Path
) -> None:
    before = facts(tmp_path)
    [found] = schema_changes(before, facts(tmp_path, **change))
    assert (str(found), found.needs_full) == (expected, needs_full)


def test_a_value_that_appears_is_reported_as_a_change(tmp_path: Path) -> None:
    before = facts(tmp_path, events=without(EVENTS, "value"))
    [found] = schema_changes(before, facts(tmp_path))
    assert found.needs_full
    assert str(found).startswith("events.value is new in the source (double): events have a value from now on")


def test_the_same_columns_are_no_change(tmp_path: Path) -> None:
    assert schema_changes(facts(tmp_path), facts(tmp_path)) == []


def test_a_declared_column_that_vanished_stops_the_opening_of_the_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no column 'brand'; the nearest existing column is '.*', and there are"):
        facts(tmp_path, items=without(ITEMS, "brand"))
