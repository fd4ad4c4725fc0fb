"""Margin against the items of the batch that a row nearly confuses with its own."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses.hard_in_batch import hard_in_batch_term, margin_of_hardest

outputs_of = runpy.run_path(str(Path(__file__).parents[1] / "outputs_for_tests.py"))["outputs_of"]
COSINES = np.array([[0.9, 0.7, 0.85, 0.2], [0.1, 0.0, 0.3, 0.05], [0.5, 0.5, 0.5, 0.5], [0.0, 0.1, 0.2, 0.9]])
NOTHING = np.zeros((4, 4), bool)


def test_by_hand_the_two_most_similar_others_are_within_the_margin() -> None:
    found = margin_of_hardest(COSINES, mask=NOTHING, num_hard=2, margin=0.1)
    # Row 0: .85 and .7 against .9: .05 and 0. Row 1: .3 and .1 against 0. Row 2: all alike. Row 3: far below.
    np.testing.assert_allclose(found, [0.05 / 2, (0.4 + 0.2) / 2, (0.1 + 0.1) / 2, 0], atol=1e-12)


def test_masked_items_are_not_hard_and_missing_ones_are_worth_nothing() -> None:
    mask = NOTHING.copy()
    mask[0, 2] = mask[1, [0, 2]] = True
    mask[2] = [True, True, False, True]
    found = margin_of_hardest(COSINES, mask=mask, num_hard=2, margin=0.3)
    # Row 0: .7 and .2 against .9; row 1: .05 alone; row 2: none.
    np.testing.assert_allclose(found, [0.1 / 2, 0.35 / 2, 0, 0], atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 2))
def test_the_loss_equals_its_slow_twin(seed: int, num_rows: int, num_hard: int) -> None:
    rng = np.random.default_rng(seed)
    cosines, mask = rng.uniform(-1, 1, (num_rows, num_rows)), rng.random((num_rows, num_rows)) < 0.3
    expected = []
    for row in range(num_rows):
        others = [cosines[row, column] for column in range(num_rows) if column != row and not mask[row, column]]
        hardest = sorted(others, reverse=True)[:num_hard]
        expected.append(sum(max(0, 0.2 - cosines[row, row] + cosine) for cosine in hardest) / num_hard)
    found = margin_of_hardest(cosines, mask=mask, num_hard=num_hard, margin=0.2)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_gradient_reaches_the_own_and_the_hard_items_alone() -> None:
    variable = tf.Variable(COSINES)
    with tf.GradientTape() as tape:
        loss = margin_of_hardest(variable, mask=NOTHING, num_hard=1, margin=0.1)
    gradient = tape.gradient(loss, variable).numpy()
    assert gradient[:2].tolist() == [[-1, 0, 1, 0], [0, -1, 1, 0]]
    assert not gradient[3].any()


def test_items_that_are_no_rows_own_are_ignored() -> None:
    users, items = np.eye(2), np.array([[1, 0], [0, 1], [1, 0], [0.8, 0.6]])
    term = hard_in_batch_term(num_hard=2, margin=0.5)
    batch = {"weight": np.float32([1, 3])}
    found = float(term(outputs_of({"vector": users}, {"vector": items}, batch=batch, temperature=0.2)))
    assert found == 0
    close = np.array([[1, 0], [0.8, 0.6], [1, 0], [0.8, 0.6]])
    found = float(term(outputs_of({"vector": users}, {"vector": close}, batch=batch, temperature=0.2)))
    # Row 0: .5 - 1 + .8 = .3; row 1: .5 - .6 + 0 < 0. One other item of two looked for; weights 1 and 3.
    assert found == pytest.approx(0.3 / 2 / 4)
