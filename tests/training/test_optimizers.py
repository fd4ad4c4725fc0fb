"""Optimisers that update rows do what Keras's own do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from training.optimizers import RowAdagrad, RowAdam

LEGACY = tf_keras.optimizers.legacy.Adagrad


def fitted(optimizer: tf_keras.optimizers.legacy.Optimizer, *, steps: int) -> list[npt.NDArray[np.float32]]:
    """A table looked up with repeats and a dense weight, after some steps, and the table's accumulator."""
    rng = np.random.default_rng(1)
    table, dense = tf.Variable(rng.normal(size=(20, 3)).astype("f")), tf.Variable([[1.0], [2.0], [-1.0]])

    def step(rows: tf.Tensor, wanted: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(tf.matmul(tf.gather(table, rows), dense)[:, 0] - wanted))
        optimizer.apply_gradients(zip(tape.gradient(loss, [table, dense]), [table, dense], strict=True))

    traced = tf.function(step)
    for _ in range(steps):
        # Row 7 comes twice in every batch, rows from 15 on never.
        rows = np.concatenate([[7, 7], rng.integers(0, 15, 4)])
        traced(tf.constant(rows), tf.constant(rng.normal(size=6).astype("f")))
    return [table.numpy(), dense.numpy(), optimizer.get_slot(table, "accumulator").numpy()]


def test_weights_and_accumulators_equal_those_of_the_optimiser_that_it_replaces() -> None:
    found = fitted(RowAdagrad(0.3, initial_accumulator_value=0.2, epsilon=1e-3), steps=6)
    expected = fitted(LEGACY(0.3, initial_accumulator_value=0.2, epsilon=1e-3), steps=6)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_rows_that_no_batch_has_stay_as_they_are() -> None:
    table, _, accumulator = fitted(RowAdagrad(0.3, initial_accumulator_value=0.2), steps=3)
    start = np.random.default_rng(1).normal(size=(20, 3)).astype("f")
    np.testing.assert_array_equal(table[15:], start[15:])
    assert (table[7] != start[7]).all()
    assert (accumulator[15:] == np.float32(0.2)).all()
    assert (accumulator[7] > 0.2).all()


def test_its_state_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    table = tf.Variable(tf.ones([4, 2]))
    optimizer = RowAdagrad(0.5)

    def step(row: int) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, [row]))
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])

    step(1)
    saved = tf.train.Checkpoint(table=table, optimizer=optimizer).save(f"{tmp_path}/state")
    step(1)
    after = table.numpy()
    tf.train.Checkpoint(table=table, optimizer=optimizer).restore(saved).assert_consumed()
    step(1)
    np.testing.assert_array_equal(table.numpy(), after)


def test_adam_moves_each_row_as_keras_does_while_all_rows_have_gradients() -> None:
    rng = np.random.default_rng(3)
    start, target = rng.normal(size=(2, 5, 3)).astype("f")
    tables = []
    for optimizer in (RowAdam(0.02), tf_keras.optimizers.legacy.Adam(0.02)):
        table = tf.Variable(start)
        for _ in range(7):
            with tf.GradientTape() as tape:
                off = tf.gather(table, [3, 0, 1, 2, 4, 0]) - tf.gather(target, [3, 0, 1, 2, 4, 0])
                loss = tf.reduce_sum(tf.square(off))
            optimizer.apply_gradients([(tape.gradient(loss, table), table)])
        tables.append(table.numpy())
    np.testing.assert_allclose(*tables, rtol=1e-5, atol=1e-6)
    assert (np.abs(tables[0] - start) > 0.05).any()


def test_adam_leaves_rows_and_their_moments_alone_that_no_batch_has() -> None:
    table, optimizer = tf.Variable(tf.ones([4, 2])), RowAdam(0.1)
    for rows in ([1, 2], [2]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, rows))
        before = table.numpy()
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])
        moved = (table.numpy() != before).all(axis=1)
        assert moved.tolist() == [row in rows for row in range(4)]
    moments = optimizer.get_slot(table, "m").numpy()
    # Row 1 had one gradient of 1, and its moment does not fade at the step without it.
    np.testing.assert_allclose(moments[:, 0], [0, 0.1, 0.19, 0], rtol=1e-6)
