"""P-values are those of all sign flips, whatever the blocks, the ties and the holes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import permutation
from evaluation.permutation import permutation_p_values


def test_p_values_near_those_of_every_possible_flip() -> None:
    values = np.array([[0.5, 0.1], [0.25, -0.3], [0.1, 0.2], [-0.05, 0.4], [0.3, -0.1], [0.2, 0.0]])
    flips = np.array(list(product([1, -1], repeat=6)))
    exact = (np.abs(flips @ values) >= np.abs(values.sum(axis=0)) - 1e-12).mean(axis=0)
    # The first column: of 64 flips, none, that of the one loss, and both in the mirror, reach 1.3.
    assert exact[0] == 4 / 64
    found = permutation_p_values(values, num_samples=20_000, seed=3)
    # Four standard errors of a share of 20,000 draws are at most .014.
    np.testing.assert_allclose(found, exact, atol=0.014)


def test_a_sum_in_another_order_is_a_tie_and_counts() -> None:
    # Whatever the signs, the sum is 0 or +-.1 and so on up to rounding; observed is .6, reached by no sign changed or
    # all: with three users, 2 of 8 flips. Counted strictly above, rounding would decide.
    values = np.array([[0.1], [0.2], [0.3]])
    found = permutation_p_values(values, num_samples=8_000, seed=1)[0]
    assert found == pytest.approx(2 / 8, abs=0.02)
    # .1 + .2 - .3 is 5.6e-17 and not 0: still every flip is as large as nothing.
    assert permutation_p_values(np.array([[0.1], [0.2], [-0.3]]), num_samples=500, seed=1)[0] == 1


def test_no_difference_has_p_1_and_nobody_has_none() -> None:
    found = permutation_p_values(np.array([[0.0, np.nan], [0.0, np.nan]]), num_samples=10, seed=0)
    np.testing.assert_array_equal(found, [1, np.nan])
    np.testing.assert_array_equal(permutation_p_values(np.zeros((0, 2)), num_samples=3, seed=0), [np.nan, np.nan])


def test_the_smallest_p_value_is_that_of_the_sample_that_flips_nothing() -> None:
    found = permutation_p_values(np.ones((200, 1)), num_samples=99, seed=0)
    assert found[0] == 1 / 100


def test_users_with_nan_are_left_out_of_that_column_alone() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, (60, 2))
    holed = values.copy()
    holed[::3, 1] = np.nan
    found = permutation_p_values(holed, num_samples=400, seed=2)
    assert found[0] == permutation_p_values(values, num_samples=400, seed=2)[0]
    # A nan user counts as one whose flip changes nothing.
    assert found[1] == permutation_p_values(np.nan_to_num(holed), num_samples=400, seed=2)[1]
    assert found[1] != permutation_p_values(values, num_samples=400, seed=2)[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-9, 1.0, 1e9]))
def test_neither_sign_nor_unit_nor_neighbours_matter(seed: int, unit: float) -> None:
    values = np.random.default_rng(seed).normal(0.2, 1, (30, 3)).round(1)
    found = permutation_p_values(values, num_samples=64, seed=seed)
    np.testing.assert_array_equal(permutation_p_values(-unit * values, num_samples=64, seed=seed), found)
    np.testing.assert_array_equal(permutation_p_values(values[:, [1]], num_samples=64, seed=seed), found[[1]])


def test_blocks_of_samples_flip_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).normal(0.1, 1, (70, 2))
    whole = permutation_p_values(values, num_samples=101, seed=7)
    monkeypatch.setattr(permutation, "_BLOCK_FLIPS", 300)
    np.testing.assert_array_equal(permutation_p_values(values, num_samples=101, seed=7), whole)


def test_coins_are_fair_and_of_each_user() -> None:
    coins = permutation._coins(np.random.default_rng(8), 4_000, 130)
    assert coins.shape == (4_000, 130)
    assert set(np.unique(coins)) == {0.0, 1.0}
    # Four standard errors of a share of 4,000 are .032; of the correlation of two users, .063.
    np.testing.assert_allclose(coins.mean(axis=0), 0.5, atol=0.036)
    assert np.abs(np.corrcoef(coins.T) - np.eye(130)).max() < 0.08


def test_faulty_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples is 0; draw at least 1"):
        permutation_p_values(np.zeros((2, 1)), num_samples=0, seed=0)
    with pytest.raises(ValueError, match=r"of shape \(2,\), expected finite numbers or nan \[U, A\]"):
        permutation_p_values(np.zeros(2), num_samples=1, seed=0)
    with pytest.raises(ValueError, match=r"of shape \(1, 1\), expected finite"):
        permutation_p_values(np.array([[np.inf]]), num_samples=1, seed=0)
