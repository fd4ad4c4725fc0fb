"""Dated facts of items are inputs of the item tower, and none is another thing than a usual one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.encoding import Encoder, fit_encoder
from features.schema import Schema, snapshot_schema, view_schema

SCHEMA = Schema.model_validate(
    {
        "item_columns": {"aisle": "categorical"},
        "dated_columns": {"discount": "numeric", "shelf": "categorical", "tags": "categories"},
    }
)
USERS, ITEMS = pa.table({"user_id": ["u"]}), pa.table({"item_id": ["i"], "aisle": ["tea"]})
FACTS = [
    pa.table({"discount": [0.1], "shelf": ["front"], "tags": pa.array([["a"]])}),
    pa.table({"discount": [0.3], "shelf": ["back"], "tags": pa.array([["b", "c"]])}),
]


def rows(discount: list[float | None], shelf: list[str | None]) -> pa.Table:
    """Rows of the item view with some facts, joined at the start of 1970."""
    schema = snapshot_schema(SCHEMA, "item")
    given = {"item_id": ["i"] * len(discount), "discount": discount, "shelf": shelf}
    arrays = [
        pa.array(given[field.name], field.type) if field.name in given else pa.nulls(len(discount), field.type)
        for field in schema
    ]
    moments = pa.array([0] * len(discount), pa.timestamp("us", "UTC"))
    found = pa.table(arrays, schema=schema)
    return found.set_column(schema.get_field_index("event_timestamp"), "event_timestamp", moments)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    # Half of the samples have a fact.
    sample = rows([0.1, 0.3, None, None], ["front", None, None, None])
    sizes = {"history_length": 3, "text_length": 4, "text_buckets": 8}
    return fit_encoder(SCHEMA, USERS, ITEMS, [("item", sample)], **sizes, dated=FACTS)


def test_the_feature_view_of_items_has_them_behind_its_columns() -> None:
    assert view_schema(SCHEMA, "item").names[-4:] == ["aisle", "discount", "shelf", "tags"]
    assert not set(SCHEMA.dated_columns) & set(view_schema(SCHEMA, "user").names)


def test_values_are_learned_of_all_facts_and_scales_of_samples(encoder: Encoder) -> None:
    assert encoder.vocabularies["shelf"].ids([1, 2]) == ["back", "front"]
    assert encoder.vocabularies["tags_values"].ids([1, 2, 3]) == ["a", "b", "c"]
    assert encoder.measures["tags_values"].length == 2
    assert encoder.scaling["discount"] == (pytest.approx(0.2), pytest.approx(0.1))
    assert encoder.scaling["dated.any"] == (0.5, 0.5)


def test_no_fact_is_told_from_the_usual_one(encoder: Encoder) -> None:
    found = encoder.encode_items(rows([0.2, None, None], [None, None, "back"]), as_of_seconds=np.zeros(3, np.int64))
    # Whether there is any, and the discount, which is at its mean where it is not known.
    np.testing.assert_allclose(found["dated_numeric"], [[1, 0], [-1, 0], [1, 0]], atol=1e-6)
    assert found["shelf"].tolist() == [0, 0, 1]


def test_they_describe_no_items_of_histories(encoder: Encoder) -> None:
    specs = {spec.name: spec for spec in encoder.input_specs("item")}
    assert list(specs)[-3:] == ["shelf", "tags_values", "dated_numeric"]
    assert [name for name, spec in specs.items() if spec.is_fact] == ["aisle"]
    assert [spec.name for spec, _ in encoder.facts_of(ITEMS)] == ["aisle"]
