"""Distillation losses by slow twins, their gradients, and what a corrected list stands for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from training.losses.distillation import DISTILLATION, distillation_term, forward_kl
from training.losses.objective import Outputs

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
NUM_ROWS, NUM_COLUMNS, NUM_QUEUED, NUM_PRIVATE, WIDTH, TEMPERATURE = 4, 7, 2, 2, 6, 0.3
ALL = NUM_COLUMNS + NUM_QUEUED + NUM_PRIVATE
LOWEST = -0.8
Doubles = npt.NDArray[np.float64]


def drawn(*, interests: bool = False, **batch: Any) -> Outputs:
    """The teacher knows about half of the columns; of the last row's it knows none."""
    rng = np.random.default_rng(1)

    def unit(*shape: int) -> npt.NDArray[np.float32]:
        vectors = rng.normal(size=(*shape, WIDTH))
        return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)

    teacher = np.where(rng.random((NUM_ROWS, ALL)) < 0.5, rng.uniform(0, 3, (NUM_ROWS, ALL)), LOWEST)
    teacher[-1] = LOWEST
    given = {
        "mask": rng.random((NUM_ROWS, ALL)) < 0.2,
        "log_q": rng.normal(-2, 1, NUM_COLUMNS + NUM_QUEUED).astype(np.float32),
        "private_log_q": rng.normal(-2, 1, (NUM_ROWS, NUM_PRIVATE)).astype(np.float32),
        "weight": np.array([0.5, 2, 1, 3], np.float32),
        "teacher": teacher.astype(np.float32),
    }
    users = {"vector": unit(NUM_ROWS)} | ({"interests": unit(NUM_ROWS, 2)} if interests else {})
    items = {"vector": unit(NUM_COLUMNS + NUM_ROWS * NUM_PRIVATE)}
    made: Outputs = outputs_of(users, items, batch=given | batch, temperature=TEMPERATURE, queue=unit(NUM_QUEUED))
    return made


def slow(outputs: Outputs, loss: str) -> float:
    """Row by row, over the columns that count."""
    batch = {name: values.numpy().astype(np.float64) for name, values in outputs.batch.items()}
    users = outputs.users.get("interests", outputs.users["vector"][:, None]).numpy().astype(np.float64)
    items, queue = (values.numpy().astype(np.float64) for values in (outputs.items["vector"], outputs.queue))
    total = 0.0
    for row in range(NUM_ROWS):
        private = items[NUM_COLUMNS + row * NUM_PRIVATE :][:NUM_PRIVATE]
        candidates = np.concatenate([items[:NUM_COLUMNS], queue, private])
        columns = [column for column in range(ALL) if column == row or not batch["mask"][row, column]]
        scores = (candidates @ users[row].T).max(axis=1)[columns] / TEMPERATURE
        teacher = batch["teacher"][row, columns]
        log_q = np.concatenate([batch["log_q"], batch["private_log_q"][row]])[columns]
        if len({*teacher}) > 1:
            total += batch["weight"][row] * of_row(loss, scores, teacher, log_q, columns.index(row))
    return total / float(batch["weight"].sum())


def of_row(loss: str, scores: Doubles, teacher: Doubles, log_q: Doubles, own: int) -> float:
    if loss == "rank":
        return 1 - float(np.corrcoef(scores, teacher)[0, 1])
    if loss == "margin_mse":
        pairs = [place for place in range(len(scores)) if place != own and teacher[place] > teacher.min()]
        errors = [(scores[own] - scores[j] - (teacher[own] - teacher[j])) ** 2 for j in pairs]
        return float(np.mean(errors)) if errors else 0.0
    shares = [np.exp(values - log_q) / np.exp(values - log_q).sum() for values in (teacher, scores)]
    one, other = shares if loss == "kl" else shares[::-1]
    return float((one * np.log(one / other)).sum())


@pytest.mark.parametrize("loss", DISTILLATION)
@pytest.mark.parametrize("interests", [False, True])
def test_the_term_equals_its_slow_twin(loss: str, interests: bool) -> None:
    outputs = drawn(interests=interests)
    assert float(distillation_term(loss=loss)(outputs)) == pytest.approx(slow(outputs, loss), rel=1e-5)


@pytest.mark.parametrize("loss", DISTILLATION)
def test_both_towers_learn_from_rows_whose_candidates_the_teacher_knows(loss: str) -> None:
    outputs = drawn()
    teacher = tf.Variable(outputs.batch["teacher"])
    outputs = Outputs(
        outputs.users, outputs.items, {**outputs.batch, "teacher": teacher}, TEMPERATURE, queue=outputs.queue
    )
    parts = [outputs.users["vector"], outputs.items["vector"], teacher]
    with tf.GradientTape() as tape:
        total = distillation_term(loss=loss)(outputs)
    users, items, of_teacher = tape.gradient(total, parts)
    assert of_teacher is None
    np.testing.assert_array_equal(np.abs(users.numpy()).max(axis=1) > 0, [True, True, True, False])
    assert (np.abs(tf.convert_to_tensor(items).numpy()).max(axis=1) > 0).any()


@pytest.mark.parametrize("loss", DISTILLATION)
def test_towers_that_score_as_the_teacher_does_have_nothing_to_learn(loss: str) -> None:
    rng = np.random.default_rng(2)
    teacher = tf.constant(rng.normal(size=(3, 8)), tf.float32)
    counted = tf.constant(rng.random((3, 8)) < 0.7) | tf.eye(3, 8, dtype=tf.bool)
    log_q = tf.constant(rng.normal(size=8), tf.float32)
    # A constant of the row changes no softmax, no margin and no correlation.
    scores = tf.Variable(teacher + tf.constant([[1.0], [-2.0], [0.5]]))
    with tf.GradientTape() as tape:
        losses = DISTILLATION[loss](scores, teacher, log_q, counted)
    np.testing.assert_allclose(losses, 0, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(losses, scores), 0, atol=1e-5)
    assert (DISTILLATION[loss](scores * [[1.0, -1.0] * 4], teacher, log_q, counted) > 1e-3).numpy().all()


def test_the_gradient_of_the_forward_divergence_is_the_difference_of_the_shares() -> None:
    rng = np.random.default_rng(3)
    scores, teacher = (tf.Variable(rng.normal(size=(2, 5)), dtype=tf.float32) for _ in range(2))
    log_q = tf.constant(rng.normal(size=5), tf.float32)
    with tf.GradientTape() as tape:
        losses = forward_kl(scores, teacher, log_q, tf.ones([2, 5], tf.bool))
    expected = tf.nn.softmax(scores - log_q) - tf.nn.softmax(teacher - log_q)
    np.testing.assert_allclose(tape.gradient(losses, scores), expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["kl", "reverse_kl"])
def test_a_column_drawn_half_of_the_time_stands_for_two(loss: str) -> None:
    rng = np.random.default_rng(4)
    scores, teacher = rng.normal(size=(2, 1, 4)).astype(np.float32)
    twice = [0, 1, 2, 2, 3]
    everything = tf.ones([1, 5], tf.bool)
    full = DISTILLATION[loss](scores[:, twice], teacher[:, twice], tf.zeros(5), everything)
    log_q = tf.math.log([1.0, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(DISTILLATION[loss](scores, teacher, log_q, everything[:, :4]), full, rtol=1e-5)


def test_rows_without_a_list_count_as_rows_that_lose_nothing() -> None:
    outputs = drawn()
    one = outputs.batch["weight"].numpy()
    heavier = drawn(weight=np.array([*one[:3], 4 * one[3]], np.float32))
    term = distillation_term(loss="kl")
    share = one.sum() / (one.sum() + 3 * one[3])
    assert float(term(heavier)) == pytest.approx(share * float(term(outputs)), rel=1e-5)
    nothing = drawn(teacher=np.full((NUM_ROWS, ALL), LOWEST, np.float32))
    assert float(term(nothing)) == 0


def test_a_loss_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="loss is 'huber', expected one of: kl, reverse_kl, margin_mse, rank"):
        distillation_term(loss="huber")
