"""Several interests in the loss: scores, the choice of a head and the local loss by slow twins, and their gradients."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from training.losses.interests import interests_term, local_loss
from training.losses.objective import Outputs, picked, products
from training.losses.softmax import LogQ, softmax_term

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
NUM_ROWS, NUM_COLUMNS, NUM_QUEUED, NUM_PRIVATE, K, D, TEMPERATURE = 3, 5, 2, 2, 4, 6, 0.3
RNG = np.random.default_rng(3)


def unit(*shape: int) -> npt.NDArray[np.float32]:
    vectors = RNG.normal(size=(*shape, D))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def drawn(interests: npt.NDArray[np.float32], *, private: bool, **batch: Any) -> Outputs:
    num, of_rows = NUM_COLUMNS + NUM_QUEUED, NUM_PRIVATE if private else 0
    items = unit(NUM_COLUMNS + NUM_ROWS * of_rows)
    given = {
        "mask": RNG.random((NUM_ROWS, num + of_rows)) < 0.3,
        "log_q": RNG.normal(-2, 1, num).astype(np.float32),
        "weight": np.array([0.5, 2, 1], np.float32),
        **batch,
    }
    if private:
        given["private_log_q"] = np.zeros((NUM_ROWS, NUM_PRIVATE), np.float32)
    users = {"interests": interests, "vector": picked(interests, items[:NUM_ROWS])}
    return Outputs(
        users={name: tf.convert_to_tensor(values) for name, values in users.items()},
        items={"vector": tf.convert_to_tensor(items)},
        batch={name: tf.convert_to_tensor(values) for name, values in given.items()},
        temperature=TEMPERATURE,
        queue=tf.convert_to_tensor(unit(NUM_QUEUED)),
    )


def slow_softmax(outputs: Outputs, *, corrected: bool) -> float:
    """The mean loss, pair by pair: the score of a pair is that of the user's best vector."""
    interests, items = outputs.users["interests"].numpy(), outputs.items["vector"].numpy()
    queue, mask, log_q = outputs.queue.numpy(), outputs.mask.numpy(), outputs.batch["log_q"].numpy()
    total = 0.0
    for row, weight in enumerate(outputs.weight.numpy()):
        candidates = [(items[column], log_q[column]) for column in range(NUM_COLUMNS)]
        candidates += [(vector, log_q[NUM_COLUMNS + place]) for place, vector in enumerate(queue)]
        first = NUM_COLUMNS + row * NUM_PRIVATE
        candidates += [(items[first + place], 0.0) for place in range(mask.shape[1] - len(candidates))]
        logits = [
            max(float(head @ vector) for head in interests[row]) / TEMPERATURE - (of_column if corrected else 0.0)
            for vector, of_column in candidates
        ]
        others = [logit for column, logit in enumerate(logits) if column == row or not mask[row, column]]
        total += weight * (np.log(np.exp(others).sum()) - logits[row])
    return total / float(outputs.weight.numpy().sum())


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("log_q", ["yi2019", "none"])
def test_every_candidate_counts_by_its_best_interest_as_it_does_when_lists_are_made(log_q: LogQ, private: bool) -> None:
    outputs = drawn(unit(NUM_ROWS, K), private=private)
    expected = slow_softmax(outputs, corrected=log_q == "yi2019")
    np.testing.assert_allclose(softmax_term(log_q)(outputs), expected, rtol=1e-5)


def test_the_paper_of_2025_gets_the_same_scores() -> None:
    outputs = drawn(unit(NUM_ROWS, K), private=True)
    best = np.einsum("bkd,cd->bkc", outputs.users["interests"], outputs.common).max(axis=1) / TEMPERATURE
    np.testing.assert_allclose(outputs.scores[:, : NUM_COLUMNS + NUM_QUEUED], best, rtol=1e-4, atol=1e-5)
    assert np.isfinite(softmax_term("khrylchenko2025")(outputs))


def test_an_item_picks_the_nearest_interest_and_moves_no_other() -> None:
    interests, items = tf.constant(unit(NUM_ROWS, K)), unit(NUM_ROWS)
    with tf.GradientTape() as tape:
        tape.watch(interests)
        found = picked(interests, items)
        total = tf.reduce_sum(found)
    gradient = tape.gradient(total, interests).numpy()
    for row in range(NUM_ROWS):
        scores = [float(interests[row, head].numpy() @ items[row]) for head in range(K)]
        best = int(np.argmax(scores))
        np.testing.assert_array_equal(found[row], interests[row, best])
        np.testing.assert_array_equal(gradient[row], np.eye(K)[best][:, None] * np.ones(D))


def test_one_interest_gives_the_scores_and_gradients_of_one_vector() -> None:
    users, items, counts = unit(NUM_ROWS), unit(NUM_COLUMNS), tf.constant(1 + RNG.random(NUM_COLUMNS), tf.float32)
    found = []
    for given in (users, users[:, None]):
        tensors = [tf.constant(given), tf.constant(items)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            scores = products(*tensors, item_gradient=counts)
            total = tf.reduce_sum(tf.square(scores))
        found.append([scores.numpy(), *(gradient.numpy() for gradient in tape.gradient(total, tensors))])
    for one, several in zip(*found, strict=True):
        np.testing.assert_allclose(several.reshape(one.shape), one, rtol=1e-5, atol=1e-6)


def test_items_that_count_more_change_gradients_of_negatives_alone() -> None:
    users, items = unit(NUM_ROWS, K), tf.constant(unit(NUM_COLUMNS))
    gradients = []
    for counts in (None, tf.constant(2 * np.ones(NUM_COLUMNS), tf.float32)):
        with tf.GradientTape() as tape:
            tape.watch(items)
            scores = products(tf.constant(users), items, item_gradient=counts)
            own = tf.reduce_sum(tf.linalg.diag_part(scores[:, :NUM_ROWS]))
        gradients.append(tape.gradient(own, items).numpy())
    np.testing.assert_allclose(*gradients, atol=1e-6)


def test_the_local_loss_is_that_of_the_best_interest_against_the_others() -> None:
    interests, items = unit(NUM_ROWS, K), unit(NUM_ROWS)
    expected = []
    for row in range(NUM_ROWS):
        shares = np.exp([float(head @ items[row]) / 0.3 for head in interests[row]])
        expected.append(-np.log(shares.max() / shares.sum()))
    np.testing.assert_allclose(local_loss(interests, items, temperature=0.3), expected, rtol=1e-5)
    outputs = drawn(interests, private=False)
    own = outputs.items["vector"][:NUM_ROWS]
    weights = np.array([0.5, 2, 1])
    mean = (local_loss(interests, own, temperature=0.3).numpy() * weights).sum() / weights.sum()
    np.testing.assert_allclose(interests_term(temperature=0.3)(outputs), mean, rtol=1e-5)


def test_the_local_loss_moves_interests_apart() -> None:
    # By hand: of two interests with scores s and 0, the loss is log(1 + e^(-s/t)), and falls with s.
    interests = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    with tf.GradientTape() as tape:
        tape.watch(interests)
        loss = local_loss(interests, tf.constant([[0.6, 0.0]]), temperature=0.3)
    np.testing.assert_allclose(loss, [np.log(1 + np.exp(-2.0))], rtol=1e-5)
    gradient = tape.gradient(loss, interests).numpy()
    share = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(gradient[0], [[-2 * share, 0], [2 * share, 0]], rtol=1e-5)
    # Equal ones: nothing to hold apart.
    np.testing.assert_allclose(local_loss(tf.ones([1, 3, 2]), tf.ones([1, 2]), temperature=1.0), [np.log(3)], rtol=1e-6)
