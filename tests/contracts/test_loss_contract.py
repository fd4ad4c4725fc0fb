"""What every loss between rows and candidates promises, run against each of them.

Six rows of four columns more than rows; a third of the columns masked; all draws different.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from training.losses.objective import weighted_mean
from training.losses.softmax import SOFTMAX
from training.negatives.known_positives import KnownPositives, false_negatives

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

every_loss = pytest.mark.parametrize("loss", SOFTMAX.values(), ids=SOFTMAX.keys())
# Of the third, the own item is not corrected: what it subtracts from the others has a scale.
every_cross_entropy = pytest.mark.parametrize("loss", [SOFTMAX["none"], SOFTMAX["yi2019"]], ids=["none", "yi2019"])

NUM_ROWS, NUM_COLUMNS = 6, 10
RNG = np.random.default_rng(7)
SCORES: Floats = RNG.normal(0, 2, (NUM_ROWS, NUM_COLUMNS)).astype(np.float32)
LOG_Q: Floats = RNG.normal(-3, 1, NUM_COLUMNS).astype(np.float32)
MASK: Mask = RNG.random((NUM_ROWS, NUM_COLUMNS)) < 1 / 3


def gradient_of(loss: Callable[..., tf.Tensor], weights: Floats | None = None) -> Floats:
    variable = tf.Variable(SCORES)
    with tf.GradientTape() as tape:
        losses = loss(variable, LOG_Q, mask=MASK)
        total = tf.reduce_sum(losses) if weights is None else weighted_mean(losses, tf.constant(weights))
    found: Floats = tape.gradient(total, variable).numpy()
    return found


@every_loss
def test_there_is_a_finite_loss_for_each_row(loss: Callable[..., tf.Tensor]) -> None:
    losses = loss(SCORES, LOG_Q, mask=MASK)
    assert (losses.shape, losses.dtype) == ((NUM_ROWS,), tf.float32)
    assert np.isfinite(losses).all()


@every_cross_entropy
def test_a_cross_entropy_is_at_least_zero(loss: Callable[..., tf.Tensor]) -> None:
    assert (loss(SCORES, LOG_Q, mask=MASK).numpy() >= 0).all()


@every_loss
def test_one_row_without_other_candidates_has_nothing_to_learn(loss: Callable[..., tf.Tensor]) -> None:
    variable = tf.Variable(SCORES[:1, :1])
    with tf.GradientTape() as tape:
        losses = loss(variable, LOG_Q[:1], mask=np.zeros((1, 1), bool))
    assert losses.numpy().tolist() == [0]
    assert tape.gradient(losses, variable).numpy().tolist() == [[0]]


@every_loss
def test_rows_that_all_hold_the_same_item_have_nothing_to_learn(loss: Callable[..., tf.Tensor]) -> None:
    unknown = KnownPositives(np.zeros(NUM_ROWS + 1, np.int64), np.empty(0, np.int64))
    mask = false_negatives(np.arange(NUM_ROWS), np.full(NUM_ROWS, 3), unknown, in_batch=True)
    losses = loss(SCORES[:, :NUM_ROWS], np.full(NUM_ROWS, LOG_Q[0]), mask=mask)
    np.testing.assert_allclose(losses, 0, atol=1e-6)


@every_loss
def test_permuting_the_batch_permutes_the_losses(loss: Callable[..., tf.Tensor]) -> None:
    rows = RNG.permutation(NUM_ROWS)
    columns = np.concatenate([rows, NUM_ROWS + RNG.permutation(NUM_COLUMNS - NUM_ROWS)])
    found = loss(SCORES[rows][:, columns], LOG_Q[columns], mask=MASK[rows][:, columns])
    np.testing.assert_allclose(found, loss(SCORES, LOG_Q, mask=MASK).numpy()[rows], rtol=1e-5)


@every_loss
def test_a_row_does_not_look_at_the_scores_of_others(loss: Callable[..., tf.Tensor]) -> None:
    changed = SCORES.copy()
    changed[1:] += RNG.normal(0, 1, changed[1:].shape).astype(np.float32)
    assert loss(changed, LOG_Q, mask=MASK).numpy()[0] == loss(SCORES, LOG_Q, mask=MASK).numpy()[0]


@every_cross_entropy
@pytest.mark.parametrize("constant", [-5.0, 2.0])
def test_adding_a_constant_to_log_q_changes_nothing(loss: Callable[..., tf.Tensor], constant: float) -> None:
    expected = loss(SCORES, LOG_Q, mask=MASK)
    np.testing.assert_allclose(loss(SCORES, LOG_Q + np.float32(constant), mask=MASK), expected, rtol=1e-4)
    np.testing.assert_allclose(
        loss(SCORES, np.full(NUM_COLUMNS, constant, np.float32), mask=MASK), loss(SCORES, mask=MASK), rtol=1e-4
    )


@every_loss
def test_gradients_reach_what_is_not_masked_and_nothing_else(loss: Callable[..., tf.Tensor]) -> None:
    gradient = gradient_of(loss)
    own = np.eye(NUM_ROWS, NUM_COLUMNS, dtype=bool)
    assert (gradient[MASK & ~own] == 0).all()
    assert (gradient[~MASK & ~own] > 0).all()
    assert (gradient[own] < 0).all()


@every_loss
def test_masked_scores_may_be_anything(loss: Callable[..., tf.Tensor]) -> None:
    own = np.eye(NUM_ROWS, NUM_COLUMNS, dtype=bool)
    changed = np.where(MASK & ~own, np.float32(1e4), SCORES)
    np.testing.assert_array_equal(loss(changed, LOG_Q, mask=MASK), loss(SCORES, LOG_Q, mask=MASK))


@every_loss
def test_rows_of_weight_zero_get_no_gradient(loss: Callable[..., tf.Tensor]) -> None:
    weights = np.array([1, 0, 2, 0, 0, 1], np.float32)
    gradient = gradient_of(loss, weights)
    assert (gradient[weights == 0] == 0).all()
    assert (np.abs(gradient[weights > 0]).max(axis=1) > 0).all()


@every_loss
def test_a_batch_without_any_weight_has_loss_and_gradient_zero(loss: Callable[..., tf.Tensor]) -> None:
    nothing = np.zeros(NUM_ROWS, np.float32)
    assert weighted_mean(loss(SCORES, LOG_Q, mask=MASK), tf.constant(nothing)).numpy() == 0
    assert (gradient_of(loss, nothing) == 0).all()
