"""What is minimised?"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses import in_batch_softmax, weighted_mean
from training.sampling_bias import expected_draws

Floats = npt.NDArray[np.float64]


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
        ((2, 3), (2,), None, r"log_q has shape \(2,\), expected \[C\] = \(3,\)"),
        ((2, 3), (2, 3), None, r"log_q has shape \(2, 3\), expected \[C\] = \(3,\)"),
        ((2, 3), None, (3, 2), r"mask has shape \(3, 2\), expected that of the scores, \(2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    scores: tuple[int, ...], log_q: tuple[int, ...] | None, mask: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        in_batch_softmax(
            np.zeros(scores, np.float32),
            None if log_q is None else np.zeros(log_q, np.float32),
            mask=None if mask is None else np.zeros(mask, bool),
        )


def test_shapes_unknown_while_tracing_are_accepted() -> None:
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None]), tf.TensorSpec([None, None], tf.bool)]
    traced = tf.function(lambda scores, log_q, mask: in_batch_softmax(scores, log_q, mask=mask), input_signature=specs)
    scores, log_q, mask = np.eye(2, 3, dtype=np.float32), np.zeros(3, np.float32), np.zeros((2, 3), bool)
    np.testing.assert_allclose(traced(scores, log_q, mask), in_batch_softmax(scores), rtol=1e-6)


def test_the_mean_is_weighted_by_reward() -> None:
    losses = tf.constant([1.0, 2.0, 6.0])
    assert weighted_mean(losses, tf.constant([1.0, 1.0, 0.0])).numpy() == 3 / 2
    assert weighted_mean(losses, tf.constant([3.0, 0.0, 1.0])).numpy() == 9 / 4


# A catalogue of 30 items, four users whose tastes differ, and items drawn with Zipf's frequencies.
NUM_ITEMS, NUM_USERS = 30, 4
SCORES = np.random.default_rng(5).normal(0, 1, (NUM_USERS, NUM_ITEMS))
SHARES = 1 / np.arange(1, NUM_ITEMS + 1) / (1 / np.arange(1, NUM_ITEMS + 1)).sum()
NUM_EXAMPLES = 1_000_000
COUNTS = np.round(SHARES * NUM_EXAMPLES).astype(np.int64)


class Draw:
    """A batch, and the gradient of its mean loss with respect to the whole table of scores."""

    def __init__(self, batch_size: int, num_uniform: int) -> None:
        rng = np.random.default_rng([batch_size, num_uniform])
        self.users = rng.integers(0, NUM_USERS, batch_size)
        self.own = rng.choice(NUM_ITEMS, batch_size, p=SHARES)
        self.columns = np.concatenate([self.own, rng.integers(0, NUM_ITEMS, num_uniform)])
        draws = expected_draws(
            COUNTS[self.columns],
            num_examples=int(COUNTS.sum()),
            batch_size=batch_size,
            num_uniform=num_uniform,
            catalogue_size=NUM_ITEMS,
        )
        self.log_q = np.log(draws)

    def sampled(self, *, correct: bool, mask_own: bool = False) -> tuple[float, Floats]:
        """Mean loss, and its gradient [users, items]."""
        table = tf.Variable(SCORES)
        mask = self.own[:, None] == self.columns[None, :] if mask_own else None
        with tf.GradientTape() as tape:
            scores = tf.gather(tf.gather(table, self.users), self.columns, axis=1)
            loss = tf.reduce_mean(in_batch_softmax(scores, self.log_q if correct else None, mask=mask))
        return float(loss), tf.convert_to_tensor(tape.gradient(loss, table)).numpy()

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
    # Masked, a row of item 0 has it once, 1/9 beside 1: share 1/10; in the row of item 1 both have 1/2.
    pull = 9 / 10 * (1 / 10 - 1) + 1 / 10 * 1 / 2
    np.testing.assert_allclose(gradients[1], [pull, -pull], rtol=1e-12)
