"""Columns of events are inputs of the user tower, and are missing where nothing gives them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from features.encoding import Encoder, fit_encoder
from features.schema import Schema, view_schema

SCHEMA = Schema.model_validate(
    {
        "user_columns": {"age": "numeric"},
        "event_columns": {
            "device": "categorical",
            "query": ["text", "categorical"],
            "paid": "numeric",
            "seen": "timestamp",
            "likes": "categories",
            "vector": "vector",
        },
    }
)
DAY = 86_400
USERS = pa.table({"user_id": ["u"], "age": [4.0]})
ITEMS = pa.table({"item_id": ["i"]})


def events(**given: list[Any]) -> pa.Table:
    """Two events of the second day of 1970, with nothing but what is given."""
    kinds = {
        "device": pa.string(),
        "query": pa.string(),
        "paid": pa.float64(),
        "seen": pa.int64(),
        "likes": pa.list_(pa.string()),
        "vector": pa.list_(pa.float32()),
    }
    moments = pa.array([dt.datetime(1970, 1, 2, tzinfo=dt.UTC)] * 2, pa.timestamp("us", "UTC"))
    arrays = {name: pa.array(given.get(name, [None, None]), kind) for name, kind in kinds.items()}
    return pa.table({"timestamp": moments, **arrays})


SAMPLES = [
    events(device=["tv", "app"], paid=[1, 3], likes=[["a"], ["b", "c", "a"]], vector=[[3, 4], None], query=["x", None]),
    events(device=["app", None], paid=[5, None], likes=[None, ["d"]], vector=[[0, 5], [1, 2, 3]]),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    sizes = {"history_length": 3, "text_length": 4, "text_buckets": 8}
    return fit_encoder(SCHEMA, USERS, ITEMS, [], **sizes, events=SAMPLES)


def user_rows(num: int, **more: pa.Array) -> pa.Table:
    fields = view_schema(SCHEMA, "user")
    nothing = {field.name: pa.nulls(num, field.type) for field in fields}
    return pa.table({"user_id": ["u"] * num, **nothing, **more})


def test_what_is_learned_of_events_comes_from_all_samples(encoder: Encoder) -> None:
    assert encoder.vocabularies["device"].ids([1, 2]) == ["app", "tv"]
    assert encoder.vocabularies["likes_values"].ids([1, 2, 3, 4]) == ["a", "b", "c", "d"]
    assert encoder.measures["likes_values"].length == 3
    # Of the widths 2, 2 and 3 the most common; the norms 5 and 5 have the mean 5.
    assert (encoder.measures["vector"].length, encoder.measures["vector"].scale) == (2, 1 / 5)
    # Of 1, 3 and 5.
    assert encoder.scaling["paid"] == (3, pytest.approx((8 / 3) ** 0.5))


def test_the_user_tower_has_their_inputs_and_the_feature_view_has_not(encoder: Encoder) -> None:
    specs = {spec.name: spec for spec in encoder.input_specs("user")}
    own = ["device", "query", "query_text", "likes_values", "vector", "event_numeric"]
    assert list(specs)[-len(own) :] == ["device", "query", "query_text", "likes_values", "vector", "event_numeric"]
    # Paid, and a moment's numbers.
    assert specs["event_numeric"].length == 1 + 8
    assert not {"device", "event_numeric"} & {spec.name for spec in encoder.input_specs("item")}
    assert not set(SCHEMA.event_columns) & set(view_schema(SCHEMA, "user").names)


def test_what_is_absent_is_encoded_as_what_is_null(encoder: Encoder) -> None:
    moments = np.array([2 * DAY, 2 * DAY])
    nothing = {name: events().column(name) for name in SCHEMA.event_columns}
    absent = encoder.encode_users(user_rows(2), as_of_seconds=moments)
    null = encoder.encode_users(user_rows(2, **nothing), as_of_seconds=moments)
    assert absent.keys() == null.keys()
    for name, values in absent.items():
        np.testing.assert_array_equal(values, null[name])
    assert absent["device"].tolist() == [0, 0]
    assert absent["vector"].tolist() == [[0, 0, 1]] * 2
    assert not absent["event_numeric"].any()
    assert not absent["query_text"].any()


def test_events_are_encoded_as_of_their_own_moment(encoder: Encoder) -> None:
    given = events(device=["app", "new"], paid=[3, 5], seen=[DAY // 2, None], vector=[[5, 0], [1, 2, 3]])
    found = encoder.encode_events(given, as_of_seconds=np.array([DAY, DAY]))
    assert found["device"].tolist() == [1, 0]
    # A vector of another width is none.
    np.testing.assert_allclose(found["vector"], [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(found["event_numeric"][:, 0], [0, 2 / (8 / 3) ** 0.5], rtol=1e-6)
    later = encoder.encode_events(given, as_of_seconds=np.array([9 * DAY, 9 * DAY]))
    assert (later["event_numeric"][0] != found["event_numeric"][0]).any()
    np.testing.assert_array_equal(later["event_numeric"][1], found["event_numeric"][1])


def test_an_encoder_with_columns_of_events_is_read_as_it_was_saved(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    again = Encoder.load(tmp_path)
    assert again.schema == SCHEMA
    assert again.measures == encoder.measures
    assert again.vocabularies["device"].ids([1, 2]) == ["app", "tv"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"event_columns": {"kind": "categorical"}}, "column 'kind' is used twice"),
        ({"event_columns": {"reward": "numeric"}}, "column 'reward' is used twice"),
        ({"event_columns": {"age": "numeric"}, "user_columns": {"age": "numeric"}}, "column 'age' is used twice"),
        ({"event_columns": {"user_row": "numeric"}}, "is what a column of the feature tables is called"),
        ({"event_columns": {"event_numeric": "numeric"}}, "is what a model input is called"),
        ({"event_columns": {"device": "device"}}, "column 'device' has kind 'device'"),
        ({"event_columns": {"tags_weights": "weights"}}, "column 'tags_weights' has weights"),
        ({"dated_columns": {"first_day": "timestamp"}}, "column 'first_day' is used twice"),
        ({"dated_columns": {"dated_numeric": "numeric"}}, "is what a model input is called"),
        ({"dated_columns": {"age": "numeric"}, "item_columns": {"age": "numeric"}}, "column 'age' is used twice"),
    ],
)
def test_names_and_kinds_that_mean_something_else_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate(declared)


def test_an_item_column_may_be_called_kind() -> None:
    assert Schema.model_validate({"item_columns": {"kind": "categorical"}, "event_kinds": {"view": 1}}).event_kinds
