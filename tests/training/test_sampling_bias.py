"""How often does an item come into a batch?"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from training.dataset import BatchPlan, Span, batches
from training.negatives import KnownPositives
from training.sampling_bias import expected_draws

NOBODY = KnownPositives(np.zeros(3, np.int64), np.empty(0, np.int64))


def test_draws_of_both_samplers_add_up() -> None:
    # 12 examples: 6, 4, 2 and 0 of the four items; B = 8 rows and B' = 6 even draws.
    expected = [
        Fraction(8 * 6, 12) + Fraction(6, 4),
        Fraction(8 * 4, 12) + Fraction(6, 4),
        Fraction(8 * 2, 12) + Fraction(6, 4),
        Fraction(6, 4),
    ]
    found = expected_draws(np.array([6, 4, 2, 0]), num_examples=12, batch_size=8, num_uniform=6, catalogue_size=4)
    np.testing.assert_allclose(found, [float(draws) for draws in expected], rtol=1e-12)
    assert sum(expected) == 8 + 6


def test_without_uniform_negatives_only_the_examples_count() -> None:
    found = expected_draws(np.array([3, 1]), num_examples=4, batch_size=2, num_uniform=0, catalogue_size=1000)
    assert found.tolist() == [3 / 2, 1 / 2]


def test_empty_data_divides_by_nothing() -> None:
    assert expected_draws(np.array([0]), num_examples=0, batch_size=5, num_uniform=5, catalogue_size=0).tolist() == [5]


@pytest.mark.parametrize("num_uniform", [0, 7, 40])
def test_real_batches_hold_items_as_often_as_expected(num_uniform: int) -> None:
    num_items, num_examples, epochs = 20, 640, 150
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, num_items + 1)
    own = rng.choice(num_items, num_examples, p=shares / shares.sum()) + 1
    span = Span(
        users={"user_id": np.arange(2, dtype=np.int32)},
        items={"item_id": own.astype(np.int32)},
        uniform={"item_id": np.tile(np.arange(1, num_items + 1, dtype=np.int32), 5)},
        user_row=rng.integers(0, 2, num_examples),
        item_row=np.arange(num_examples),
        weight=np.ones(num_examples, np.float32),
    )
    item_counts = np.bincount(own, minlength=num_items + 1)
    plan = BatchPlan(batch_size=32, num_uniform=num_uniform, known=NOBODY, item_counts=item_counts, correct=True)
    counts, log_q = np.zeros(num_items + 1), np.zeros(num_items + 1)
    num_batches = 0
    for epoch in range(epochs):
        for batch in batches(span, plan, seed=[epoch]):
            counts += np.bincount(batch["item/item_id"], minlength=num_items + 1)
            log_q[batch["item/item_id"]] = batch["log_q"]
            num_batches += 1
    assert num_batches == epochs * num_examples / 32
    np.testing.assert_allclose(counts[1:] / num_batches, np.exp(log_q[1:]), rtol=0.05)
