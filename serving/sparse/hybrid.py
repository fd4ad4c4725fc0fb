"""Dense and sparse lists as one, by their scores; and places of a list that are kept for items with few events.

B users, N items of the catalogue, k places of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from serving.retrieval.eligible import EligibleItems
from serving.retrieval.ranking import NO_SCORE, Rows, Scores, best_of_each, padding
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.retrieval.spread import Limit, within
from serving.served import SEGMENTS, SPARSE


@dataclass(frozen=True)
class Hybrid:
    """A dense and a sparse retriever as one.

        score_i = d_i + a s_i

    d and s are scaled to 0 to 1 over the user's own two lists of `depth`; an item that is missing from one of them has
    that list's minimum, 0. Where the sparse list ends early, its minimum is no match. The weight a is by segment: how
    long the user's past is, and how many events the item has. That of items with many events decides which places go to
    items with few; that of items with few events decides in which order these take the places.

    Attributes:
        dense: Finds all.
        sparse: Finds what shares terms with the history.
        weights: Segment -> a.
        cold: [N] which items have few events.
        short_past: Users who have met fewer distinct items have a short past.
        depth: Length of the lists that are merged, raised to k where it is smaller.
    """

    dense: Retriever
    sparse: Retriever
    weights: Mapping[str, float]
    cold: npt.NDArray[np.bool_]
    short_past: int
    depth: int
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    fills_up: ClassVar[bool] = True

    @property
    def finds_all(self) -> bool:
        """Whether the dense one does."""
        return self.dense.finds_all

    @property
    def parts(self) -> Mapping[str, Retriever]:
        """What the lists are merged of, by name."""
        return {"two_tower": self.dense, SPARSE: self.sparse}

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; equal scores by the lower row."""
        depth = max(k, self.depth)
        dense, sparse = (part.retrieve(users, depth) for part in self.parts.values())
        has_short_past = users.purchases.num_per_user < self.short_past
        return merge(dense, sparse, weights=self.item_weights(has_short_past), k=k)

    def item_weights(self, has_short_past: npt.NDArray[np.bool_]) -> _Weights:
        """The weight of each user and item."""
        return _Weights(self.weights, has_short_past, self.cold)


@dataclass(frozen=True)
class _Weights:
    weights: Mapping[str, float]
    has_short_past: npt.NDArray[np.bool_]
    cold: npt.NDArray[np.bool_]

    def of(self, users: npt.NDArray[np.int64], *, cold: bool) -> npt.NDArray[np.float64]:
        """The weight of each user in items with few events, or in others."""
        table = np.array([self.weights[segment] for segment in SEGMENTS]).reshape(2, 2)
        return np.asarray(table[np.where(self.has_short_past[users], 0, 1), int(cold)])


def merge(dense: tuple[Rows, Scores], sparse: tuple[Rows, Scores], *, weights: _Weights, k: int) -> tuple[Rows, Scores]:
    """The formula of `Hybrid`, from both lists.

    Args:
        dense: Rows [B, d] and scores [B, d].
        sparse: Rows [B, s] and scores [B, s].
        weights: Of each user and item.
        k: Length of the lists.
    """
    num_users, stride = len(dense[0]), max(int(rows.max(initial=0)) for rows, _ in (dense, sparse)) + 1
    keys, values = [], []
    for is_sparse, (rows, scores) in enumerate((dense, sparse)):
        users, places = np.nonzero(rows >= 0)
        # Where the sparse list ends early, all others share no term and score 0.
        least = np.where(rows[:, -1:] < 0, 0.0, -np.inf) if is_sparse else np.full((num_users, 1), -np.inf)
        keys.append(users * stride + rows[users, places].astype(np.int64))
        values.append(_scaled(scores, least)[users, places])
    distinct, place = np.unique(np.concatenate(keys), return_inverse=True)
    of_dense, of_sparse = (
        np.bincount(own, weights=scaled, minlength=len(distinct))
        for own, scaled in zip(np.split(place, [len(keys[0])]), values, strict=True)
    )
    users, items = distinct // stride, distinct % stride
    total = of_dense + weights.of(users, cold=False) * of_sparse
    cold, own = np.flatnonzero(weights.cold[items]), total.copy()
    own[cold] = of_dense[cold] + weights.of(users[cold], cold=True) * of_sparse[cold]
    by_place, by_own = np.lexsort((-total[cold], users[cold])), np.lexsort((items[cold], -own[cold], users[cold]))
    total[cold[by_own]] = total[cold[by_place]]
    return best_of_each(users, items, scores=total, num_users=num_users, k=k, ascending_keys=(-total, -own))


def _scaled(scores: Scores, least: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[B, d] each row from 0, its lowest score, to 1; 0 where all of a row are equal.

    Args:
        scores: [B, d].
        least: [B, 1] the lowest score of each row; -inf takes the lowest of those that are there.
    """
    values = scores.astype(np.float64)
    found = np.where(np.isfinite(values), values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    low = np.where(np.isfinite(least), least, found)
    width = values[:, :1] - low
    wide = np.isfinite(width) & (width > 0)
    return np.asarray(np.where(np.isfinite(values) & wide, (values - low) / np.where(wide, width, 1), 0.0))


@dataclass(frozen=True)
class ColdLane:
    """Places of a list that are kept for items with few events, filled by content.

    Attributes:
        sparse: Finds what shares terms with the history.
        cold: [N + A] which items have few events; those that were added to the catalogue have none.
        share: Of the places of a list, at least this share, rounded down; the last ones of equal stretches.
        limits: What a list may have of each group, which holds with these items too.
    """

    sparse: Retriever
    cold: npt.NDArray[np.bool_]
    share: float
    limits: tuple[Limit, ...] = ()

    def fill(self, users: UserQueries, rows: Rows, scores: Scores) -> tuple[Rows, Scores]:
        """Puts items with few events into the kept places of lists; where none is found, a list stays as it is.

        Args:
            users: B users.
            rows: [B, k] lists.
            scores: [B, k] their scores, which stay with the places.

        Returns:
            Lists [B, k] of as many items as before at least, and their scores.
        """
        k = rows.shape[1]
        num_places = int(k * self.share + 1e-9)
        if not num_places:
            return rows, scores
        cold = self.cold[: users.purchases.num_items]
        mask = cold if users.offered is None else cold & users.offered
        lane = UserQueries(
            users.purchases,
            users.as_of_seconds,
            exclude_known=users.exclude_known,
            eligible=EligibleItems(mask),
            scale=users.scale,
        )
        found, _ = self.sparse.retrieve(lane, k)
        kept_places = ((np.arange(1, num_places + 1) * k) // num_places) - 1
        filled = padding(len(rows), k)
        for user, (own, own_scores) in enumerate(zip(rows, scores, strict=True)):
            merged = self._merged(own[own >= 0], found[user][found[user] >= 0], kept_places, k)
            filled[0][user, : len(merged)] = merged
            filled[1][user, : len(merged)] = _padded_scores(own_scores, len(merged))
        return filled

    def _merged(self, own: Rows, lane: Rows, places: npt.NDArray[np.int64], k: int) -> list[int]:
        missing = len(places) - int(self.cold[own].sum())
        new = self._new(own, lane, max(missing, 0))
        if not new:
            return [*own.tolist()]
        # Those furthest down, so that the head of the list is left as it is as long as possible.
        at = dict(zip(places[len(places) - len(new) :].tolist(), new, strict=True))
        # Items with few events that are there already stay: only others make room.
        rest: list[int] = own.tolist()
        while len(rest) + len(new) > k:
            rest.pop(max(place for place, row in enumerate(rest) if not self.cold[row]))
        merged: list[int] = []
        others = iter(rest)
        for place in range(len(rest) + len(new)):
            merged.append(at.pop(place) if place in at else next(others, -1))
        return [row for row in merged if row >= 0] + list(at.values())

    def _new(self, own: Rows, lane: Rows, most: int) -> list[int]:
        """The first items of the lane that a list may have too."""
        chosen: list[int] = []
        for row in lane[~np.isin(lane, own)].tolist():
            if len(chosen) == most:
                break
            listed = np.concatenate([own, np.array([*chosen, row], np.int32)])[None]
            if all(within(listed, limit)[0, -1] for limit in self.limits):
                chosen.append(row)
        return chosen


def _padded_scores(scores: Scores, length: int) -> Scores:
    """The first scores of a list, its lowest one again where it has become longer."""
    finite = scores[scores > NO_SCORE]
    last = finite[-1:] if len(finite) else np.zeros(1, np.float32)
    return np.concatenate([finite, np.repeat(last, max(length - len(finite), 0))])[:length].astype(np.float32)
