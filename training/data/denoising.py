"""Denoising: how many mined negatives a teacher takes for positives, and whether it is right more often than chance.

A user has met none of the own mined negatives so far: what users meet is taken out when they are mined. So the teacher
is checked on all that it takes for positives at a day, of which some was met from that day on.

Shape letters: L lists, P pairs of a user and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.retrieval.retrievers import SECONDS_PER_DAY
from training.data.teacher_lists import TeacherLists
from training.negatives.private import UserNegatives

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Denoised:
    """What a teacher drops, and how right it is.

    Attributes:
        dropped: Share of the mined negatives that it takes for positives.
        met_later: Share of all items that it takes for positives which their user met later.
        of_the_rest: The same share of what its lists hold besides.
        by_chance: Share of an even draw from the catalogue that users met later.
    """

    dropped: float
    met_later: float
    of_the_rest: float
    by_chance: float

    def __str__(self) -> str:
        """For people."""
        return (
            f"the teacher drops {self.dropped:.1%} of the mined negatives; of what it takes for positives, users met "
            f"{self.met_later:.2%} later, of the rest of its lists {self.of_the_rest:.2%}, of an even draw "
            f"{self.by_chance:.2%}"
        )


def later_meetings(
    teacher: TeacherLists, mined: UserNegatives, users: Ints, items: Ints, first_seconds: Ints, *, num_items: int
) -> Denoised:
    """Checks a teacher's denoising against what users met from the day on that each list counts from.

    Args:
        teacher: Lists with thresholds.
        mined: Negatives of each user, any of which may be dropped at each of the user's lists.
        users: [P] rows of the users of pairs that have met, of what may be known.
        items: [P] rows of their items.
        first_seconds: [P] when each pair met first, Unix seconds.
        num_items: Items of the catalogue.

    Returns:
        Means over lists and their places; 0 where there are none.
    """
    owners, of_mined = mined.pairs_of(teacher.user_rows)
    dropped = teacher.are_above(owners, of_mined)
    list_rows = np.repeat(np.arange(len(teacher.keys)), np.diff(teacher.starts))
    above = teacher.scores > teacher.thresholds[list_rows]
    by_pair = (users << 31) + items
    order = np.argsort(by_pair)
    wanted = (teacher.user_rows[list_rows] << 31) + teacher.items
    days = first_seconds // SECONDS_PER_DAY
    later = np.zeros(len(wanted), bool)
    if len(order):
        found = order[np.minimum(np.searchsorted(by_pair, wanted, sorter=order), len(order) - 1)]
        later = (by_pair[found] == wanted) & (days[found] >= teacher.days[list_rows])
    # Of each list, the meetings of its user from its day on.
    by_day = np.sort((users << 32) + days)
    ends = np.searchsorted(by_day, (teacher.user_rows + 1) << 32)
    num_later = ends - np.searchsorted(by_day, teacher.keys)
    return Denoised(_mean(dropped), _mean(later[above]), _mean(later[~above]), _mean(num_later / max(num_items, 1)))


def _mean(values: npt.NDArray[np.bool_] | npt.NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
