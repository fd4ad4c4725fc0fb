"""The pooled lookup equals the sum of its formula, with the gradient of the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from towers.lookups import Fact, PooledFacts, PooledLookup, pooled_fact, pooled_lookup


@pytest.mark.parametrize("seed", range(5))
def test_sums_and_gradients_equal_those_of_a_gather_and_a_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows, length = int(rng.integers(1, 6)), int(rng.integers(1, 8))
    table = tf.Variable(rng.normal(size=(9, 3)))
    rows = rng.integers(0, 9, (num_rows, length)).astype(np.int32)
    num_sums = int(rng.integers(1, 4))
    weights = (rows > 2)[:, None, :] * rng.random((num_rows, num_sums, length))
    pull = rng.normal(size=(num_rows, num_sums, 3))
    with tf.GradientTape() as tape:
        found = pooled_lookup(lambda distinct: tf.gather(table, distinct), rows, tf.constant(weights))
        total = tf.reduce_sum(found * pull)
    gradient = tape.gradient(total, table)
    np.testing.assert_allclose(found, np.einsum("bkt,btd->bkd", weights, table.numpy()[rows]), rtol=1e-12, atol=1e-12)
    expected = np.zeros((9, 3))
    np.add.at(expected, rows.ravel(), np.einsum("bkt,bkd->btd", weights, pull).reshape(-1, 3))
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, rtol=1e-12, atol=1e-12)
    # What makes it fast: a row that comes often has one gradient.
    assert sorted(gradient.indices.numpy()) == sorted(set(rows.ravel()))


def test_padding_alone_sums_to_nothing() -> None:
    ones = tf.ones([4, 2])
    found = pooled_lookup(lambda rows: tf.gather(ones, rows), np.zeros((3, 5), np.int32), tf.zeros([3, 1, 5]))
    assert found.numpy().tolist() == [[[0, 0]]] * 3


def test_the_layer_gives_the_same_while_training_and_not() -> None:
    table = tf_keras.layers.Embedding(6, 2)
    pooled = PooledLookup(table)
    rows, weights = tf.constant([[1, 1, 5], [0, 2, 0]]), tf.constant([[[1.0, 0.5, 2.0]], [[0.0, 1.0, 0.0]]])
    np.testing.assert_allclose(pooled((rows, weights), training=True), pooled((rows, weights)), rtol=1e-6)
    np.testing.assert_allclose(pooled((rows, weights))[1, 0], table(2), rtol=1e-6)


def test_facts_of_items_are_looked_up_by_the_item() -> None:
    table = tf_keras.layers.Embedding(5, 2)
    cells = np.array([[0, 0], [1, 4], [2, 4]], np.int32)
    layer = PooledFacts(table, rows=cells)
    rows, weights = tf.constant([[1, 2, 1]]), tf.constant([[[1.0, 0.5, 2.0], [0.0, 1.0, 0.0]]])
    expected = np.stack([3 * (table(1) + table(4)) + 0.5 * (table(2) + table(4)), table(2) + table(4)])
    for training in (True, False):
        np.testing.assert_allclose(layer((rows, weights), training=training)[0], expected, rtol=1e-5)


def test_the_table_is_shared_with_its_other_readers() -> None:
    table = tf_keras.layers.Embedding(6, 2)
    inputs = {"own": tf_keras.Input((), dtype="int32"), "met": tf_keras.Input((3,), dtype="int32")}
    weights = tf.cast(inputs["met"] > 0, tf.float32)[:, None, :]
    total = table(inputs["own"]) + PooledLookup(table)((inputs["met"], weights))[:, 0]
    model = tf_keras.Model(inputs, total)
    assert [tuple(weights.shape) for weights in model.trainable_weights] == [(6, 2)]


@pytest.mark.parametrize("weighted", [False, True])
def test_an_item_is_described_by_the_mean_of_its_known_values(weighted: bool) -> None:
    table = tf_keras.layers.Embedding(5, 2)
    values = np.array([[0, 0], [1, 4], [2, 0]], np.int32)
    weights = np.array([[1, 1], [3, 1], [0.5, 9]], np.float32) if weighted else None
    layer = pooled_fact(Fact("tags", values, weights, is_mean=True), table, name="tags_of_history")
    rows, counts = tf.constant([[1, 2, 0]]), tf.constant([[[1.0, 0.5, 7.0]]])
    for training in (True, False):
        found = layer((rows, counts), training=training)[0, 0]
        # The second value of item 2 is not known: its weight counts nothing. Totals are a thousandth larger.
        first = (3 * table(1) + table(4)) / 4.001 if weighted else (table(1) + table(4)) / 2.001
        second = 0.5 * table(2) / 0.501 if weighted else table(2) / 1.001
        np.testing.assert_allclose(found, first + 0.5 * second, rtol=1e-5, atol=1e-7)


def test_vectors_of_items_are_summed_behind_the_projection_that_is_shared() -> None:
    projection = tf_keras.layers.Dense(2, use_bias=False, name="content_projection")
    vectors = np.array([[0, 0, 1], [1, 2, 0], [0, -1, 0]], np.float32)
    layer = pooled_fact(Fact("content", vectors), projection, name="content_of_history")
    rows, weights = tf.constant([[1, 2, 9]]), tf.constant([[[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    found = [layer((rows, weights), training=training)[0].numpy() for training in (True, False)]
    # Rows beyond the items, of ids that have a bucket only, are those of the last one.
    expected = projection(np.array([[1, 1.5, 0], [0, -1, 0]], np.float32))
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-5)
    assert projection.kernel.name == "content_projection/kernel:0"
