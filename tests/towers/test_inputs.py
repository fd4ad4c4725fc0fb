"""How does each input of a tower become a vector?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, InputSpec
from towers.inputs import BucketDropout, HistoryPooling, embedding_tables, feature_vectors, input_tensors

VECTORS = np.array([[[1, 0], [0, 2], [4, 4], [9, 9]]], np.float32)
ROWS = np.array([[3, 5, 0, 0]], np.int32)
AGES = np.array([[0.0, 10.0, 0.0, 3.0]], np.float32)
EPSILON = 1e-3


def pooled(**settings: float | None) -> np.ndarray:
    found: np.ndarray = HistoryPooling(**settings)((VECTORS, ROWS, AGES)).numpy()
    return found


def test_a_history_is_the_mean_of_its_known_items() -> None:
    np.testing.assert_allclose(pooled(decay_days=None, power=1.0), [[1 / 2, 2 / 2]], rtol=EPSILON)


def test_older_items_count_less() -> None:
    weight = math.exp(-10 / 5)
    expected = [[1 / (1 + weight), 2 * weight / (1 + weight)]]
    np.testing.assert_allclose(pooled(decay_days=5.0, power=1.0), expected, rtol=EPSILON)


def test_a_smaller_power_gives_longer_histories_longer_vectors() -> None:
    np.testing.assert_allclose(pooled(decay_days=None, power=0.5), [[1 / 2**0.5, 2 / 2**0.5]], rtol=EPSILON)
    np.testing.assert_allclose(pooled(decay_days=None, power=0.0), [[1, 2]], rtol=EPSILON)
    weight = math.exp(-10 / 5)
    expected = [[1 / (1 + weight) ** 0.5, 2 * weight / (1 + weight) ** 0.5]]
    np.testing.assert_allclose(pooled(decay_days=5.0, power=0.5), expected, rtol=EPSILON)


@pytest.mark.parametrize("decay_days", [None, 5.0])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_empty_history_is_zero(decay_days: float | None, power: float) -> None:
    found = HistoryPooling(decay_days=decay_days, power=power)((VECTORS, np.zeros_like(ROWS), AGES))
    assert found.numpy().tolist() == [[0, 0]]


@pytest.mark.parametrize("decay_days", [None, 5.0])
def test_the_order_of_the_history_does_not_matter(decay_days: float | None) -> None:
    layer = HistoryPooling(decay_days=decay_days, power=0.5)
    order = [2, 1, 3, 0]
    found = layer((VECTORS[:, order], ROWS[:, order], AGES[:, order]))
    np.testing.assert_allclose(found, layer((VECTORS, ROWS, AGES)), rtol=1e-6)


def test_pooling_is_made_again_from_its_configuration() -> None:
    layer = HistoryPooling(decay_days=3.5, power=0.25, name="history_pooling")
    again = HistoryPooling.from_config(layer.get_config())
    assert (again.decay_days, again.power, again.name) == (3.5, 0.25, "history_pooling")
    np.testing.assert_array_equal(again((VECTORS, ROWS, AGES)), layer((VECTORS, ROWS, AGES)))


def test_inputs_are_named_and_typed_as_declared() -> None:
    specs = [InputSpec("user_id", "id", None, 5), InputSpec("name_text", "text", 3, 7), InputSpec("n", "numeric", 2)]
    tensors = input_tensors(specs)
    assert {name: (tensor.name, tensor.dtype.name, tensor.shape.as_list()) for name, tensor in tensors.items()} == {
        "user_id": ("user_id", "int32", [None]),
        "name_text": ("name_text", "int32", [None, 3]),
        "n": ("n", "float32", [None, 2]),
    }


def model_of(specs: list[InputSpec]) -> tf_keras.Model:
    tensors = input_tensors(specs)
    tables = embedding_tables(specs, width=2)
    return tf_keras.Model(tensors, feature_vectors(specs, tensors, width=2, tables=tables))


def test_each_kind_of_input_gives_its_vector_by_hand() -> None:
    specs = [
        InputSpec("item_id", "id", None, 5),
        InputSpec("aisle", "categorical", None, 3),
        InputSpec("title_text", "text", 3, 4),
        InputSpec("item_numeric", "numeric", 2),
    ]
    model = model_of(specs)
    tables = {
        "item_id_table": [[0, 0], [1, 2], [3, 4], [5, 6], [7, 8]],
        "aisle_table": [[0, 1], [10, 20], [30, 40]],
        "title_text_table": [[99, 99], [1, 0], [0, 1], [5, 5]],
        "item_numeric_weights": [[1, 0], [2, -1]],
    }
    for name, values in tables.items():
        model.get_layer(name).set_weights([np.array(values, np.float32)])
    inputs = {
        "item_id": np.array([4, 0], np.int32),
        "aisle": np.array([2, 0], np.int32),
        "title_text": np.array([[1, 3, 0], [0, 0, 0]], np.int32),
        "item_numeric": np.array([[0.5, 2], [0, 0]], np.float32),
    }
    of_id, of_category, of_text, of_numbers = (vector.numpy() for vector in model(inputs))
    assert of_id.tolist() == [[7, 8], [0, 0]]
    assert of_category.tolist() == [[30, 40], [0, 1]]
    # The mean of buckets 1 and 3; padding counts nothing, whatever stands in row 0.
    np.testing.assert_allclose(of_text, [[6 / 2, 5 / 2], [0, 0]], rtol=EPSILON)
    assert of_numbers.tolist() == [[0.5 + 2 * 2, -2], [0, 0]]


def test_numbers_without_columns_give_no_vector() -> None:
    specs = [InputSpec("item_id", "id", None, 5), InputSpec("item_numeric", "numeric", 0)]
    tensors = input_tensors(specs)
    assert len(feature_vectors(specs, tensors, width=2, tables=embedding_tables(specs, width=2))) == 1


def test_a_history_needs_the_table_of_its_items() -> None:
    specs = [InputSpec(HISTORY, "history", 4, 9), InputSpec(HISTORY_AGE, "history_number", 4)]
    with pytest.raises(ValueError, match="input 'user_history' is a history; pass the table of its items"):
        feature_vectors(specs, input_tensors(specs), width=2, tables=embedding_tables(specs, width=2))


def test_dropped_ids_become_their_buckets_while_training_only() -> None:
    layer = BucketDropout(rate=0.25, bucket_of_row=[0, 5, 6, 5, 6])
    rows = np.tile(np.arange(5, dtype=np.int32), (2000, 1))
    np.testing.assert_array_equal(layer(rows), rows)
    found = layer(rows, training=True).numpy()
    assert (found.dtype, found.shape) == (np.int32, rows.shape)
    assert (found[:, 0] == 0).all()
    for row, bucket in enumerate([5, 6, 5, 6], start=1):
        assert set(found[:, row]) == {row, bucket}
        assert (found[:, row] == bucket).mean() == pytest.approx(0.25, abs=0.05)


def test_ids_are_dropped_independently_of_each_other() -> None:
    layer = BucketDropout(rate=0.5, bucket_of_row=[0, 2])
    dropped = layer(np.ones((4000, 2), np.int32), training=True).numpy() == 2
    assert (dropped[:, 0] & dropped[:, 1]).mean() == pytest.approx(0.25, abs=0.04)


def test_rows_that_are_buckets_already_stay() -> None:
    layer = BucketDropout(rate=0.999, bucket_of_row=[0, 3, 4])
    assert layer(np.array([3, 4], np.int32), training=True).numpy().tolist() == [3, 4]


def test_id_dropout_is_made_again_from_its_configuration() -> None:
    again = BucketDropout.from_config(BucketDropout(rate=0.1, bucket_of_row=[0, 2], name="drop").get_config())
    assert (again.rate, again.bucket_of_row.tolist(), again.name) == (0.1, [0, 2], "drop")
