"""The fused softmax is the same as the plain one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses import fused_softmax as module
from training.losses.fused_softmax import fused_softmax
from training.losses.softmax import two_tower_softmax

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Arguments of the loss, and what each row's loss counts."""

    users: Array
    items: Array
    log_q: Array | None
    mask: npt.NDArray[np.bool_] | None
    temperature: float
    weight: Array
    item_gradient: Array | None = None
    own: tuple[Array, Array] | None = None


Found = tuple[Array, ...]


def losses_and_gradients(case: Case, *, fused: bool, dtype: type = np.float64) -> Found:
    """Losses, and the gradients of their weighted sum for users, items, temperature, and own items that are apart."""
    users, items = tf.constant(case.users, dtype), tf.constant(case.items, dtype)
    temperature = tf.constant(case.temperature, dtype)
    log_q = None if case.log_q is None else tf.constant(case.log_q, dtype)
    counts = None if case.item_gradient is None else tf.constant(case.item_gradient, dtype)
    own = None if case.own is None else tuple(tf.constant(values, dtype) for values in case.own)
    kernel = fused_softmax if fused else two_tower_softmax
    watched = [users, items, temperature] + ([] if own is None else [own[0]])
    with tf.GradientTape() as tape:
        tape.watch(watched)
        losses = kernel(
            users, items, temperature=temperature, log_q=log_q, mask=case.mask, item_gradient=counts, own=own
        )
        total = tf.reduce_sum(losses * tf.constant(case.weight, dtype))
    gradients = tape.gradient(total, watched)
    return losses.numpy(), *(gradient.numpy() for gradient in gradients)


def assert_as_the_plain_one(case: Case, dtype: type = np.float64, tolerance: float = 1e-9) -> None:
    found, expected = (losses_and_gradients(case, fused=fused, dtype=dtype) for fused in (True, False))
    for name, got, wanted in zip(("losses", "users", "items", "temperature", "own"), found, expected, strict=False):
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def random_case(
    seed: int, num_rows: int, num_extra: int, *, width: int = 5, temperature: float = 0.2, masked: float = 0.2
) -> Case:
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(num_rows, width)), rng.normal(size=(num_rows + num_extra, width))
    return Case(
        users=users / np.linalg.norm(users, axis=1, keepdims=True),
        items=items / np.linalg.norm(items, axis=1, keepdims=True),
        log_q=rng.normal(-3, 2, len(items)),
        mask=rng.random((num_rows, len(items))) < masked,
        temperature=temperature,
        weight=rng.random(num_rows),
        item_gradient=1 + 4 * rng.random(len(items)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    case = random_case(
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(1, 7)),
        draw(st.integers(0, 5)),
        # At the smallest a row's own logit is hundreds below the largest: its exponential would overflow.
        temperature=draw(st.sampled_from([5.0, 0.2, 0.03, 0.002])),
        masked=draw(st.sampled_from([0.0, 0.3, 1.0])),
    )
    length = draw(st.sampled_from([0.0, 1.0, 30.0]))
    return replace(
        case,
        users=length * case.users,
        log_q=draw(st.sampled_from([case.log_q, None])),
        mask=draw(st.sampled_from([case.mask, None])),
        item_gradient=draw(st.sampled_from([case.item_gradient, None])),
        own=draw(st.sampled_from([(case.items[: len(case.users)] + 0.1, case.log_q[: len(case.users)] + 1), None])),
    )


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([1, 20, 2**18]))
def test_losses_and_gradients_equal_those_of_the_plain_softmax(case: Case, slab_cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLAB_CELLS", slab_cells)
        assert_as_the_plain_one(case)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.05, 0.01])
def test_in_float32_they_agree_to_five_digits(temperature: float) -> None:
    case = random_case(1, 150, 70, width=31, temperature=temperature)
    expected = losses_and_gradients(case, fused=False)
    for got, wanted in zip(losses_and_gradients(case, fused=True, dtype=np.float32), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


def test_by_hand() -> None:
    users = np.array([[math.log(2), math.log(3)], [math.log(5), 0.0]])
    items = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # exp of the scores: row 0 has 2, 3, 6; row 1 has 5, 1, 5. Divided by q = 1/2, 1, 3: 4, 3, 2 and 10, 1, 5/3.
    log_q = np.log([1 / 2, 1, 3])
    found = fused_softmax(users, items, temperature=1.0, log_q=log_q)
    np.testing.assert_allclose(found, -np.log([4 / 9, 1 / (10 + 1 + 5 / 3)]), rtol=1e-12)
    # Half the temperature squares 2, 3, 6 and 5, 1, 5, and leaves q alone.
    found = fused_softmax(users, items, temperature=0.5, log_q=log_q)
    np.testing.assert_allclose(found, -np.log([8 / (8 + 9 + 12), 1 / (50 + 1 + 25 / 3)]), rtol=1e-12)


def test_a_masked_column_is_left_out_but_never_the_own_one() -> None:
    case, log_q = random_case(3, 2, 1), np.array([-1.0, 0.5, 2.0])
    mask = np.array([[True, True, False], [False, True, False]])
    terms = np.exp(case.users @ case.items.T / case.temperature - log_q)
    expected = -np.log([terms[0, 0] / (terms[0, 0] + terms[0, 2]), terms[1, 1] / terms[1].sum()])
    found = fused_softmax(case.users, case.items, temperature=case.temperature, log_q=log_q, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_where_everything_is_masked_nothing_is_learned() -> None:
    case = replace(random_case(4, 3, 2), mask=np.ones((3, 5), bool))
    for found in losses_and_gradients(case, fused=True):
        np.testing.assert_allclose(found, np.zeros_like(found), atol=1e-12)


def test_one_row_alone_without_other_candidates_costs_nothing() -> None:
    losses, *gradients = losses_and_gradients(replace(random_case(5, 1, 0), mask=None), fused=True)
    assert losses.tolist() == pytest.approx([0], abs=1e-12)
    assert all(np.abs(gradient).max() < 1e-12 for gradient in gradients)


def test_when_all_rows_have_the_same_item_each_costs_the_log_of_their_number() -> None:
    case = random_case(6, 4, 0)
    case = replace(case, items=np.repeat(case.items[:1], 4, axis=0), log_q=None, mask=None)
    np.testing.assert_allclose(losses_and_gradients(case, fused=True)[0], np.full(4, math.log(4)), rtol=1e-9)
    assert_as_the_plain_one(case)


def test_a_large_masked_score_leaves_the_others_their_precision() -> None:
    # Both other columns are 1000 above the own one in the exponent; the mask takes one away and then both.
    users, items = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    for mask, expected in (([[False, True, False]], 1000.0), ([[False, True, True]], 0.0)):
        found = fused_softmax(users.astype(np.float32), items.astype(np.float32), temperature=1e-3, mask=mask)
        np.testing.assert_allclose(found, [expected], rtol=1e-6, atol=1e-6)


def test_log_q_gets_no_gradient_and_candidates_behind_a_stop_none_either() -> None:
    case = random_case(7, 3, 2)
    log_q, items, queue = tf.Variable(case.log_q), tf.Variable(case.items[:3]), tf.Variable(case.items[3:])
    with tf.GradientTape() as tape:
        candidates = tf.concat([items, tf.stop_gradient(queue)], axis=0)
        losses = fused_softmax(case.users, candidates, temperature=case.temperature, log_q=log_q)
    gradients = tape.gradient(losses, [log_q, queue, items])
    assert gradients[:2] == [None, None]
    assert np.abs(gradients[2].numpy()).max() > 0.01


def test_a_number_that_is_not_finite_shows_in_the_loss() -> None:
    case = random_case(8, 3, 2)
    case.items[4, 0] = math.nan
    assert np.isnan(losses_and_gradients(replace(case, mask=None), fused=True)[0]).all()


def test_shapes_unknown_while_tracing_are_accepted() -> None:
    vectors, numbers = tf.TensorSpec([None, 5], tf.float64), tf.TensorSpec([None], tf.float64)
    specs = [vectors, vectors, numbers, tf.TensorSpec([None, None], tf.bool)]

    def losses_and_pull(
        users: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(items)
            losses = fused_softmax(users, items, temperature=0.2, log_q=log_q, mask=mask)
        return losses, tape.gradient(losses, items)

    traced = tf.function(losses_and_pull, input_signature=specs)
    for case in (random_case(9, 6, 3), random_case(10, 2, 0)):
        losses, _, by_item, _ = losses_and_gradients(
            replace(case, weight=np.ones_like(case.weight), item_gradient=None), fused=False
        )
        found = traced(case.users, case.items, case.log_q, case.mask)
        np.testing.assert_allclose(found[0], losses, rtol=1e-9)
        np.testing.assert_allclose(found[1], by_item, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("users", "items", "log_q", "mask", "message"),
    [
        ((3, 2), (2, 2), None, None, "2 items for 3 users, expected at least as many"),
        ((2, 3), (2, 4), None, None, r"users has shape \(2, 3\), expected \(None, 4\) with users \(2, 3\) and items"),
        ((2, 3), (4, 3), (2,), None, r"log_q has shape \(2,\), expected \(4,\)"),
        ((2, 3), (4, 3), None, (4, 2), r"mask has shape \(4, 2\), expected \(2, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    users: tuple[int, ...],
    items: tuple[int, ...],
    log_q: tuple[int, ...] | None,
    mask: tuple[int, ...] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        fused_softmax(
            np.zeros(users, np.float32),
            np.zeros(items, np.float32),
            temperature=0.2,
            log_q=None if log_q is None else np.zeros(log_q, np.float32),
            mask=None if mask is None else np.zeros(mask, bool),
        )
