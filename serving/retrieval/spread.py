"""Lists whose items are spread: at most so many of a family or category, and items unlike those before them.

B users, N items of the catalogue, D vector width, L and k places of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serving.retrieval.ranking import NO_ROW, NO_SCORE, Rows, Scores, fit, padding
from serving.retrieval.retrievers import FoundLists, Retriever, UserQueries, lists_of
from serving.retrieval.vectors import unit_rows

NO_GROUP = -1
"""Code of an item that belongs to no group, and is not limited."""
# Of a list, in lists of k items; and how much longer it is where that was too little.
_DEPTH, _GROWTH = 2, 4


@dataclass(frozen=True)
class Limit:
    """At most so many items of each group in a list; those of a group that come first are kept."""

    codes: npt.NDArray[np.int32]
    """[N] the group of each item, `NO_GROUP` for none."""
    at_most: int
    """At least 1."""


@dataclass(frozen=True)
class Spread:
    """How the items of a list must differ."""

    limits: tuple[Limit, ...] = ()
    """All of them hold."""
    diversity: float = 0.0
    """Weight of unlikeness to what comes before in the list, against the score; 0 leaves the order as it is."""
    vectors_of: Callable[[Rows], Scores] | None = None
    """Rows -> [n, D] float32, by whose cosines items are alike; needed for `diversity`."""

    def of(self, rows: Rows, scores: Scores, *, k: int) -> tuple[Rows, Scores, npt.NDArray[np.int64]]:
        """Takes a list out of a longer one. A family comes where its best item is.

        Args:
            rows: [B, L] catalogue rows, best first, -1 behind the last one.
            scores: [B, L] float32, -inf there.
            k: Length of the resulting lists, k <= L.

        Returns:
            Rows [B, k] and scores [B, k], and the place [B, k] that each item had, L behind the last one.
        """
        kept = rows
        for limit in self.limits:
            kept = np.where(within(kept, limit), kept, np.int32(NO_ROW))
        order = np.argsort(kept < 0, axis=1, kind="stable")
        kept = np.take_along_axis(kept, order, axis=1)
        scores = np.where(kept < 0, np.float32(NO_SCORE), np.take_along_axis(scores, order, axis=1))
        if self.diversity and self.vectors_of is not None:
            chosen = np.stack([self._unlike(*one, self.vectors_of, k) for one in zip(kept, scores, strict=True)])
            order, kept = np.take_along_axis(order, chosen, axis=1), np.take_along_axis(kept, chosen, axis=1)
            scores = np.take_along_axis(scores, chosen, axis=1)
        places = np.where(kept < 0, rows.shape[1], order)
        return *fit(kept, scores, k=k), places[:, :k]

    def _unlike(
        self, rows: Rows, scores: Scores, vectors_of: Callable[[Rows], Scores], k: int
    ) -> npt.NDArray[np.int64]:
        """[k] places of one list in the order of maximal marginal relevance, by scores scaled to 0 to 1."""
        num = int((rows >= 0).sum())
        chosen = np.arange(k)
        if num < 2:
            return chosen
        own = unit_rows(vectors_of(rows[:num]))
        lowest, highest = float(scores[num - 1]), float(scores[0])
        relevance = (scores[:num] - lowest) / max(highest - lowest, 1e-12)
        nearest, left = np.zeros(num, np.float32), np.ones(num, np.bool_)
        for place in range(min(k, num)):
            value = (1 - self.diversity) * relevance - self.diversity * nearest
            best = int(np.where(left, value, -np.inf).argmax())
            chosen[place], left[best] = best, False
            np.maximum(nearest, own @ own[best], out=nearest)
        return chosen


def within(rows: Rows, limit: Limit) -> npt.NDArray[np.bool_]:
    """Which items of lists a limit leaves: the first ones of each group.

    Args:
        rows: [B, L] catalogue rows, -1 where there is no item.
        limit: The limit.

    Returns:
        [B, L]; places without an item are left.
    """
    codes = np.where(rows < 0, NO_GROUP, limit.codes[rows])
    users, places = np.nonzero(codes != NO_GROUP)
    keys = users * (int(limit.codes.max(initial=0)) + 1) + codes[users, places]
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    rank_in_group = np.empty(len(keys), np.int64)
    rank_in_group[order] = np.arange(len(keys)) - np.searchsorted(in_order, in_order)
    left = np.ones(rows.shape, np.bool_)
    left[users, places] = rank_in_group < limit.at_most
    return left


def spread_lists(
    retrievers: Mapping[str, Retriever],
    users: UserQueries,
    name: str,
    *,
    k: int,
    can_be_found: npt.NDArray[np.bool_],
    spread: Spread | None,
) -> FoundLists:
    """The lists of a retriever, taken out of longer ones until a user has k items or there are no more.

    Args:
        retrievers: See `lists_of`, and what follows.
        users: B users.
        name: Of the retriever that is asked.
        k: Length of the lists.
        can_be_found: [B] whether anything is known to look for.
        spread: What the lists must be like; None takes them as they are found.
    """
    if spread is None:
        return lists_of(retrievers, users, name, k=k, can_be_found=can_be_found)
    depth, left = _DEPTH * k, np.arange(len(users))
    no_one = np.zeros(len(users), np.bool_)
    found = FoundLists(*padding(len(users), k), no_one, no_one.copy(), np.zeros(len(users), np.int64), depth)
    while len(left):
        asked = users if len(left) == len(users) else users.of(left)
        longer = lists_of(retrievers, asked, name, k=depth, can_be_found=can_be_found[left])
        rows, scores, places = spread.of(longer.rows, longer.scores, k=k)
        found = replace(found, depth=depth)
        found.rows[left], found.scores[left], found.fell_back[left] = rows, scores, longer.fell_back
        is_own = places < longer.num_own[:, None]
        found.num_own[left] = is_own.sum(axis=1)
        found.filled[left] = longer.filled & (~is_own & (rows >= 0)).any(axis=1)
        is_short = (rows[:, -1] < 0) & (longer.rows[:, -1] >= 0)
        left = left[is_short & (depth < users.purchases.num_items)]
        depth = min(_GROWTH * depth, users.purchases.num_items)
    return found
