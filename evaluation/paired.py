"""How sure is a mean over users, or the difference of two arms on the same users?

U users, A arms or metrics side by side, S resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BLOCK_DRAWS = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A mean over users with its bootstrap interval.

    Attributes:
        mean: The mean over the users counted; nan without users.
        low: Lower end of the interval.
        high: Upper end of the interval.
        num_users: Users counted.
    """

    mean: float
    low: float
    high: float
    num_users: int


def mean_interval(values: npt.NDArray[np.float64], *, num_samples: int, seed: int, level: float = 0.95) -> Interval:
    """Mean over users, and the interval of the percentile bootstrap.

    Args:
        values: [U] float64; users with nan are not counted.
        num_samples: S, resamples of the users with replacement.
        seed: Same seed and number of users, same resamples.
        level: Share of the resampled means inside the interval.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: `num_samples` < 1, or `level` is not between 0 and 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    return intervals(values[:, None], num_samples=num_samples, seed=seed, level=level)[0]


def paired_difference(
    values: npt.NDArray[np.float64],
    reference: npt.NDArray[np.float64],
    *,
    num_samples: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Mean over users of what an arm has more than another; what makes both better or worse cancels.

        mean over users of (value_u - reference_u)

    Args:
        values: [U] float64 of the arm.
        reference: [U] float64 of the arm that it is compared with, on the same users.
        num_samples: As for `mean_interval`.
        seed: As for `mean_interval`.
        level: As for `mean_interval`.

    Returns:
        The mean difference and its interval. A user with nan on either side is not counted on both.

    Raises:
        ValueError: The two are not of the same length, or as `mean_interval`.
    """
    if values.shape != reference.shape:
        raise ValueError(f"values have shape {values.shape}, the reference {reference.shape}; pair the same users")
    return mean_interval(values - reference, num_samples=num_samples, seed=seed, level=level)


def intervals(values: npt.NDArray[np.float64], *, num_samples: int, seed: int, level: float = 0.95) -> list[Interval]:
    """`mean_interval` of several columns, all on the same resamples and the same users.

    Args:
        values: [U, A] float64; a user with nan in any column is counted in none.
        num_samples: As for `mean_interval`.
        seed: As for `mean_interval`.
        level: As for `mean_interval`.

    Returns:
        A intervals, in the order of the columns.

    Raises:
        ValueError: As `mean_interval`.
    """
    if num_samples < 1 or not 0 < level < 1:
        raise ValueError(f"num_samples is {num_samples} and level {level}; expected at least 1, and between 0 and 1")
    counted = values[~np.isnan(values).any(axis=1)]
    if not len(counted):
        return [Interval(np.nan, np.nan, np.nan, 0)] * values.shape[1]
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled_means(counted, num_samples, seed), [tail, 1 - tail], axis=0)
    means = counted.mean(axis=0)
    ends = zip(means, low, high, strict=True)
    return [Interval(float(mean), float(lower), float(upper), len(counted)) for mean, lower, upper in ends]


def ratio_interval(
    numerators: npt.NDArray[np.float64],
    denominators: npt.NDArray[np.float64],
    *,
    num_samples: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """A ratio of two sums over users, and the interval of the percentile bootstrap.

        sum over users of numerator_u  /  sum over users of denominator_u

    Args:
        numerators: [U] float64.
        denominators: [U] float64, not negative.
        num_samples: As for `mean_interval`.
        seed: As for `mean_interval`.
        level: As for `mean_interval`.

    Returns:
        The ratio and its interval over the resamples whose denominators are not all 0; nan where there is none.

    Raises:
        ValueError: The two are not of the same length, or as `mean_interval`.
    """
    if numerators.shape != denominators.shape:
        raise ValueError(f"numerators have shape {numerators.shape}, denominators {denominators.shape}; pair the users")
    if num_samples < 1 or not 0 < level < 1:
        raise ValueError(f"num_samples is {num_samples} and level {level}; expected at least 1, and between 0 and 1")
    if not denominators.any():
        return Interval(np.nan, np.nan, np.nan, len(numerators))
    means = _resampled_means(np.column_stack([numerators, denominators]), num_samples, seed)
    means = means[means[:, 1] > 0]
    if not len(means):
        return Interval(float(numerators.sum() / denominators.sum()), np.nan, np.nan, len(numerators))
    tail = (1 - level) / 2
    low, high = np.quantile(means[:, 0] / means[:, 1], [tail, 1 - tail])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high), len(numerators))


def _resampled_means(values: npt.NDArray[np.float64], num_samples: int, seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    num_users = len(values)
    block = max(1, _BLOCK_DRAWS // num_users)
    parts = []
    for start in range(0, num_samples, block):
        size = min(block, num_samples - start)
        drawn = rng.integers(num_users, size=(size, num_users)) + np.arange(size)[:, None] * num_users
        # How often each user was drawn: the means of all columns are then one matrix product.
        times = np.bincount(drawn.ravel(), minlength=size * num_users).reshape(size, num_users)
        parts.append(times @ values / num_users)
    return np.concatenate(parts)
