"""A dataset is described once, and an ambiguous description is refused by name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from features.kinds import Kind, Storage
from features.schema import STATISTICS, TOWERS, Schema, snapshot_schema, view_schema


@pytest.mark.parametrize("side", ["user_columns", "item_columns"])
@pytest.mark.parametrize("kind", ["id", "history", ["text", "history"]])
def test_a_kind_that_is_not_a_columns_is_named_with_the_column_and_the_allowed_kinds(side: str, kind: Any) -> None:
    wrong = kind if isinstance(kind, str) else kind[1]
    message = rf"column 'colour' has kind '{wrong}'; a column is one of: categorical, numeric, text"
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate({side: {"colour": kind}})


def test_a_misspelt_kind_is_named_with_the_allowed_ones() -> None:
    message = r"(?s)item_columns.*column 'colour' has kind 'categoric'; a column is one of: categorical, numeric, text"
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate({"item_columns": {"colour": "categoric"}})


def test_a_column_without_a_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"item_columns\.colour"):
        Schema.model_validate({"item_columns": {"colour": []}})


@pytest.mark.parametrize("name", ["user_id", "timestamp", "value", "item_name", "user_num_events", "item_price"])
def test_a_column_called_like_one_of_ours_is_named(name: str) -> None:
    with pytest.raises(
        ValidationError, match=rf"column '{name}' is used twice .* give it another name under `columns`"
    ):
        Schema.model_validate({"item_columns": {name: "numeric"}})


@pytest.mark.parametrize("name", ["event_timestamp", "Created_Timestamp", "entity_row_id", "user_row", "first_meeting"])
def test_a_name_of_a_feature_table_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"column '{name}' is what a column of the feature tables is called"):
        Schema.model_validate({"item_columns": {name: "categorical"}})


@pytest.mark.parametrize(("name", "other"), [("User_ID", "user_id"), ("Country", "COUNTRY")])
def test_names_that_differ_in_case_alone_are_one(name: str, other: str) -> None:
    with pytest.raises(ValidationError, match=rf"column '{name}' is used twice, and as '{other}'"):
        Schema.model_validate(
            {"item_columns": {other: "text"} if other == "COUNTRY" else {}, "user_columns": {name: "text"}}
        )


def test_one_name_for_a_user_column_and_an_item_column_is_refused() -> None:
    with pytest.raises(ValidationError, match="column 'age' is used twice"):
        Schema.model_validate({"user_columns": {"age": "numeric"}, "item_columns": {"age": "numeric"}})


@pytest.mark.parametrize(("columns", "expected"), [({"aisle": "text", "size": "numeric"}, "aisle, size"), ({}, "none")])
def test_a_category_that_is_no_item_column_is_named_with_the_existing_columns(
    columns: dict[str, str], expected: str
) -> None:
    with pytest.raises(ValidationError, match=rf"item_category is 'ailse', which is not an item column.*{expected}"):
        Schema.model_validate({"item_columns": columns, "item_category": "ailse"})


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="item_colums"):
        Schema.model_validate({"item_colums": {}})


def test_a_column_may_enter_its_tower_in_two_ways(schema: Schema) -> None:
    assert schema.columns_of("item") == {"aisle": (Kind.CATEGORICAL, Kind.TEXT), "size": (Kind.NUMERIC,)}
    assert schema.columns_of_kind("item", Kind.TEXT) == ["aisle"]
    assert schema.columns_of_kind("item", Kind.CATEGORICAL) == ["aisle"]
    assert schema.columns_of_kind("user", Kind.TEXT) == []


def test_a_schema_survives_being_written(schema: Schema) -> None:
    changed = schema.model_copy(update={"value_meaning": "spend in dollars"})
    assert Schema.model_validate(changed.model_dump(mode="json")) == changed


def test_fields_are_statistics_then_columns_and_only_pure_numbers_are_stored_as_numbers() -> None:
    schema = Schema.model_validate({"item_columns": {"size": "numeric", "year": ["categorical", "numeric"]}})
    fields = list(schema.view_fields("item"))
    assert [name for name, _ in fields[:-2]] == [statistic.name for statistic in STATISTICS["item"]]
    assert fields[-2:] == [("size", Storage.FLOAT), ("year", Storage.STRING)]


def test_a_snapshot_is_key_and_two_moments_and_then_the_view(schema: Schema) -> None:
    moment = pa.timestamp("us", tz="UTC")
    for tower in TOWERS:
        snapshot, view = snapshot_schema(schema, tower), view_schema(schema, tower)
        head = [(f"{tower}_id", pa.string()), ("event_timestamp", moment), ("created_timestamp", moment)]
        assert [(field.name, field.type) for field in snapshot] == head + [(field.name, field.type) for field in view]
        assert view.field(0).name == f"{tower}_as_of_seconds"
    assert view_schema(schema, "user").field("user_history_seconds").type == pa.list_(pa.int64())
    assert view_schema(schema, "item").field("size").type == pa.float32()


@pytest.mark.parametrize("name", ["product type", "größe", "a:b", "_x", "1st", ""])
def test_a_name_that_no_model_input_can_have_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ValidationError, match="must begin with a letter and hold letters, digits and _ only"):
        Schema.model_validate({"user_columns": {name: "categorical"}})


@pytest.mark.parametrize("name", ["user_numeric", "item_numeric", "user_history_age_days", "about_text"])
def test_a_name_that_the_encoder_gives_to_an_input_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"column '{name}' is what a model input is called"):
        Schema.model_validate({"item_columns": {name: "categorical"}})


SHOP = {"user_columns": {"age": "categorical", "income": "numeric"}, "item_columns": {"aisle": ["text", "categorical"]}}


def test_shares_are_two_lists_for_each_column_between_statistics_and_columns() -> None:
    schema = Schema.model_validate(SHOP | {"item_statistics_of": ["age"], "user_statistics_of": ["aisle"]})
    assert list(schema.view_fields("item"))[-3:] == [
        ("item_age_values", Storage.STRINGS),
        ("item_age_shares", Storage.FLOATS),
        ("aisle", Storage.STRING),
    ]
    assert view_schema(schema, "user").field("user_aisle_values").type == pa.list_(pa.string())
    assert view_schema(schema, "user").field("user_aisle_shares").type == pa.list_(pa.float32())
    assert Schema.model_validate(schema.model_dump(mode="json")) == schema


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("item_statistics_of", "income", "'income', which is not a categorical user column; expected some of: age"),
        ("item_statistics_of", "aisle", "'aisle', which is not a categorical user column; expected some of: age"),
        ("user_statistics_of", "aile", "'aile', which is not a categorical item column; expected some of: aisle"),
    ],
)
def test_shares_of_anything_but_a_categorical_column_of_the_other_side_are_refused(
    key: str, name: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=f"{key} names {message}"):
        Schema.model_validate(SHOP | {key: [name]})


def test_shares_without_any_column_to_count_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"user_statistics_of names 'aisle'.*expected some of: \(none declared\)"):
        Schema.model_validate({"user_statistics_of": ["aisle"]})


def test_shares_of_one_column_twice_are_refused() -> None:
    with pytest.raises(ValidationError, match="item_statistics_of names 'age' more than once; name it once"):
        Schema.model_validate(SHOP | {"item_statistics_of": ["age", "age"]})


def test_a_column_called_like_a_share_is_named() -> None:
    wrong = {"user_columns": {"age": "categorical", "item_age_shares": "numeric"}, "item_statistics_of": ["age"]}
    with pytest.raises(ValidationError, match="column 'item_age_shares' is used twice"):
        Schema.model_validate(wrong)
