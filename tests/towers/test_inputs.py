"""Each input of a tower becomes a vector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE
from features.kinds import InputSpec
from towers.history import HistoryWeights, weighted_means
from towers.inputs import (
    BucketDropout,
    History,
    SideBySideIdentities,
    embedding_tables,
    feature_vectors,
    input_tensors,
    projections,
)
from towers.lookups import PooledFacts, PooledLookup

ROWS = np.array([[3, 5, 0, 0]], np.int32)
AGES = np.array([[0.0, 10.0, 0.0, 3.0]], np.float32)
EPSILON = 1e-3


def weights(*, decay_days: float | None, power: float) -> np.ndarray:
    found: np.ndarray = HistoryWeights(decay_days=[decay_days], power=power)((ROWS, AGES)).numpy()
    return found[:, 0]


def test_known_items_of_a_history_count_alike() -> None:
    np.testing.assert_allclose(weights(decay_days=None, power=1.0), [[1 / 2, 1 / 2, 0, 0]], rtol=EPSILON)


def test_older_items_count_less() -> None:
    old = math.exp(-10 / 5)
    expected = [[1 / (1 + old), old / (1 + old), 0, 0]]
    np.testing.assert_allclose(weights(decay_days=5.0, power=1.0), expected, rtol=EPSILON)


def test_a_smaller_power_gives_longer_histories_larger_weights() -> None:
    np.testing.assert_allclose(weights(decay_days=None, power=0.5), [[1 / 2**0.5, 1 / 2**0.5, 0, 0]], rtol=EPSILON)
    np.testing.assert_allclose(weights(decay_days=None, power=0.0), [[1, 1, 0, 0]], rtol=EPSILON)
    old = math.exp(-10 / 5)
    expected = [[1 / (1 + old) ** 0.5, old / (1 + old) ** 0.5, 0, 0]]
    np.testing.assert_allclose(weights(decay_days=5.0, power=0.5), expected, rtol=EPSILON)


@pytest.mark.parametrize("decay_days", [None, 5.0])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_empty_history_counts_nothing(decay_days: float | None, power: float) -> None:
    found = HistoryWeights(decay_days=[decay_days], power=power)((np.zeros_like(ROWS), AGES))
    assert found.numpy().tolist() == [[[0, 0, 0, 0]]]


@pytest.mark.parametrize("decay_days", [None, 5.0])
def test_an_item_counts_the_same_at_every_position(decay_days: float | None) -> None:
    layer = HistoryWeights(decay_days=[decay_days], power=0.5)
    order = [2, 1, 3, 0]
    found = layer((ROWS[:, order], AGES[:, order]))
    np.testing.assert_allclose(found, layer((ROWS, AGES)).numpy()[:, :, order], rtol=1e-6)


def test_each_speed_has_weights_of_its_own() -> None:
    both = HistoryWeights(decay_days=[None, 5.0], power=0.5)((ROWS, AGES)).numpy()
    np.testing.assert_array_equal(both[:, 0], weights(decay_days=None, power=0.5))
    np.testing.assert_array_equal(both[:, 1], weights(decay_days=5.0, power=0.5))


def test_weights_are_made_again_from_their_configuration() -> None:
    layer = HistoryWeights(decay_days=[None, 3.5], power=0.25, name="history_pooling")
    again = HistoryWeights.from_config(layer.get_config())
    assert (again.decay_days, again.power, again.name) == ((None, 3.5), 0.25, "history_pooling")
    np.testing.assert_array_equal(again((ROWS, AGES)), layer((ROWS, AGES)))


def test_inputs_are_named_and_typed_as_declared() -> None:
    specs = [InputSpec("user_id", "id", None, 5), InputSpec("name_text", "text", 3, 7), InputSpec("n", "numeric", 2)]
    tensors = input_tensors(specs)
    assert {name: (tensor.name, tensor.dtype.name, tensor.shape.as_list()) for name, tensor in tensors.items()} == {
        "user_id": ("user_id", "int32", [None]),
        "name_text": ("name_text", "int32", [None, 3]),
        "n": ("n", "float32", [None, 2]),
    }


def test_each_kind_of_input_gives_its_vector_by_hand() -> None:
    specs = [
        InputSpec("item_id", "id", None, 5),
        InputSpec("aisle", "categorical", None, 3),
        InputSpec("title_text", "text", 3, 4),
        InputSpec("item_numeric", "numeric", 2),
    ]
    tensors, tables = input_tensors(specs), embedding_tables(specs, width=2)
    model = tf_keras.Model(tensors, feature_vectors(specs, tensors, width=2, tables=tables))
    values = {
        "item_id": [[0, 0], [1, 2], [3, 4], [5, 6], [7, 8]],
        "aisle": [[0, 1], [10, 20], [30, 40]],
        "title_text": [[99, 99], [1, 0], [0, 1], [5, 5]],
    }
    for name, rows in values.items():
        tables[name].set_weights([np.array(rows, np.float32)])
    model.get_layer("item_numeric_weights").set_weights([np.array([[1, 0], [2, -1]], np.float32)])
    inputs = {
        "item_id": np.array([4, 0], np.int32),
        "aisle": np.array([2, 0], np.int32),
        "title_text": np.array([[1, 3, 0], [0, 0, 0]], np.int32),
        "item_numeric": np.array([[0.5, 2], [0, 0]], np.float32),
    }
    of_id, of_category, of_text, of_numbers = (vector.numpy() for vector in model(inputs))
    assert of_id.tolist() == [[7, 8], [0, 0]]
    assert of_category.tolist() == [[30, 40], [0, 1]]
    # The mean of buckets 1 and 3; padding counts nothing, for any content of row 0.
    np.testing.assert_allclose(of_text, [[6 / 2, 5 / 2], [0, 0]], rtol=EPSILON)
    assert of_numbers.tolist() == [[0.5 + 2 * 2, -2], [0, 0]]


def test_several_values_and_vectors_give_their_vectors_by_hand() -> None:
    specs = [
        InputSpec("tags_values", "categories", 2, 4, weights="tags_weights"),
        InputSpec("likes_values", "categories", 2, 3),
        InputSpec("tags_weights", "weights", 2),
        InputSpec("content", "vector", 3),
    ]
    tensors = input_tensors(specs)
    tables = {**embedding_tables(specs, width=2), **projections(specs, width=2)}
    model = tf_keras.Model(tensors, feature_vectors(specs, tensors, width=2, tables=tables))
    tables["tags_values"].set_weights([np.array([[99, 99], [1, 0], [0, 1], [5, 5]], np.float32)])
    tables["likes_values"].set_weights([np.array([[99, 99], [1, 2], [3, 4]], np.float32)])
    tables["content"].set_weights([np.array([[1, 0], [0, 1], [7, 8]], np.float32)])
    inputs = {
        "tags_values": np.array([[1, 3], [0, 2], [0, 0]], np.int32),
        "tags_weights": np.array([[3, 1], [5, 2], [1, 1]], np.float32),
        "likes_values": np.array([[1, 2], [0, 2], [0, 0]], np.int32),
        "content": np.array([[2, 3, 0], [0, 0, 1], [0, 0, 0]], np.float32),
    }
    # Weights alone give no vector.
    of_tags, of_likes, of_content = (vector.numpy() for vector in model(inputs))
    np.testing.assert_allclose(of_tags, [[(3 + 5) / 4, 5 / 4], [0, 1], [0, 0]], rtol=EPSILON)
    np.testing.assert_allclose(of_likes, [[2, 3], [3, 4], [0, 0]], rtol=EPSILON)
    # What is missing has a vector of its own.
    assert of_content.tolist() == [[2, 3], [7, 8], [0, 0]]


@pytest.mark.parametrize("training", [False, True])
def test_a_history_is_the_weighted_sum_of_its_items_by_hand(training: bool) -> None:
    specs = [InputSpec(HISTORY, "history", 4, 6), InputSpec(HISTORY_AGE, "history_number", 4)]
    tensors = input_tensors(specs)
    table = tf_keras.layers.Embedding(6, 2)
    cells = tf_keras.layers.Embedding(3, 2)
    encoder = weighted_means(decay_days=[None, 5.0], power=1.0)
    # Item 3 is in cell 1, item 5 in cell 2.
    cell_of = np.array([0, 0, 0, 1, 0, 2], np.int32)

    def encode(table_rows: tf.Tensor) -> tf.Tensor:
        facts = [PooledFacts(cells, rows=cell_of)]
        return encoder(History(tensors[HISTORY], table_rows, tensors[HISTORY_AGE], PooledLookup(table), facts))

    [vector] = feature_vectors(specs, tensors, width=2, tables={}, encode_history=encode)
    model = tf_keras.Model(tensors, vector)
    table.set_weights([np.array([[9, 9], [0, 0], [0, 0], [1, 0], [0, 0], [0, 2]], np.float32)])
    cells.set_weights([np.array([[9, 9], [10, 0], [0, 20]], np.float32)])
    kernel = np.array([[1, 0], [0, 3], [0, 0], [100, 0]], np.float32)
    model.get_layer("user_history_weights").set_weights([kernel])
    inputs = {HISTORY: np.repeat(ROWS, 2, axis=0), HISTORY_AGE: np.repeat(AGES, 2, axis=0)}
    inputs[HISTORY][1] = 0
    # Item 3 is (11, 0) and item 5 is (0, 22): in the mean of both they count alike, in the one that fades e^-2 to 1.
    faded = 22 * math.exp(-2) / (1 + math.exp(-2))
    np.testing.assert_allclose(model(inputs, training=training), [[5.5 + 100 * faded, 33], [0, 0]], rtol=2 * EPSILON)


def test_the_means_of_a_history_are_averaged_at_first() -> None:
    kernel = SideBySideIdentities()((6, 3)).numpy()
    np.testing.assert_array_equal(np.array([1, 2, 3, 5, 6, 7], np.float32) @ kernel, [3, 4, 5])
    assert SideBySideIdentities()((4, 3)).shape == (4, 3)


def test_the_latest_items_of_a_history_can_be_read_one_by_one() -> None:
    table = tf_keras.layers.Embedding(6, 2, embeddings_initializer="uniform")
    history = History(tf.constant(ROWS), tf.constant(ROWS), tf.constant(AGES), PooledLookup(table))
    np.testing.assert_allclose(history.vectors(2)[0], table(np.array([3, 5])), rtol=1e-6)


def test_shares_give_no_vector_of_their_own() -> None:
    specs = [InputSpec("item_id", "id", None, 5), InputSpec("item_country_shares", "shares", 3)]
    tensors = input_tensors(specs)
    assert tensors["item_country_shares"].shape.as_list() == [None, 3]
    assert len(feature_vectors(specs, tensors, width=2, tables=embedding_tables(specs, width=2))) == 1


def test_numbers_without_columns_give_no_vector() -> None:
    specs = [InputSpec("item_id", "id", None, 5), InputSpec("item_numeric", "numeric", 0)]
    tensors = input_tensors(specs)
    assert len(feature_vectors(specs, tensors, width=2, tables=embedding_tables(specs, width=2))) == 1


def test_a_history_needs_an_encoder() -> None:
    specs = [InputSpec(HISTORY, "history", 4, 9), InputSpec(HISTORY_AGE, "history_number", 4)]
    with pytest.raises(ValueError, match="input 'user_history' is a history; pass encode_history"):
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
