"""Repeat purchase: what the user bought most often.

U users, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.baselines.baseline import Baseline, Fitted
from evaluation.split import Split


def repeat_purchase(split: Split, k: int, *, new_only: bool) -> npt.NDArray[np.int32]:
    """What the user bought most often before the cut; ties go to the later purchase, then to the lower row.

    The list ends where the user's history ends: nothing is filled in, so it measures repetition alone.

    Args:
        split: Users and their history.
        k: Length of a list.
        new_only: Leave out what was bought before the cut, which leaves nothing: every entry is -1.

    Returns:
        [U, k] int32; -1 behind the last one.
    """
    history = split.history
    ranked = np.full((history.shape[0], k), -1, dtype=np.int32)
    if new_only:
        return ranked
    users = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
    order = np.lexsort((history.indices, split.days_since.data, -history.data, users))
    places = np.arange(len(users)) - history.indptr[users]
    listed = places < k
    ranked[users[listed], places[listed]] = history.indices[order[listed]]
    return ranked


REPEAT_PURCHASE = Baseline(
    "repeat",
    "repeat purchase",
    "what the user bought most often",
    lambda past: Fitted(lambda k, new_only: repeat_purchase(past.split, k, new_only=new_only)),
)
