"""How small a difference could this comparison have seen, and how many users would a smaller one take?

U users. Both by the normal approximation of a paired, two-sided test; `alpha` is its rate of false alarms, `power` its
rate of finding a difference that is there.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt


def smallest_detectable_effect(
    differences: npt.NDArray[np.float64], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The true mean difference that these many users, as different as they are, show with probability `power`.

        (z_{1 - alpha/2} + z_power) sd / sqrt(n)

    Args:
        differences: [U] float64, an arm's figure minus the other's; users with nan are not counted.
        power: Wanted chance of finding it, above `alpha` and below 1.
        alpha: Chance of a false alarm, between 0 and 1.

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
    """How many users, as different as these, a comparison needs to show a mean difference of `effect`.

        n = ( (z_{1 - alpha/2} + z_power) sd / effect )^2, rounded up

    Args:
        differences: As for `smallest_detectable_effect`; says how different users are, their mean does not matter.
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
    # A hair less: the effect that n users show is to need n of them, not one more for a rounding.
    return max(2, math.ceil(wanted * (1 - 1e-12)))


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
