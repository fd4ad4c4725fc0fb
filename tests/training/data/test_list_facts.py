"""Lists of items as training reads them: facts of histories, categories, and what a warm start keeps of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.paths import RunPaths
from features.encoding import Encoder
from features.kinds import Measure
from features.schema import Schema, view_schema
from training.config import TowerConfig
from training.data import training_data

SCHEMA = Schema.model_validate(
    {
        "item_columns": {
            "tags": "categories",
            "tags_weights": "weights",
            "content": "vector",
            "place": "geo",
            "kind": "categorical",
        },
        "item_category": "tags",
    }
)
ITEMS = [
    {"tags": ["b", "a"], "tags_weights": [3.0, 1.0], "content": [3.0, 4.0], "place": [48.0, 11.0], "kind": "x"},
    {},
    {"tags": ["a"], "content": [0.0, 15.0], "place": [48.0, 11.0]},
    {"tags": ["b", "a"]},
]


def fitted(folder: Path, items: list[dict[str, object]], parent: Encoder | None = None) -> tuple[RunPaths, Encoder]:
    paths = RunPaths(folder, dt.date(2024, 1, 1))
    paths.tables.mkdir(parents=True, exist_ok=True)
    fields = [("item_id", pa.string()), *((field.name, field.type) for field in view_schema(SCHEMA, "item"))]
    rows = [{"item_id": f"i{number}"} | item for number, item in enumerate(items)]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), paths.tables / "items.parquet")
    pq.write_table(pa.table({"user_id": ["u"]}), paths.tables / "users.parquet")
    settings = {"dataset": SCHEMA, "towers": TowerConfig(id_buckets=2), "history_length": 3}
    if parent is None:
        return paths, training_data.fit_encoder_on(paths, [], **settings)
    return paths, training_data.grown_encoder(paths, parent, **settings)


def test_items_of_a_history_are_known_by_lists_vectors_and_places(tmp_path: Path) -> None:
    paths, encoder = fitted(tmp_path, ITEMS)
    facts = {fact.name: fact for fact in training_data._facts(paths, encoder)}
    assert list(facts) == ["kind", "tags_values", "content", "place_cells"]
    # Rows of the unknown item, of the four items, and of the two buckets of ids.
    assert facts["tags_values"].values.tolist() == [[0, 0], [2, 1], [0, 0], [1, 0], [2, 1], [0, 0], [0, 0]]
    shares = facts["tags_values"].shares
    assert shares is not None
    np.testing.assert_allclose(shares[1:5], [[3 / 4, 1 / 4], [0, 0], [1, 0], [1 / 2, 1 / 2]], rtol=2e-3)
    # Lengths 5 and 15 are 10 on average. What has no vector has the mark of it.
    expected = [[0, 0, 1], [0.3, 0.4, 0], [0, 0, 1], [0, 1.5, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    np.testing.assert_allclose(facts["content"].values, expected, rtol=1e-6)
    assert [fact.is_place for fact in facts.values()] == [False, False, False, True]
    assert [fact.is_mean for fact in facts.values()] == [False, True, False, False]


def test_all_categories_of_an_item_together_are_its_category_for_methods_that_need_one(tmp_path: Path) -> None:
    paths, encoder = fitted(tmp_path, ITEMS)
    assert training_data._categories(training_data._facts(paths, encoder), encoder).tolist() == [0, 2, 0, 1, 2]


def test_vectors_of_too_many_items_are_not_part_of_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, encoder = fitted(tmp_path, ITEMS)
    monkeypatch.setattr(training_data, "LARGEST_VECTORS_BYTES", 7 * 3 * 4 - 1)
    assert "content" not in [fact.name for fact in training_data._facts(paths, encoder)]


def test_a_warm_start_scales_vectors_as_before_and_reads_longer_lists(tmp_path: Path) -> None:
    _, parent = fitted(tmp_path, ITEMS)
    _, encoder = fitted(tmp_path, [*ITEMS, {"tags": ["a", "b", "c"], "content": [90.0, 0.0]}], parent)
    assert parent.measures == {"tags_values": Measure(2), "content": Measure(2, 0.1)}
    assert encoder.measures == {"tags_values": Measure(3), "content": Measure(2, 0.1)}
    with pytest.raises(ValueError, match=r"vectors of column content have 3 numbers, expected 2 as in .* --full"):
        fitted(tmp_path, [{"content": [1.0, 2.0, 3.0]}], parent)
