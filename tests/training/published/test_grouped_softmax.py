"""The loss of all of a user's items at once is the loss item by item, and tends to the full softmax."""

import numpy as np
import pytest
import tensorflow as tf

from training.losses.softmax import in_batch_softmax
from training.published.id_towers import grouped_softmax

TEMPERATURE = 0.2


def unit(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reference(users, candidates, row, column, log_q):
    """Item by item in float64."""
    logits = users.astype(np.float64) @ candidates.astype(np.float64).T / TEMPERATURE - log_q
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return sum(log_sums[r] - logits[r, c] for r, c in zip(row, column, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_sum_over_pairs(seed):
    rng = np.random.default_rng(seed)
    users, candidates = unit(4, 5, seed), unit(9, 5, seed + 10)
    row, column = np.array([0, 0, 1, 3, 3, 3]), rng.integers(0, 9, 6)
    log_q = np.log(rng.uniform(0.05, 1, 9)).astype(np.float32)
    found = grouped_softmax(users, candidates, row, column, log_q=log_q, temperature=TEMPERATURE)
    np.testing.assert_allclose(found, reference(users, candidates, row, column, log_q), rtol=1e-5)


def test_one_pair_a_user_is_the_in_batch_softmax_with_the_same_gradients():
    users, candidates = tf.constant(unit(6, 4, 1)), tf.constant(unit(8, 4, 2))
    log_q = tf.math.log(tf.linspace(0.1, 1.0, 8))
    pairs = tf.range(6)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([users, candidates])
        grouped = grouped_softmax(users, candidates, pairs, pairs, log_q=log_q, temperature=TEMPERATURE)
        scores = tf.matmul(users, candidates, transpose_b=True) / TEMPERATURE
        single = tf.reduce_sum(in_batch_softmax(scores, log_q))
    np.testing.assert_allclose(grouped, single, rtol=1e-5)
    for ours, theirs in zip(
        tape.gradient(grouped, [users, candidates]), tape.gradient(single, [users, candidates]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_rare_candidate_counts_more_in_the_sum():
    users, candidates = unit(1, 3, 1), unit(2, 3, 2)
    row = column = np.array([0])

    def loss(rare: float) -> float:
        log_q = np.log([1.0, rare]).astype(np.float32)
        return float(grouped_softmax(users, candidates, row, column, log_q=log_q, temperature=TEMPERATURE))

    # A candidate that occurs in one batch of ten counts for ten in the catalogue.
    assert loss(0.1) > loss(0.5) > loss(1.0)


def test_it_tends_to_the_softmax_over_the_catalogue_as_more_candidates_are_drawn():
    rng = np.random.default_rng(3)
    users, items = unit(1, 6, 1), unit(400, 6, 2)
    full = reference(users, items, [0], [0], np.zeros(400))
    errors = []
    for num_drawn in (20, 100, 300):
        probability = np.full(400, num_drawn / 399)
        probability[0] = 1.0
        found = []
        for _ in range(200):
            chosen = np.concatenate([[0], 1 + rng.choice(399, num_drawn, replace=False)])
            log_q = np.log(probability[chosen]).astype(np.float32)
            first = np.array([0])
            found.append(
                float(grouped_softmax(users, items[chosen], first, first, log_q=log_q, temperature=TEMPERATURE))
            )
        errors.append(abs(np.mean(found) - full))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.01


@pytest.mark.parametrize("columns", [[0], [0, 0, 0]])
def test_a_batch_of_one_item_has_no_loss(columns):
    rows = np.zeros(len(columns), int)
    log_q = np.zeros(1, np.float32)
    loss = grouped_softmax(unit(1, 3, 1), unit(1, 3, 2), rows, np.array(columns), log_q=log_q, temperature=TEMPERATURE)
    np.testing.assert_allclose(loss, 0.0, atol=1e-5)
