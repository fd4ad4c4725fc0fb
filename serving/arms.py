"""Arms: a salted hash of the user id decides which arm answers, the same in every process and on every day.

    place = stable_number("<salt>:<user>") mod 10,000;   the arm whose interval of places it falls into

Arms take their intervals in the order in which they are listed, so that raising the last share moves no other user.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# Shares are exact to a hundredth of a percent.
GRAIN = 10_000
DEFAULT_ARM = "default"


@dataclass(frozen=True)
class Arm:
    """One way of answering.

    Attributes:
        name: What answers, exposures and reports call it.
        share: Of the users, above 0, at most 1.
        bundle: Version that it answers from; None takes the one that is published.
        retriever: What finds the items where a request names none; None takes the server's default.
        weight_exponent: Power of the business values where a request names none; None takes the index's.
    """

    name: str
    share: float
    bundle: str | None = None
    retriever: str | None = None
    weight_exponent: float | None = None


class Arms:
    """Arms to which all users are assigned.

    Args:
        arms: At least one, with distinct names and shares that add up to 1.
        salt: Another salt assigns users again, independently of any before.

    Raises:
        ValueError: They are not such arms.
    """

    def __init__(self, arms: Sequence[Arm], *, salt: str) -> None:
        """Lays the intervals side by side."""
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"arms are named {', '.join(names) or '(none)'}, expected at least one and distinct names")
        places = [round(arm.share * GRAIN) for arm in arms]
        if sum(places) != GRAIN or min(places) < 1:
            shares = ", ".join(f"{arm.name} {arm.share:g}" for arm in arms)
            raise ValueError(f"the shares of arms are {shares}, expected each at least {1 / GRAIN:g} and a sum of 1")
        self.arms = tuple(arms)
        self.by_name = {arm.name: arm for arm in arms}
        self._salt = salt
        self._ends = list(accumulate(places))

    def of(self, user_ids: Sequence[str]) -> list[Arm]:
        """The arm of each user."""
        # Not at the top: configurations are read with this module, and hashing takes pandas.
        from features.ids import stable_number

        if len(self.arms) == 1:
            return [self.arms[0]] * len(user_ids)
        places = stable_number(f"{self._salt}:{user_id}" for user_id in user_ids) % GRAIN
        return [self.arms[bisect_right(self._ends, place)] for place in places.tolist()]


def one_arm() -> Arms:
    """All users get the published bundle."""
    return Arms([Arm(DEFAULT_ARM, 1.0)], salt="")
