"""How much each example of a user counts, and of an age."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.example_weights import Fade, balanced


def test_balanced_users_count_alike() -> None:
    users, ones = np.array([4, 4, 4, 7]), np.ones(4, np.float32)
    # w = 1/3, 1/3, 1/3, 1 with mean 1/2, scaled back to a mean of 1.
    np.testing.assert_allclose(balanced(ones, users, 1.0), [2 / 3, 2 / 3, 2 / 3, 2], rtol=1e-6)
    # w = 3^-1/2 three times and 1: mean (3^1/2 + 1) / 4.
    mean = (3**0.5 + 1) / 4
    np.testing.assert_allclose(balanced(ones, users, 0.5), [3**-0.5 / mean] * 3 + [1 / mean], rtol=1e-6)
    assert balanced(ones, users, 0) is ones


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1))
def test_balancing_keeps_the_mean_and_the_ratios_within_a_user(seed: int, num_examples: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 6, num_examples)
    weight = rng.exponential(1, num_examples).astype(np.float32)
    found = balanced(weight, users, power)
    assert found.dtype == np.float32
    assert found.mean() == pytest.approx(weight.mean(), rel=1e-5)
    for user in np.unique(users):
        own = users == user
        np.testing.assert_allclose(found[own] / found[own].sum(), weight[own] / weight[own].sum(), rtol=1e-4)


def test_rewards_of_zero_stay_zero() -> None:
    assert balanced(np.zeros(3, np.float32), np.array([1, 1, 2]), 1.0).tolist() == [0, 0, 0]


def test_older_examples_count_less() -> None:
    fade = Fade(dt.date(2020, 3, 1), 10.0)
    assert fade.of(dt.date(2020, 2, 29)) == 1
    np.testing.assert_allclose(fade.of(dt.date(2020, 2, 19)), np.exp(-1), rtol=1e-6)
    np.testing.assert_allclose(fade.of(dt.date(2020, 1, 30)), np.exp(-3), rtol=1e-6)
