"""Popularity: the items with the most events of late, as a baseline, and as what fills the lists of the others.

U users, N items of the catalogue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Fitted, Past, Rank
from evaluation.split import Split, decayed_item_rates, recent_item_counts
from features.schema import SLOW_HALF_LIFE_DAYS
from serving.retrieval import ranking

POPULARITY_DAYS = 28
_USER_BLOCK = 4096


def popularity(split: Split, k: int, *, item_counts: npt.NDArray[Any], new_only: bool) -> npt.NDArray[np.int32]:
    """The items with the most events, the same ones for all users but for what is masked.

    Args:
        split: Users and their history.
        k: Length of a list.
        item_counts: [N], from `recent_item_counts`, 28 days by custom here, or `decayed_item_rates`. Items without an
            event are not popular and are never listed.
        new_only: Leave out what the user bought before the cut.

    Returns:
        [U, k] int32, most events first, ties by the lower row; -1 behind the last one.

    Raises:
        ValueError: `item_counts` is not of length N.
    """
    if item_counts.shape != split.history.shape[1:]:
        raise ValueError(f"item_counts has shape {item_counts.shape}, expected ({split.history.shape[1]},)")
    order = np.argsort(-item_counts, kind="stable").astype(np.int32)
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


def filled_up(past: Past, rank: Rank) -> Rank:
    """Fills lists up as the product does: popular items behind what was found, and alone for users without a past.

    Popular is what the product's fallback takes for it: events a day, with a half-life of 28 days.

    Args:
        past: Of the baseline.
        rank: Of the baseline; lists may end early.

    Returns:
        The same lists, as long as there are items.
    """
    rates = decayed_item_rates(past.events, past.item_ids, cut=past.split.cut, half_life_days=SLOW_HALF_LIFE_DAYS)
    num_items = len(past.item_ids)

    def filled(k: int, new_only: bool) -> npt.NDArray[np.int32]:
        found = rank(k, new_only)
        # Of 2k popular items, at most k are listed already.
        popular = popularity(past.split, 2 * k, item_counts=rates, new_only=new_only)
        for start in range(0, len(found), _USER_BLOCK):
            own, others = found[start : start + _USER_BLOCK], popular[start : start + _USER_BLOCK]
            users, places = np.nonzero(own >= 0)
            keys = np.sort(users * num_items + own[users, places])
            scores = np.zeros(others.shape, np.float32)
            more, _ = ranking.without(others, scores, known_keys=keys, num_items=num_items, k=k)
            both = np.hstack([own, more])
            order = np.argsort(both < 0, axis=1, kind="stable")[:, :k]
            found[start : start + _USER_BLOCK] = np.take_along_axis(both, order, axis=1)
        return found

    return filled


def _fit(past: Past) -> Fitted:
    counts = recent_item_counts(past.events, past.item_ids, cut=past.split.cut, days=POPULARITY_DAYS)
    return Fitted(lambda k, new_only: popularity(past.split, k, item_counts=counts, new_only=new_only))


POPULARITY = Baseline(
    "popularity",
    f"popularity, {POPULARITY_DAYS} days",
    f"most events in the {POPULARITY_DAYS} days before the cut",
    _fit,
)
