"""Intervals cover, p-values are those of all sign flips, Holm keeps its order, and power is what simulations show."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import zt_ind_solve_power

from evaluation import statistics
from evaluation.statistics import (
    holm,
    intervals,
    mean_interval,
    paired_difference,
    permutation_p_values,
    ratio_interval,
    smallest_detectable_effect,
    users_needed,
)

P_VALUES = np.array([0.01, np.nan, 0.04, 0.03, 0.5])


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    values = np.random.default_rng(0).random(200)
    found = mean_interval(values, num_samples=4000, seed=1)
    rng = np.random.default_rng(2)
    means = [values[rng.integers(200, size=200)].mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.mean == pytest.approx(values.mean())
    assert found.num_users == 200
    # The standard error of the mean is about .02; two bootstraps of 4,000 agree on its tails within a tenth of it.
    assert found.low == pytest.approx(low, abs=0.002)
    assert found.high == pytest.approx(high, abs=0.002)


def test_about_95_of_100_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        found = mean_interval(rng.exponential(size=100), num_samples=300, seed=seed)
        covered += found.low <= 1 <= found.high
    # Binomial with n = 200 and p about .93 (skewed values): mean 186, four standard deviations are 14.
    assert 170 <= covered <= 199


def test_pairing_cancels_the_variance_that_arms_share() -> None:
    users = np.random.default_rng(4).random(300)
    better = paired_difference(users + 0.01, users, num_samples=200, seed=1)
    assert better.low == pytest.approx(0.01)
    assert better.high == pytest.approx(0.01)
    assert mean_interval(users, num_samples=200, seed=1).low < users.mean() - 0.01


def test_a_user_with_nan_on_either_side_is_left_out_on_both() -> None:
    own, reference = np.array([1.0, np.nan, 3.0, 10.0]), np.array([0.0, 5.0, 1.0, np.nan])
    found = paired_difference(own, reference, num_samples=50, seed=1)
    assert found.mean == 3 / 2  # (1 - 0 + 3 - 1) / 2
    assert found.num_users == 2


def test_columns_share_resamples_and_users() -> None:
    values = np.random.default_rng(5).random((50, 2))
    first, second, sum_of_both = intervals(np.column_stack([values, values.sum(axis=1)]), num_samples=1, seed=9)
    assert first.low == first.high  # one resample: its mean
    assert first.low + second.low == pytest.approx(sum_of_both.low)
    holed = values.copy()
    holed[0, 1] = np.nan
    assert [at.num_users for at in intervals(holed, num_samples=1, seed=9)] == [49, 49]


def test_blocks_of_resamples_count_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).random((10, 1))
    whole = statistics._resampled_means(values, 25, 7)
    monkeypatch.setattr(statistics, "_BLOCK_DRAWS", 40)
    blocks = statistics._resampled_means(values, 25, 7)
    assert whole.shape == blocks.shape == (25, 1)
    np.testing.assert_allclose(whole, blocks)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 99))
def test_an_interval_lies_within_the_values_and_repeats_with_its_seed(values: list[float], seed: int) -> None:
    array = np.array(values)
    found = mean_interval(array, num_samples=20, seed=seed)
    assert array.min() - 1e-9 <= found.low <= found.high <= array.max() + 1e-9
    assert mean_interval(array, num_samples=20, seed=seed) == found


def test_no_user_gives_nan() -> None:
    found = mean_interval(np.array([np.nan]), num_samples=10, seed=0)
    assert found.num_users == 0
    assert np.isnan([found.mean, found.low, found.high]).all()


def test_faulty_arguments_of_an_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), the reference \(3,\)"):
        paired_difference(np.zeros(2), np.zeros(3), num_samples=10, seed=0)
    with pytest.raises(ValueError, match=r"num_samples is 0 and level 0\.95"):
        mean_interval(np.zeros(2), num_samples=0, seed=0)
    with pytest.raises(ValueError, match=r"num_samples is 5 and level 1\.5"):
        mean_interval(np.zeros(2), num_samples=5, seed=0, level=1.5)


def test_a_ratio_resamples_numerator_and_denominator_together() -> None:
    found = ratio_interval(np.array([2.0, 6.0]), np.array([1.0, 3.0]), num_samples=50, seed=1)
    # 2 / 1 = 6 / 3 = (2 + 6) / (1 + 3): every resample has the same ratio.
    assert (found.mean, found.low, found.high, found.num_users) == (2, 2, 2, 2)
    one = {ratio_interval(np.array([1.0, 0.0]), np.array([3.0, 1.0]), num_samples=1, seed=s).low for s in range(30)}
    # Twice the first, both, twice the second.
    assert one == {1 / 3, 1 / 4, 0.0}


def test_resamples_without_a_denominator_are_left_out() -> None:
    found = ratio_interval(np.array([3.0, 0.0]), np.array([1.0, 0.0]), num_samples=100, seed=1)
    assert (found.mean, found.low, found.high) == (3, 3, 3)
    nothing = ratio_interval(np.zeros(2), np.zeros(2), num_samples=10, seed=1)
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


def test_faulty_arguments_of_a_ratio_are_refused() -> None:
    with pytest.raises(ValueError, match=r"numerators have shape \(2,\), denominators \(3,\)"):
        ratio_interval(np.zeros(2), np.zeros(3), num_samples=10, seed=0)
    with pytest.raises(ValueError, match=r"num_samples is 0 and level 0\.95"):
        ratio_interval(np.zeros(2), np.zeros(2), num_samples=0, seed=0)


def test_p_values_near_those_of_every_possible_flip() -> None:
    values = np.array([[0.5, 0.1], [0.25, -0.3], [0.1, 0.2], [-0.05, 0.4], [0.3, -0.1], [0.2, 0.0]])
    flips = np.array(list(product([1, -1], repeat=6)))
    exact = (np.abs(flips @ values) >= np.abs(values.sum(axis=0)) - 1e-12).mean(axis=0)
    # The first column: of 64 flips, none, that of the one loss, and both in the mirror, reach 1.3.
    assert exact[0] == 4 / 64
    scipys = permutation_test(
        (values,), lambda flipped, axis: flipped.sum(axis=axis), permutation_type="samples", axis=0
    )
    np.testing.assert_allclose(exact, scipys.pvalue)
    found = permutation_p_values(values, num_samples=20_000, seed=3)
    # Four standard errors of a share of 20,000 draws are at most .014.
    np.testing.assert_allclose(found, exact, atol=0.014)


def test_a_sum_in_another_order_is_a_tie_and_counts() -> None:
    # For any signs, the sum is 0 or +-.1 and so on up to rounding; observed is .6, reached by no sign changed or
    # all: with three users, 2 of 8 flips. Counted strictly above, rounding would decide.
    values = np.array([[0.1], [0.2], [0.3]])
    found = permutation_p_values(values, num_samples=8_000, seed=1)[0]
    assert found == pytest.approx(2 / 8, abs=0.02)
    # .1 + .2 - .3 is 5.6e-17 and not 0: still every flip is as large as nothing.
    assert permutation_p_values(np.array([[0.1], [0.2], [-0.3]]), num_samples=500, seed=1)[0] == 1


def test_no_difference_has_p_1_and_no_users_have_none() -> None:
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
    monkeypatch.setattr(statistics, "_BLOCK_FLIPS", 300)
    np.testing.assert_array_equal(permutation_p_values(values, num_samples=101, seed=7), whole)


def test_coins_are_fair_and_of_each_user() -> None:
    coins = statistics._coins(np.random.default_rng(8), 4_000, 130)
    assert coins.shape == (4_000, 130)
    assert set(np.unique(coins)) == {0.0, 1.0}
    # Four standard errors of a share of 4,000 are .032; of the correlation of two users, .063.
    np.testing.assert_allclose(coins.mean(axis=0), 0.5, atol=0.036)
    assert np.abs(np.corrcoef(coins.T) - np.eye(130)).max() < 0.08


def test_faulty_arguments_of_a_permutation_test_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples is 0; draw at least 1"):
        permutation_p_values(np.zeros((2, 1)), num_samples=0, seed=0)
    with pytest.raises(ValueError, match=r"of shape \(2,\), expected finite numbers or nan \[U, A\]"):
        permutation_p_values(np.zeros(2), num_samples=1, seed=0)
    with pytest.raises(ValueError, match=r"of shape \(1, 1\), expected finite"):
        permutation_p_values(np.array([[np.inf]]), num_samples=1, seed=0)


def test_holm_by_hand() -> None:
    # Of four tested: 4 * .01, 3 * .03, then 2 * .04, which may not fall below .09, and .5.
    np.testing.assert_allclose(holm(P_VALUES), [0.04, np.nan, 0.09, 0.09, 0.5])
    np.testing.assert_allclose(holm(np.array([0.7, 0.9])), [1, 1])


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(1).random(40) ** 3
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-15)


def test_nothing_tested_gives_nothing() -> None:
    np.testing.assert_array_equal(holm(np.array([np.nan, np.nan])), [np.nan, np.nan])
    assert holm(np.array([])).shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_adjusting_raises_and_keeps_the_order(values: list[float], random: object) -> None:
    p_values = np.array(values)
    adjusted = holm(p_values)
    assert (p_values <= adjusted).all()
    assert (adjusted <= np.minimum(1, len(values) * p_values) + 1e-12).all()  # never stricter than Bonferroni
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()
    shuffled = np.random.default_rng(random.randint(0, 99)).permutation(len(values))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(holm(p_values[shuffled]), adjusted[shuffled])


def test_p_values_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 p-values are not between 0 and 1, the first 1\.5"):
        holm(np.array([0.1, np.nan, 1.5, -0.1]))


def test_adjusting_leaves_its_input_unchanged() -> None:
    p_values = P_VALUES.copy()
    holm(p_values)
    np.testing.assert_array_equal(p_values, P_VALUES)


def test_power_by_hand() -> None:
    # Differences 0 and 2 have a standard deviation of sqrt(2) by n - 1; z is 1.95996 + .84162 = 2.80159.
    differences = np.array([0.0, 2.0, np.nan])
    assert smallest_detectable_effect(differences) == pytest.approx(2.80159 * math.sqrt(2) / math.sqrt(2), abs=1e-4)
    assert users_needed(differences, -0.1) == 1570  # (2.80159 * 1.41421 / .1)^2 = 1569.8
    # 1.64485 for alpha .1 and 1.28155 for power .9.
    assert smallest_detectable_effect(differences, power=0.9, alpha=0.1) == pytest.approx(2.92641, abs=1e-4)


def test_power_agrees_with_statsmodels() -> None:
    differences = np.random.default_rng(3).normal(0, 2, 300)
    deviation = differences.std(ddof=1)
    # A ratio of 0 is a test of one sample, here of the differences.
    theirs = zt_ind_solve_power(nobs1=300, alpha=0.05, power=0.8, ratio=0) * deviation
    assert smallest_detectable_effect(differences) == pytest.approx(theirs, rel=1e-4)
    theirs = zt_ind_solve_power(effect_size=0.2 / deviation, alpha=0.05, power=0.8, ratio=0)
    assert users_needed(differences, 0.2) == math.ceil(theirs)


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


def test_invalid_power_questions_are_refused() -> None:
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
