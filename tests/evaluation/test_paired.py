"""Intervals cover what they should, and pairing is on the same users."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import paired
from evaluation.paired import intervals, mean_interval, paired_difference, ratio_interval


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


def test_pairing_cancels_what_users_share() -> None:
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
    whole = paired._resampled_means(values, 25, 7)
    monkeypatch.setattr(paired, "_BLOCK_DRAWS", 40)
    blocks = paired._resampled_means(values, 25, 7)
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


def test_faulty_arguments_are_refused() -> None:
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
