"""A kind of column that only the registry knows reaches schema, views, tables and encoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from features.computed import COMPUTED, ComputedFeature
from features.encoding import fit_encoder
from features.kinds import KINDS, ColumnKind, InputSpec, OwnInput, Storage
from features.numbers import OF_STATISTICS, numeric_inputs, numeric_names, numeric_values
from features.schema import Schema, view_schema
from features.sources.entities import entity_schema


def flag_to_number(raw: pa.ChunkedArray, moments: np.ndarray) -> np.ndarray:
    return np.array([{"yes": 1.0, "no": 0.0}.get(value, np.nan) for value in raw.to_pylist()])


def test_a_kind_that_gives_numbers_joins_the_numeric_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "flag", ColumnKind(Storage.STRING, numbers={"flag": flag_to_number}))
    schema = Schema.model_validate({"user_columns": {"member": "flag", "age": "numeric"}})
    assert entity_schema(schema, "user").field("member").type == pa.string()
    assert view_schema(schema, "user").field("member").type == pa.string()
    assert numeric_names(schema, "user")[-2:] == ["member.flag", "age"]
    raw = [
        {"member": "yes"},
        {"member": "no"},
        {"member": None},
    ]
    table = pa.Table.from_pylist(raw, schema=view_schema(schema, "user"))
    found = numeric_values(table, schema, "user", as_of_seconds=np.zeros(3, np.int64))
    np.testing.assert_array_equal(found["member.flag"], [1.0, 0.0, np.nan])


def test_a_kind_with_its_own_input_gets_one_in_addition_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnInput(
        "_length",
        lambda encoder, column: InputSpec(f"{column}_length", "numeric", 1),
        lambda encoder, column, raw: np.array([[len(text or "")] for text in raw.to_pylist()], np.float32),
    )
    monkeypatch.setitem(KINDS, "length", ColumnKind(Storage.STRING, own=own))
    schema = Schema.model_validate({"item_columns": {"title": ["categorical", "length"]}})
    items = pa.table({"item_id": ["i1", "i2"], "title": ["ab", "abcd"]})
    users = pa.table({"user_id": ["u1"]})
    encoder = fit_encoder(schema, users, items, [], history_length=2, text_length=2, text_buckets=4)
    assert [spec.name for spec in encoder.input_specs("item")] == ["item_id", "title", "title_length", "item_numeric"]
    fields = view_schema(schema, "item")
    raw = pa.Table.from_pylist([{"title": "abcd"}, {"title": None}], schema=fields)
    raw = raw.append_column("item_id", pa.array(["i2", "i1"]))
    inputs = encoder.encode_items(raw, as_of_seconds=np.zeros(2, np.int64))
    np.testing.assert_array_equal(inputs["title_length"], [[4.0], [0.0]])
    np.testing.assert_array_equal(inputs["title"], [2, 0])


def test_a_kind_gives_either_numbers_or_an_input_of_its_own() -> None:
    with pytest.raises(ValueError, match="either numbers or an input of its own; set one of the two"):
        ColumnKind(Storage.FLOAT)


def test_a_kind_is_not_stored_as_a_statistic() -> None:
    with pytest.raises(ValueError, match="asks to be stored as floats, expected one of: string, float, strings, bool"):
        ColumnKind(Storage.FLOATS, numbers={"flag": flag_to_number})


def test_an_unknown_computed_feature_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="names 'user_moon_phase', expected some of: user_weekend_events"):
        Schema(computed_features=("user_moon_phase",))


def test_a_computed_feature_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="names 'user_weekend_events' more than once; name it once"):
        Schema(computed_features=("user_weekend_events", "user_weekend_events"))


def test_a_computed_feature_is_an_input_of_its_own_tower_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    squares = ComputedFeature("item", "toy", lambda day: day.sum(day.value), encode=np.square)
    monkeypatch.setitem(COMPUTED, "item_toy", squares)
    schema = Schema(computed_features=("item_toy",))
    assert "item_toy" not in numeric_names(schema, "user")
    assert numeric_names(schema, "item")[-1] == "item_toy"
    raw = pa.Table.from_pylist([{"item_toy": 3.0}], schema=view_schema(schema, "item"))
    found = numeric_values(raw, schema, "item", as_of_seconds=np.zeros(1, np.int64))
    np.testing.assert_array_equal(found["item_toy"], [9.0])


def test_a_statistic_that_no_tower_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = tuple(one for one in OF_STATISTICS["item"] if one.name != "item_price")
    monkeypatch.setitem(OF_STATISTICS, "item", fewer)
    with pytest.raises(ValueError, match="item_price is computed for every item and read by no tower"):
        numeric_inputs(Schema(), "item")
