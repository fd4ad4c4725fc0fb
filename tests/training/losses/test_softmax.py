"""Sampled softmax losses by hand, by a slow twin and by their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses.objective import weighted_mean
from training.losses.softmax import SOFTMAX, in_batch_softmax, khrylchenko2025, two_tower_softmax

Floats = npt.NDArray[np.float64]
RNG = np.random.default_rng(8)


def loss_and_gradient(
    scores: Floats, log_q: Floats | None, mask: npt.NDArray[np.bool_] | None
) -> tuple[Floats, Floats]:
    """[B] losses and the gradient of their sum with respect to the scores [B, C]."""
    variable = tf.Variable(scores)
    with tf.GradientTape() as tape:
        losses = in_batch_softmax(variable, log_q, mask=mask)
        total = tf.reduce_sum(losses)
    return losses.numpy(), tape.gradient(total, variable).numpy()


def slow_twin(scores: Floats, log_q: Floats, mask: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """A loop over rows and columns: d loss_i / d s_ij = share of column j in the sum - [j = i]."""
    losses, gradient = np.zeros(len(scores)), np.zeros_like(scores)
    for row in range(len(scores)):
        counted = [column for column in range(scores.shape[1]) if column == row or not mask[row, column]]
        terms = {column: math.exp(scores[row, column] - log_q[column]) for column in counted}
        losses[row] = -math.log(terms[row] / sum(terms.values()))
        for column in counted:
            gradient[row, column] = terms[column] / sum(terms.values()) - (column == row)
    return losses, gradient


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_rows = draw(st.integers(1, 6))
    num_columns = num_rows + draw(st.integers(0, 5))
    scores = rng.normal(0, draw(st.sampled_from([0.1, 3.0])), (num_rows, num_columns))
    return scores, rng.normal(-3, 2, num_columns), rng.random(scores.shape) < draw(st.floats(0, 1))


@settings(max_examples=50)
@given(cases())
def test_loss_and_gradient_equal_the_slow_twin(case: tuple[Floats, Floats, npt.NDArray[np.bool_]]) -> None:
    found, expected = loss_and_gradient(*case), slow_twin(*case)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-12)


def test_the_log_of_the_draws_is_subtracted() -> None:
    scores = np.log([[2.0, 3.0, 1.0], [1.0, 4.0, 5.0]])
    log_q = np.log([1 / 2, 1, 1 / 4])
    # Terms e^s / q: row 0 has 2 / (1/2) = 4, 3, 1 / (1/4) = 4; row 1 has 1 / (1/2) = 2, 4, 5 / (1/4) = 20.
    expected = -np.log([4 / 11, 4 / 26])
    np.testing.assert_allclose(in_batch_softmax(scores, log_q), expected, rtol=1e-12)
    np.testing.assert_allclose(in_batch_softmax(scores), -np.log([2 / 6, 4 / 10]), rtol=1e-12)


def test_a_masked_column_is_left_out_but_never_the_own_one() -> None:
    scores = np.log([[2.0, 3.0, 1.0], [1.0, 4.0, 5.0]])
    mask = np.array([[True, True, False], [False, True, False]])
    np.testing.assert_allclose(in_batch_softmax(scores, mask=mask), -np.log([2 / 3, 4 / 10]), rtol=1e-12)
    assert in_batch_softmax(scores, mask=np.ones((2, 3), bool)).numpy().tolist() == [0, 0]


def test_large_scores_stay_finite_in_float32() -> None:
    scores = np.array([[500.0, -500.0], [500.0, -500.0]], np.float32)
    mask = np.array([[False, True], [False, False]])
    found = in_batch_softmax(scores, np.log(np.array([1e-6, 1e3], np.float32)), mask=mask).numpy()
    np.testing.assert_allclose(found, [0, 1000 + math.log(1e9)], rtol=1e-6)


@pytest.mark.parametrize(
    ("scores", "log_q", "mask", "message"),
    [
        ((3, 2), None, None, r"scores have shape \(3, 2\), expected \[B, C\] with C >= B"),
        ((3,), None, None, r"scores have shape \(3,\), expected \[B, C\]"),
        ((2, 3), (2,), None, r"log_q has shape \(2,\), expected \[C\] = \(3,\) or \[B, C\] = \(2, 3\)"),
        ((2, 3), (3, 2), None, r"log_q has shape \(3, 2\), expected \[C\] = \(3,\) or \[B, C\] = \(2, 3\)"),
        ((2, 3), None, (3, 2), r"mask has shape \(3, 2\), expected that of the scores, \(2, 3\)"),
    ],
)
@pytest.mark.parametrize("loss", SOFTMAX.values(), ids=SOFTMAX.keys())
def test_shapes_that_do_not_fit_are_refused(
    loss: Callable[..., tf.Tensor],
    scores: tuple[int, ...],
    log_q: tuple[int, ...] | None,
    mask: tuple[int, ...] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        loss(
            np.zeros(scores, np.float32),
            None if log_q is None else np.zeros(log_q, np.float32),
            mask=None if mask is None else np.zeros(mask, bool),
        )


@pytest.mark.parametrize("loss", SOFTMAX.values(), ids=SOFTMAX.keys())
def test_shapes_unknown_while_tracing_are_accepted(loss: Callable[..., tf.Tensor]) -> None:
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None]), tf.TensorSpec([None, None], tf.bool)]
    traced = tf.function(lambda scores, log_q, mask: loss(scores, log_q, mask=mask), input_signature=specs)
    scores, log_q, mask = np.eye(2, 3, dtype=np.float32), np.zeros(3, np.float32), np.zeros((2, 3), bool)
    np.testing.assert_allclose(traced(scores, log_q, mask), loss(scores), rtol=1e-6)


def test_rows_may_have_draws_of_their_own() -> None:
    scores, log_q = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
    for loss in (in_batch_softmax, khrylchenko2025):
        together = loss(scores, log_q)
        for row in range(3):
            # Row i alone: its own column comes first.
            order = [row, *(column for column in range(5) if column != row)]
            alone = loss(scores[row : row + 1, order], log_q[row, order])
            np.testing.assert_allclose(alone[0], together[row], rtol=1e-12)


def test_without_a_correction_the_draws_do_not_matter() -> None:
    scores, mask = RNG.normal(size=(3, 5)), RNG.random((3, 5)) < 0.3
    found = SOFTMAX["none"](scores, RNG.normal(size=5), mask=mask)
    np.testing.assert_array_equal(found, in_batch_softmax(scores, mask=mask))


def slow_khrylchenko(scores: Floats, log_q: Floats, mask: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The paper's loss and the gradient of its bracket times the fixed weight, by loops."""
    losses, gradient = np.zeros(len(scores)), np.zeros_like(scores)
    for row in range(len(scores)):
        counted = [column for column in range(scores.shape[1]) if column != row and not mask[row, column]]
        if not counted:
            continue
        chance = {column: math.exp(log_q[column]) / len(counted) for column in counted}
        sampled = {column: math.exp(scores[row, column]) / chance[column] for column in counted}
        # The softmax of the weight: s_pos, and s_d - log Q'(d) - log n.
        estimate = sum(sampled.values()) / len(counted)
        weight = 1 - math.exp(scores[row, row]) / (math.exp(scores[row, row]) + estimate)
        losses[row] = weight * (-scores[row, row] + math.log(sum(sampled.values())))
        gradient[row, row] = -weight
        for column in counted:
            gradient[row, column] = weight * sampled[column] / sum(sampled.values())
    return losses, gradient


@settings(max_examples=50)
@given(cases())
def test_the_loss_with_an_uncorrected_positive_equals_its_slow_twin(
    case: tuple[Floats, Floats, npt.NDArray[np.bool_]],
) -> None:
    scores, log_q, mask = case
    variable = tf.Variable(scores)
    with tf.GradientTape() as tape:
        losses = khrylchenko2025(variable, log_q, mask=mask)
        total = tf.reduce_sum(losses)
    expected = slow_khrylchenko(*case)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(tape.gradient(total, variable), expected[1], rtol=1e-9, atol=1e-12)


def test_the_draws_of_the_own_item_do_not_matter_to_the_loss_with_an_uncorrected_positive() -> None:
    scores, log_q = RNG.normal(size=(1, 4)), RNG.normal(size=4)
    changed = log_q + np.array([3.0, 0, 0, 0])
    np.testing.assert_array_equal(khrylchenko2025(scores, changed), khrylchenko2025(scores, log_q))
    assert abs(float(in_batch_softmax(scores, changed)[0] - in_batch_softmax(scores, log_q)[0])) > 0.1


def test_by_hand_the_weight_is_the_share_of_the_negatives() -> None:
    # e^s: 2 for the own item, 3 and 4 for the others, which come 1/2 and 2 times: 3 / (1/2) = 6 and 4 / 2 = 2.
    found = khrylchenko2025(np.log([[2.0, 3.0, 4.0]]), np.log([7.0, 1 / 2, 2.0]))
    # Q' = q / n: 1/4 and 1, so that the sum is 3 / (1/4) + 4 / 1 = 16.
    np.testing.assert_allclose(found, [8 / 10 * math.log(16 / 2)], rtol=1e-12)


@pytest.mark.parametrize("size", [(3000, 0), (4, 60_000), (2000, 2000)], ids=["in-batch", "uniform", "mixed"])
def test_with_an_uncorrected_positive_the_gradient_tends_to_that_of_the_full_softmax(size: tuple[int, int]) -> None:
    draw = Draw(*size)
    expected = draw.full()[1]
    found = draw.sampled(correct=True, mask_own=True, loss=khrylchenko2025)[1]
    assert distance(found, expected) < 0.08
    corrected = draw.sampled(correct=True, mask_own=True)[1]
    assert distance(found, expected) < distance(corrected, expected)


def test_vectors_give_the_loss_of_their_scores() -> None:
    users, items = RNG.normal(size=(3, 2)), RNG.normal(size=(5, 2))
    log_q, mask = RNG.normal(size=5), RNG.random((3, 5)) < 0.3
    found = two_tower_softmax(users, items, temperature=0.5, log_q=log_q, mask=mask)
    np.testing.assert_allclose(found, in_batch_softmax(users @ items.T / 0.5, log_q, mask=mask), rtol=1e-12)


def test_the_mean_is_weighted_by_reward() -> None:
    losses = tf.constant([1.0, 2.0, 6.0])
    assert weighted_mean(losses, tf.constant([1.0, 1.0, 0.0])).numpy() == 3 / 2
    assert weighted_mean(losses, tf.constant([3.0, 0.0, 1.0])).numpy() == 9 / 4


# A catalogue of 30 items, four users whose tastes differ, and items drawn with Zipf's frequencies.
NUM_ITEMS, NUM_USERS = 30, 4
SCORES = np.random.default_rng(5).normal(0, 1, (NUM_USERS, NUM_ITEMS))
SHARES = 1 / np.arange(1, NUM_ITEMS + 1) / (1 / np.arange(1, NUM_ITEMS + 1)).sum()


class Draw:
    """A batch, and the gradient of its mean loss with respect to the whole table of scores."""

    def __init__(self, batch_size: int, num_uniform: int) -> None:
        rng = np.random.default_rng([batch_size, num_uniform])
        self.users = rng.integers(0, NUM_USERS, batch_size)
        self.own = rng.choice(NUM_ITEMS, batch_size, p=SHARES)
        self.columns = np.concatenate([self.own, rng.integers(0, NUM_ITEMS, num_uniform)])
        # Expected draws of each item, repeats included: B p_j + B' / N.
        self.log_q = np.log(batch_size * SHARES + num_uniform / NUM_ITEMS)[self.columns]

    def sampled(
        self, *, correct: bool, mask_own: bool = False, loss: Callable[..., tf.Tensor] = in_batch_softmax
    ) -> tuple[float, Floats]:
        """Mean loss, and its gradient [users, items]."""
        table = tf.Variable(SCORES)
        mask = self.own[:, None] == self.columns[None, :] if mask_own else None
        with tf.GradientTape() as tape:
            scores = tf.gather(tf.gather(table, self.users), self.columns, axis=1)
            mean = tf.reduce_mean(loss(scores, self.log_q if correct else None, mask=mask))
        return float(mean), tf.convert_to_tensor(tape.gradient(mean, table)).numpy()

    def full(self, *, without_own: bool = False) -> tuple[float, Floats]:
        """The same of the softmax over the whole catalogue."""
        terms = np.exp(SCORES[self.users])
        own = np.eye(NUM_ITEMS)[self.own]
        if without_own:
            terms = terms * (1 - own)
        by_row = terms / terms.sum(axis=1, keepdims=True) - own
        gradient = np.stack([by_row[self.users == user].sum(axis=0) for user in range(NUM_USERS)]) / len(self.users)
        return float((np.log(terms.sum(axis=1)) - SCORES[self.users, self.own]).mean()), gradient


def distance(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


SAMPLERS = {
    "in-batch": [(60, 0), (400, 0), (3000, 0)],
    "uniform": [(4, 60), (4, 2000), (4, 60_000)],
    "mixed": [(40, 40), (300, 300), (2000, 2000)],
}


@pytest.mark.parametrize("sizes", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_the_corrected_loss_tends_to_that_of_the_full_softmax(sizes: list[tuple[int, int]]) -> None:
    draws = [Draw(*size) for size in sizes]
    errors = [distance(draw.sampled(correct=True)[1], draw.full()[1]) for draw in draws]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.08
    last = draws[-1]
    # The loss differs by the mean log q of the own items, which no score can move.
    own_log_q = last.log_q[: len(last.own)].mean()
    assert last.sampled(correct=True)[0] - own_log_q == pytest.approx(last.full()[0], abs=0.03)


@pytest.mark.parametrize("size", [(3000, 0), (2000, 2000)], ids=["in-batch", "mixed"])
def test_without_the_correction_popular_items_are_pushed_down_however_many_are_drawn(size: tuple[int, int]) -> None:
    draw = Draw(*size)
    uncorrected = draw.sampled(correct=False)[1]
    assert distance(uncorrected, draw.full()[1]) > 0.2
    # Items 0 to 2 are the most popular: their scores are pushed more than the full softmax would.
    assert (uncorrected[:, :3] > draw.full()[1][:, :3]).all()


def test_masking_repeats_of_an_item_that_comes_often_leaves_it_out_of_its_own_denominator() -> None:
    # Ten rows of one user without preferences: nine times item 0, once item 1, so that q is 9 and 1.
    own = np.array([0] * 9 + [1])
    table = tf.Variable([0.0, 0.0], dtype=tf.float64)
    log_q = np.log([9.0] * 9 + [1.0])
    gradients = []
    for mask in (None, (own[:, None] == own[None, :])):
        with tf.GradientTape() as tape:
            scores = tf.gather(tf.repeat(table[None, :], 10, axis=0), own, axis=1)
            loss = tf.reduce_mean(in_batch_softmax(scores, log_q, mask=mask))
        gradients.append(tf.convert_to_tensor(tape.gradient(loss, table)).numpy())
    # Without a mask as in the full softmax: share 1/2 of each item, less how often it is the own one.
    np.testing.assert_allclose(gradients[0], [1 / 2 - 9 / 10, 1 / 2 - 1 / 10], rtol=1e-12)
    # Masked, a row of item 0 has it once, 1/9 against 1: share 1/10; in the row of item 1 both have 1/2.
    pull = 9 / 10 * (1 / 10 - 1) + 1 / 10 * 1 / 2
    np.testing.assert_allclose(gradients[1], [pull, -pull], rtol=1e-12)
