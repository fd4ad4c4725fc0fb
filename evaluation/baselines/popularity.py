"""Popularity: the items with the most events in the last days before the cut.

U users, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Past, Rank
from evaluation.split import Split, recent_item_counts

POPULARITY_DAYS = 28
_USER_BLOCK = 4096


def popularity(split: Split, k: int, *, item_counts: npt.NDArray[np.integer], new_only: bool) -> npt.NDArray[np.int32]:
    """The items with the most events, the same ones for all users but for what is masked.

    Args:
        split: Users and their history.
        k: Length of a list.
        item_counts: [N] integer, from `recent_item_counts`, 28 days by custom here. Items without an event are not
            popular and are never listed.
        new_only: Leave out what the user bought before the cut.

    Returns:
        [U, k] int32, most events first, ties by the lower row; -1 behind the last one.

    Raises:
        ValueError: `item_counts` is not of length N.
    """
    if item_counts.shape != split.history.shape[1:]:
        raise ValueError(f"item_counts has shape {item_counts.shape}, expected ({split.history.shape[1]},)")
    order = np.argsort(-item_counts.astype(np.int64), kind="stable").astype(np.int32)
    order = order[: int((item_counts > 0).sum())]
    num_users = split.history.shape[0]
    ranked = np.full((num_users, k), -1, dtype=np.int32)
    if not new_only:
        ranked[:, : len(order)] = order[:k]
        return ranked
    for start in range(0, num_users, _USER_BLOCK):
        block = split.history[start : start + _USER_BLOCK]
        ranked[start : start + _USER_BLOCK] = _first_not_bought(block, order, k)
    return ranked


def _first_not_bought(history: sp.csr_array, order: npt.NDArray[np.int32], k: int) -> npt.NDArray[np.int32]:
    # However much a user bought, the first k others are among so many of the order.
    longest = int(np.diff(history.indptr).max(initial=0))
    order = order[: k + longest]
    place_of = np.full(history.shape[1], -1, dtype=np.int64)
    place_of[order] = np.arange(len(order))
    users = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
    places = place_of[history.indices]
    free = np.ones((history.shape[0], len(order)), dtype=bool)
    free[users[places >= 0], places[places >= 0]] = False
    listed_at = np.cumsum(free, axis=1) - 1
    rows, columns = np.nonzero(free & (listed_at < k))
    ranked = np.full((history.shape[0], k), -1, dtype=np.int32)
    ranked[rows, listed_at[rows, columns]] = order[columns]
    return ranked


def _fit(past: Past) -> Rank:
    counts = recent_item_counts(past.events, past.item_ids, cut=past.split.cut, days=POPULARITY_DAYS)
    return lambda k, new_only: popularity(past.split, k, item_counts=counts, new_only=new_only)


POPULARITY = Baseline(
    "popularity",
    f"popularity, {POPULARITY_DAYS} days",
    f"most events in the {POPULARITY_DAYS} days before the cut",
    _fit,
)
