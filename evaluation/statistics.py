"""Statistics over users: bootstrap intervals, paired permutation test, Holm's correction, power, and the verdict.

U users, A arms, metrics or comparisons in columns, S resamples or sign flips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

_BLOCK_DRAWS = 1 << 22
"""Users drawn at a time by the bootstrap: 32 MiB of int64."""
_BLOCK_FLIPS = 1 << 22
"""Signs held at a time by the permutation test: 32 MiB of float64."""
_TIE = 1e-10
"""Of the sum of all absolute differences: sums closer than this are the same sum, added up in another order."""
Decision = Literal["ship", "do not ship", "undecided"]


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
    """Mean difference of two arms on the same users, which cancels what makes both better or worse.

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
    """`mean_interval` of several columns, on the same resamples of the same users.

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


def permutation_p_values(
    differences: npt.NDArray[np.float64], *, num_samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Two-sided p-value of each mean difference: the paired permutation test, by random sign flips.

    If two arms are alike, each user's two figures may be exchanged, which changes the sign of the difference:

        p = (1 + #{samples with |mean of the flipped| >= |mean|}) / (1 + S)

    The sample that flips nothing counts too: p is never 0, and the test keeps its significance level.

    Args:
        differences: [U, A] float64, an arm's figure minus the other's; a user with nan is not counted in that column.
        num_samples: S, random flips; the smallest p-value is 1 / (1 + S).
        seed: Same seed and number of users, same flips, in all columns alike.

    Returns:
        [A] float64; 1 where all differences are 0, nan where no user has one.

    Raises:
        ValueError: `num_samples` < 1, or the differences are not [U, A] or not finite.

    Source: Fisher, The Design of Experiments, 1935, section 21; the count with one added is of Phipson and Smyth,
        SAGMB 2010.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; draw at least 1")
    if differences.ndim != 2 or np.isinf(differences).any():
        raise ValueError(f"differences are of shape {differences.shape}, expected finite numbers or nan [U, A]")
    values = np.nan_to_num(differences)
    total = values.sum(axis=0)
    # The number of users is the same with every sign: sums compare as means do.
    reached = np.abs(total) - _TIE * np.abs(values).sum(axis=0)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_FLIPS // max(len(values), 1))
    as_large = np.zeros(values.shape[1], np.int64)
    for start in range(0, num_samples, block):
        kept = _coins(rng, min(block, num_samples - start), len(values))
        as_large += (np.abs(2 * (kept @ values) - total) >= reached).sum(axis=0)
    return np.where(np.isnan(differences).all(axis=0), np.nan, (1 + as_large) / (1 + num_samples))


def holm(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjusted p-values that bound the family-wise error rate: the chance of any false alarm in all comparisons.

        adjusted of the i-th smallest = max over j <= i of min(1, (A - j + 1) p_j)

    It holds for any dependence between the comparisons.

    Args:
        p_values: [A] float64; nan is a comparison that was not tested: it stays nan and is not one of the A.

    Returns:
        [A] float64; at most alpha where the comparison is rejected at a family-wise error rate of alpha.

    Raises:
        ValueError: A p-value is not between 0 and 1.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    adjusted = np.array(p_values, dtype=np.float64)
    tested = ~np.isnan(adjusted)
    bad = tested & ~((adjusted >= 0) & (adjusted <= 1))
    if bad.any():
        raise ValueError(f"{bad.sum()} p-values are not between 0 and 1, the first {adjusted[bad][0]}")
    order = np.argsort(adjusted[tested], kind="stable")
    raised = adjusted[tested][order] * np.arange(len(order), 0, -1)
    back = np.empty(len(order))
    back[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    adjusted[tested] = back
    return adjusted


def smallest_detectable_effect(
    differences: npt.NDArray[np.float64], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The true mean difference that a paired, two-sided test on these users finds with probability `power`.

        (z_{1 - alpha/2} + z_power) sd / sqrt(n),  by the normal approximation

    Args:
        differences: [U] float64, an arm's figure minus the other's; users with nan are not counted.
        power: Wanted chance of finding it, above `alpha` and below 1.
        alpha: Significance level, between 0 and 1: the chance of a false alarm.

    Returns:
        In the unit of the differences, at least 0.

    Raises:
        ValueError: Fewer than two users have a difference, one is infinite, or `power` or `alpha` is out of its range.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
    """
    deviation, num_users = _spread(differences)
    return _quantiles(power, alpha) * deviation / math.sqrt(num_users)


def users_needed(
    differences: npt.NDArray[np.float64], effect: float, *, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Sample size: users like these that a comparison needs to find a mean difference of `effect`.

        n = ( (z_{1 - alpha/2} + z_power) sd / effect )^2, rounded up

    Args:
        differences: As for `smallest_detectable_effect`; only their standard deviation counts, not their mean.
        effect: True mean difference to be found, of either sign.
        power: As for `smallest_detectable_effect`.
        alpha: As for `smallest_detectable_effect`.

    Returns:
        Users with a difference, at least 2.

    Raises:
        ValueError: `effect` is 0 or not finite, or as `smallest_detectable_effect`.
    """
    if not math.isfinite(effect) or effect == 0:
        raise ValueError(f"effect is {effect}; no number of users shows it, give a finite difference other than 0")
    deviation, _ = _spread(differences)
    wanted = (_quantiles(power, alpha) * deviation / effect) ** 2
    # Slightly less: rounding must not turn the n users that detect an effect into n + 1.
    return max(2, math.ceil(wanted * (1 - 1e-12)))


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


def _coins(rng: np.random.Generator, num_samples: int, num_users: int) -> npt.NDArray[np.float64]:
    """Fair zeros and ones, [samples, users]: 64 of each draw, and the same ones for every size of block."""
    draws = rng.integers(0, 2**64, size=(num_samples, -(-num_users // 64)), dtype=np.uint64)
    return np.unpackbits(draws.view(np.uint8), axis=1, count=num_users).astype(np.float64)


def _spread(differences: npt.NDArray[np.float64]) -> tuple[float, int]:
    counted = differences[~np.isnan(differences)]
    if len(counted) < 2 or np.isinf(counted).any():
        raise ValueError(
            f"{len(counted)} of {len(differences)} users have a difference and {np.isinf(counted).sum()} of those are "
            "infinite; expected finite ones of two users at least"
        )
    return float(counted.std(ddof=1)), len(counted)


def _quantiles(power: float, alpha: float) -> float:
    if not 0 < alpha < power < 1:
        raise ValueError(f"power is {power} and alpha {alpha}; expected 0 < alpha < power < 1")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


@dataclass(frozen=True)
class Verdict:
    """A decision.

    Attributes:
        decision: What to do.
        reasons: Why, a sentence each, the deciding one first.
    """

    decision: Decision
    reasons: tuple[str, ...]


def decide(
    difference: Interval,
    *,
    metric: str,
    lowest: float = 0.0,
    p_value: float | None = None,
    alpha: float = 0.05,
    blockers: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Verdict:
    """Decides by the paired difference of one metric, named beforehand.

        do not ship    the whole interval lies below `lowest`, or something blocks
        ship           the whole interval lies above `lowest`; for `lowest` = 0 the permutation test has to agree
        undecided      otherwise

    With `lowest` below 0 an arm ships that is at most so much worse: a test of non-inferiority, for an arm that is
    cheaper, or for one that is only fitted again.

    Args:
        difference: Of the arm less its reference arm.
        metric: Its name.
        lowest: Difference that the arm has to reach, at most 0.
        p_value: Of the permutation test, corrected; None where there was none.
        alpha: Significance level: the false alarm rate.
        blockers: Reasons not to ship, whatever the difference.
        warnings: What a reader has to know, and what does not affect the decision.

    Returns:
        The verdict; undecided without users to compare on.

    Raises:
        ValueError: `lowest` is above 0, or alpha is not between 0 and 1.

    Source: for non-inferiority, Schumi and Wittes, Trials 2011.
    """
    if lowest > 0 or not 0 < alpha < 1:
        raise ValueError(f"lowest is {lowest} and alpha {alpha}; expected at most 0, and between 0 and 1")
    said = f"{metric} {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    bound = f"{lowest:+.4f}" if lowest else "0"
    seen = () if p_value is None else (f"permutation test p = {p_value:.3g}",)
    if not difference.num_users:
        return Verdict("undecided", (f"no user has a figure of {metric} for both", *blockers, *warnings))
    if difference.high < lowest:
        return Verdict("do not ship", (f"worse: {said}, all of it below {bound}", *seen, *blockers, *warnings))
    if blockers:
        return Verdict("do not ship", (*blockers, said, *seen, *warnings))
    agrees = lowest < 0 or p_value is None or p_value < alpha
    if difference.low > lowest and agrees:
        how = "better" if lowest == 0 or difference.low > 0 else f"worse by no more than {-lowest:.4f}"
        return Verdict("ship", (f"{how}: {said}, all of it above {bound}", *seen, *warnings))
    if difference.low > lowest:
        why = f"better by the interval, {said}, but not by the permutation test, p = {p_value:.3g}"
        return Verdict("undecided", (why, *warnings))
    return Verdict("undecided", (f"no significant difference: {said} includes {bound}", *seen, *warnings))
