"""Neighbours enter vectors by the formula, and the gradient reaches both tables through them."""

import numpy as np
import pytest
import tensorflow as tf

from training.published.id_towers import NeighbourTowers

USERS = np.array([0, 0, 1, 2])
ITEMS = np.array([0, 1, 1, 3])


def towers(num_hops: int, *, users=USERS, items=ITEMS) -> NeighbourTowers:
    return NeighbourTowers(users, items, num_users=4, num_items=5, embedding_dim=3, num_hops=num_hops, seed=1)


def dense_map(num_hops: int) -> np.ndarray:
    """The linear map on all rows at once, users first, in float64."""
    met = np.zeros((4, 5))
    met[USERS, ITEMS] = 1
    met /= np.sqrt(np.maximum(met.sum(1), 1))[:, None] * np.sqrt(np.maximum(met.sum(0), 1))[None, :]
    step = np.block([[np.zeros((4, 4)), met], [met.T, np.zeros((5, 5))]])
    return sum(np.linalg.matrix_power(step, hop) for hop in range(num_hops + 1))


@pytest.mark.parametrize("num_hops", [0, 1, 2, 3])
def test_vectors_are_the_sum_over_hops(num_hops):
    found = towers(num_hops)
    tables = np.concatenate([found.user_table.numpy(), found.item_table.numpy()])
    users, items = found.vectors()
    np.testing.assert_allclose(np.concatenate([users, items]), dense_map(num_hops) @ tables, atol=1e-6)


@pytest.mark.parametrize("num_hops", [0, 2])
def test_the_gradient_is_the_transposed_map_of_the_upstream_one(num_hops):
    found = towers(num_hops)
    upstream = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        users, items = found.vectors()
        loss = tf.reduce_sum(users * upstream[:4]) + tf.reduce_sum(items * upstream[4:])
    gradients = np.concatenate(tape.gradient(loss, [found.user_table, found.item_table]))
    np.testing.assert_allclose(gradients, dense_map(num_hops).T @ upstream, atol=1e-5)


def test_a_gradient_on_some_rows_only_is_spread_too():
    found = towers(1)
    with tf.GradientTape() as tape:
        users, _ = found.vectors()
        loss = tf.reduce_sum(tf.gather(users, [0]))
    of_users, of_items = tape.gradient(loss, [found.user_table, found.item_table])
    np.testing.assert_allclose(of_users.numpy()[:, 0], [1, 0, 0, 0], atol=1e-6)
    # User 0 has two items; item 0 has one user, item 1 has two.
    np.testing.assert_allclose(of_items.numpy()[:, 0], [1 / np.sqrt(2), 1 / 2, 0, 0, 0], atol=1e-6)


def test_a_row_without_neighbours_keeps_its_own_vector():
    found = towers(2)
    users, items = found.vectors()
    np.testing.assert_array_equal(users[3], found.user_table[3])
    np.testing.assert_array_equal(items[4], found.item_table[4])
