"""Power is what simulated comparisons have."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.permutation import permutation_p_values
from evaluation.power import smallest_detectable_effect, users_needed


def test_by_hand() -> None:
    # Differences 0 and 2 have a standard deviation of sqrt(2) by n - 1; z is 1.95996 + .84162 = 2.80159.
    differences = np.array([0.0, 2.0, np.nan])
    assert smallest_detectable_effect(differences) == pytest.approx(2.80159 * math.sqrt(2) / math.sqrt(2), abs=1e-4)
    assert users_needed(differences, -0.1) == 1570  # (2.80159 * 1.41421 / .1)^2 = 1569.8
    # 1.64485 for alpha .1 and 1.28155 for power .9.
    assert smallest_detectable_effect(differences, power=0.9, alpha=0.1) == pytest.approx(2.92641, abs=1e-4)


def recall_differences(rng: np.random.Generator, num_users: int) -> npt.NDArray[np.float64]:
    """Of users with four relevant items each and two arms alike: half of the differences are 0."""
    taste = rng.beta(0.4, 1.6, num_users)
    return (rng.binomial(4, taste) - rng.binomial(4, taste)) / 4


def share_found(effect: float, num_users: int) -> float:
    """Of 400 comparisons in which the arm is better by `effect` on average, those that the permutation test finds."""
    rng = np.random.default_rng(12)
    columns = np.column_stack([recall_differences(rng, num_users) + effect for _ in range(400)])
    return float((permutation_p_values(columns, num_samples=499, seed=3) <= 0.05).mean())


def test_the_smallest_detectable_effect_is_found_in_8_of_10_comparisons() -> None:
    effect = smallest_detectable_effect(recall_differences(np.random.default_rng(1), 100_000)[:20_000])
    per_user = effect * math.sqrt(20_000)
    # Binomial with n = 400 and p = .8: four standard deviations are .08.
    assert share_found(per_user / math.sqrt(300), 300) == pytest.approx(0.8, abs=0.08)
    assert share_found(0.5 * per_user / math.sqrt(300), 300) < 0.4


def test_so_many_users_find_the_effect_in_8_of_10_comparisons() -> None:
    num_users = users_needed(recall_differences(np.random.default_rng(2), 20_000), 0.03)
    assert 200 < num_users < 1_000
    assert share_found(0.03, num_users) == pytest.approx(0.8, abs=0.08)


@given(st.integers(2, 300), st.floats(0.5, 0.95), st.floats(0.01, 0.2))
def test_the_effect_that_n_users_show_needs_n_users(num_users: int, power: float, alpha: float) -> None:
    differences = np.random.default_rng(num_users).normal(3, 2, num_users)
    effect = smallest_detectable_effect(differences, power=power, alpha=alpha)
    assert users_needed(differences, effect, power=power, alpha=alpha) == num_users
    assert users_needed(differences, effect / 2, power=power, alpha=alpha) == 4 * num_users


def test_users_who_do_not_differ_show_everything() -> None:
    assert smallest_detectable_effect(np.full(5, 0.25)) == 0
    assert users_needed(np.full(5, 0.25), 0.001) == 2


def test_questions_without_an_answer_are_refused() -> None:
    differences = np.array([0.0, 1.0])
    for effect in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"effect is {effect}; no number of users shows it"):
            users_needed(differences, effect)
    with pytest.raises(ValueError, match="1 of 2 users have a difference and 0 of those are infinite"):
        smallest_detectable_effect(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="2 of 2 users have a difference and 1 of those are infinite"):
        users_needed(np.array([1.0, -np.inf]), 0.1)
    for power, alpha in ((1.0, 0.05), (0.8, 0.0), (0.04, 0.05)):
        with pytest.raises(ValueError, match=f"power is {power} and alpha {alpha}; expected 0 < alpha < power < 1"):
            smallest_detectable_effect(differences, power=power, alpha=alpha)
