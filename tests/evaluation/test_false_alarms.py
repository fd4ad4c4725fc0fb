"""Equal arms are declared different no more often than the significance level: simulated A/A comparisons."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

from evaluation.statistics import holm, paired_difference, permutation_p_values

NUM_COMPARISONS = 500
NUM_USERS = 200
# Binomial with n = 500 and p = .05: mean 25, standard deviation 4.9. Three of them on either side.
FEWEST, MOST = 10, 40


@pytest.fixture(scope="module")
def comparisons() -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Recall of two arms of one kind: most users find nothing with either, and who finds much does with both."""
    rng = np.random.default_rng(20)
    pairs = []
    for _ in range(NUM_COMPARISONS):
        taste = rng.beta(0.3, 2.0, NUM_USERS)
        relevant = rng.integers(1, 6, NUM_USERS)
        # Half of the items are found by both or by none, as arms that share their vectors do.
        shared = rng.binomial(relevant // 2, taste)
        own, other = (shared + rng.binomial(relevant - relevant // 2, taste) for _ in range(2))
        pairs.append((own / relevant, other / relevant))
    return pairs


def test_the_simulated_arms_are_alike_and_agree_on_most_users(
    comparisons: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
) -> None:
    own, other = (np.stack(arm) for arm in zip(*comparisons, strict=True))
    assert 0.6 < (own == other).mean() < 0.9
    assert 0.5 < np.corrcoef(own.ravel(), other.ravel())[0, 1] < 0.9


def test_the_permutation_test_has_its_false_alarm_rate(
    comparisons: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
) -> None:
    p_values = np.array(
        [
            permutation_p_values((own - other)[:, None], num_samples=399, seed=seed)[0]
            for seed, (own, other) in enumerate(comparisons)
        ]
    )
    assert FEWEST <= (p_values <= 0.05).sum() <= MOST
    # Level at every height: p-values of arms that are alike are even.
    np.testing.assert_allclose([(p_values <= level).mean() for level in (0.2, 0.5, 0.8)], [0.2, 0.5, 0.8], atol=0.07)


def test_the_bootstrap_interval_leaves_0_out_at_its_level(
    comparisons: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
) -> None:
    found = [paired_difference(*pair, num_samples=400, seed=seed) for seed, pair in enumerate(comparisons)]
    assert FEWEST <= sum(not at.low <= 0 <= at.high for at in found) <= MOST


def families(num_real: int, seed: int) -> npt.NDArray[np.float64]:
    """P-values [2000, 12] of twelve comparisons that share half of their noise, `num_real` of them of unlike arms."""
    rng = np.random.default_rng(seed)
    noise = (rng.normal(size=(2000, 1)) + rng.normal(size=(2000, 12))) / np.sqrt(2)
    z = noise + 4 * (np.arange(12) < num_real)
    return np.asarray(2 * norm.sf(np.abs(z)))


def test_holm_keeps_the_rate_of_families_with_a_false_alarm() -> None:
    for num_real in (0, 4):
        p_values = families(num_real, seed=num_real)
        alarms = np.array([holm(family) for family in p_values])[:, num_real:] <= 0.05
        # Four standard errors of a share of 2,000 are .0195.
        assert alarms.any(axis=1).mean() <= 0.05 + 0.0195
        assert (p_values[:, num_real:] <= 0.05).any(axis=1).mean() > 0.2
