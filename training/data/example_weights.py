"""Example weights: rewards or business values, tempered, with a mean of one.

Shape letter: E examples. Values that have no logarithm are replaced as those of the items in the index are, so that
training and retrieval speak of the same values.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from serving.retrieval.weights import log_weight_spread, positive


@dataclass(frozen=True)
class Tempered:
    """Weights of examples, and what was done to get them.

    Attributes:
        weights: [E] float32, above 0, with mean one.
        num_missing: Values that were missing and count as the median.
        num_raised: Values that were raised to the floor, zeros and negative ones among them.
        spread: Standard deviation of the logarithm of the weights; 0 where there is no example.
    """

    weights: npt.NDArray[np.float32]
    num_missing: int
    num_raised: int
    spread: float


def tempered(values: npt.NDArray[np.floating], power: float) -> Tempered:
    """Weights of examples from the values of their events.

        w_i = value_i^power / mean_j value_j^power

    A missing value counts as the median of the positive ones. Zeros, returned goods and all else below the 1%
    quantile of the positive values are raised to it: a weight of zero would drop an example that did happen.

    Args:
        values: [E] floating, in any unit: it cancels.
        power: Exponent (kappa), above 0: 1 keeps the values, towards 0 examples count alike.

    Returns:
        The weights and the counts.

    Raises:
        ValueError: A value is infinite, there are values and none is positive, or `power` is not above 0.
    """
    if not power > 0:
        raise ValueError(f"power is {power}, expected above 0; count examples alike by configuring no reward")
    if not len(values):
        return Tempered(np.zeros(0, np.float32), 0, 0, 0.0)
    found = positive(values)
    # Divided first: the power of a large value may have no float32.
    raised = (found.values / found.values.max()) ** power
    weights = (raised / raised.mean()).astype(np.float32)
    return Tempered(weights, found.num_missing, found.num_raised, log_weight_spread(weights))


Reward = Literal["none", "reward", "value"]

REWARDS: Mapping[Reward, Callable[[npt.NDArray[np.float32], float], npt.NDArray[np.float32]]] = {
    "none": lambda rewards, power: np.ones_like(rewards),
    "reward": lambda rewards, power: rewards**power,
    "value": lambda values, power: tempered(values, power).weights,
}
"""What examples count, from their rewards [E] or, for `value`, the values of their events, and an exponent."""


Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fade:
    """How much less an example counts the older it is: e^(-age / days), so that those of the newest day count one.

    Attributes:
        until: The day after the newest one.
        days: Age at which an example counts 1/e.
    """

    until: dt.date
    days: float

    def of(self, day: dt.date) -> np.float32:
        """What the examples of a day count."""
        return np.float32(np.exp(-((self.until - day).days - 1) / self.days))


def balanced(weight: Floats, users: npt.NDArray[np.int64], power: float) -> Floats:
    """Divides each example's weight by the number of its user's examples, to a power.

        w_i <- w_i n_u(i)^-power / mean

    Recall is a mean over users, the loss a sum over examples; without this a tenth of the users decides what is
    learned.

    Args:
        weight: [E] float32, the rewards.
        users: [E] int64, the user of each example.
        power: 0 leaves examples alike, 1 makes users count alike.

    Returns:
        [E] float32 of the same mean.
    """
    if not len(weight) or power == 0:
        return weight
    changed = weight * np.bincount(users)[users].astype(np.float64) ** -power
    total = changed.sum()
    # Sums of float32 overflow where rewards are large.
    return np.asarray(changed * (weight.sum(dtype=np.float64) / total if total else 1.0), dtype=np.float32)
