"""What the second look knows of candidates: lists that found them, the user's past with them, and what items are like.

B users, N items of the catalogue, D vector width, P parts of a vector, E entries (a candidate of a user, the users one
after the other), F inputs of an entry, H items of a history, Q inputs of a candidate with one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from features import columns
from features.ids import IdMap
from serving.retrieval.interests import by_interest, interest_of
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import SECONDS_PER_DAY, UserQueries
from serving.retrieval.vectors import unit_rows

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

STATISTICS: Mapping[str, float] = {
    "item_num_events": 1.0,
    "item_num_buyers": 1.0,
    "item_fast_rate": 100.0,
    "item_slow_rate": 100.0,
    "item_fast_new_rate": 100.0,
    "item_slow_new_rate": 100.0,
    "item_price": 1.0,
}
"""Statistic of items -> what it is multiplied by before its logarithm is taken: events a day are few."""
NEVER_DAYS = 3000.0
"""Days since what has not happened."""
PAIR_INPUTS = ("days", "times", "same_category")
"""Inputs of a candidate with an item of the history, behind a cosine for each part of the vectors."""


@dataclass(frozen=True)
class ItemFacts:
    """What is known of items at a moment.

    Attributes:
        vectors: [N, D] float32.
        parts: P widths of the vectors' parts.
        statistics: [N, S] float32 logarithms of `STATISTICS`.
        groups: [N] int32 number of each item's category, -1 for none.
    """

    vectors: Floats
    parts: tuple[int, ...]
    statistics: Floats
    groups: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """N."""
        return len(self.vectors)


def read_statistics(items: Path, item_ids: IdMap) -> Floats:
    """The logarithms of `STATISTICS` by catalogue row, 0 for an item that is not there: [N, S].

    Args:
        items: Features of all items at a moment, Parquet.
        item_ids: Items of the catalogue, whose rows begin with 1.
    """
    table = pq.read_table(items, columns=[columns.ITEM_ID, *STATISTICS])
    rows = item_ids.rows(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False))
    found = np.zeros((len(item_ids), len(STATISTICS)), np.float32)
    for place, (name, scale) in enumerate(STATISTICS.items()):
        values = table.column(name).fill_null(0.0).to_numpy().astype(np.float64)
        found[rows, place] = np.log1p(np.maximum(values, 0.0) * scale)
    return found[1:]


@dataclass(frozen=True)
class Candidates:
    """What some lists hold together, each item once for a user.

    Attributes:
        owners: [E] int64 user, ascending.
        items: [E] int64 catalogue row, ascending within a user.
        places: List -> [E] float64 place in it, from 0; infinite where it is not in it.
        scores: List -> [E] float64 score in it; where it is not in it, the lowest of the user's list, or 0.
    """

    owners: Ints
    items: Ints
    places: Mapping[str, npt.NDArray[np.float64]]
    scores: Mapping[str, npt.NDArray[np.float64]]

    @classmethod
    def of(cls, lists: Mapping[str, tuple[Rows, Scores]]) -> Candidates:
        """Merges lists.

        Args:
            lists: Name -> rows [B, k] and scores [B, k] of a retriever.
        """
        stride = max(int(rows.max(initial=0)) for rows, _ in lists.values()) + 1
        keys_of = {}
        for name, (rows, _) in lists.items():
            users, ranks = np.nonzero(rows >= 0)
            keys_of[name] = users * stride + rows[users, ranks].astype(np.int64), users, ranks
        keys = np.unique(np.concatenate([own for own, _, _ in keys_of.values()]))
        owners = keys // stride
        places, scores = {}, {}
        for name, (own, users, ranks) in keys_of.items():
            entries, found = np.searchsorted(keys, own), lists[name][1].astype(np.float64)
            lowest = np.where(np.isfinite(found), found, np.inf).min(axis=1, initial=np.inf)
            places[name] = np.full(len(keys), np.inf)
            places[name][entries] = ranks
            scores[name] = np.where(np.isfinite(lowest), lowest, 0.0)[owners]
            scores[name][entries] = found[users, ranks]
        return cls(owners, keys % stride, places, scores)

    def __len__(self) -> int:
        """E."""
        return len(self.owners)


@dataclass(frozen=True)
class Inputs:
    """What the net reads.

    Attributes:
        values: [E, F] float32.
        pairs: [E, H, Q] float32 of each candidate with each of the user's latest items, the latest first; 0 behind the
            last one.
        is_met: [E, H] bool, where there is an item.
    """

    values: Floats
    pairs: Floats
    is_met: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """E."""
        return len(self.values)

    def of(self, entries: npt.NDArray[np.integer]) -> Inputs:
        """Those of some entries."""
        return Inputs(self.values[entries], self.pairs[entries], self.is_met[entries])


def input_names(lists: Sequence[str], num_parts: int) -> tuple[str, ...]:
    """Names of the F inputs, in their order.

    Args:
        lists: Names of the lists that are merged.
        num_parts: P.
    """
    of_lists = [f"{name}_{what}" for name in lists for what in ("place", "first_places", "is_there", "score")]
    of_parts = [f"vectors_{part}" for part in range(1, num_parts + 1)]
    own = ["times_met", "share_of_events", "days_since_met", "category_share", "days_since_category"]
    of_user = ["user_num_events", "user_num_items", "user_new_share", "days_since_any"]
    return (*of_lists, *of_parts, *own, *STATISTICS, *of_user)


def inputs_of(users: UserQueries, candidates: Candidates, facts: ItemFacts, *, depth: int, history: int) -> Inputs:
    """The inputs of all candidates of some users.

    Args:
        users: B users, with their vectors.
        candidates: E of them.
        facts: Of the items; a candidate behind the last one is one without events.
        depth: Length of the lists.
        history: H.
    """
    shown = [*_of_lists(candidates, depth), *_of_vectors(users, candidates, facts)]
    is_known = candidates.items < len(facts)
    rows = np.where(is_known, candidates.items, 0)
    shown += _of_past(users, candidates, facts)
    shown += list(np.where(is_known[:, None], facts.statistics[rows], np.float32(0)).T)
    shown += _of_users(users, candidates)
    pairs, is_met = _of_history(users, candidates, facts, history)
    return Inputs(np.stack(shown, axis=1).astype(np.float32), pairs, is_met)


def _of_lists(candidates: Candidates, depth: int) -> list[npt.NDArray[np.float64]]:
    found = []
    for name, places in candidates.places.items():
        is_there, scores = np.isfinite(places), candidates.scores[name]
        found += [
            np.log1p(np.where(is_there, places, depth)),
            1 / (1 + places),
            is_there.astype(np.float64),
            np.sign(scores) * np.log1p(np.abs(scores)),
        ]
    return found


def _of_vectors(users: UserQueries, candidates: Candidates, facts: ItemFacts) -> list[npt.NDArray[np.float64]]:
    """Inner product of each part of the vectors; of several vectors of a user, of the one that finds the item."""
    assert users.query_embeddings is not None
    dimension = facts.vectors.shape[1]
    found = np.zeros((len(facts.parts), len(candidates)))
    bounds = np.cumsum([0, *facts.parts])
    for user, begin, end in _blocks(candidates, len(users)):
        rows = candidates.items[begin:end]
        own = facts.vectors[np.minimum(rows, len(facts) - 1)]
        vectors = by_interest(users.query_embeddings[user : user + 1], width=dimension)[0]
        best = interest_of(vectors, own) if len(vectors) > 1 else np.zeros(len(rows), np.int64)
        for part, (first, last) in enumerate(pairwise(bounds.tolist())):
            products = np.einsum("ed,ed->e", own[:, first:last], vectors[best, first:last])
            found[part, begin:end] = np.where(rows < len(facts), products, 0)
    return list(found)


def _of_past(users: UserQueries, candidates: Candidates, facts: ItemFacts) -> list[npt.NDArray[np.float64]]:
    """What the user had to do with the candidate before, and with others of its category."""
    own, num_users = users.purchases, len(users)
    owners = own.owners
    days = np.maximum(users.as_of_seconds[owners] - own.last_seconds, 0) / SECONDS_PER_DAY
    events = np.maximum(np.bincount(owners, weights=own.counts, minlength=num_users), 1)
    of_item = _Sums.of(own.keys, own.counts, days)
    # Items added to the catalogue were never met, and their rows would be those of the next user's first items.
    is_known = candidates.items < own.num_items
    times, since = of_item.find(np.where(is_known, candidates.owners * own.num_items + candidates.items, -1))
    groups = np.where(is_known, facts.groups[np.minimum(candidates.items, len(facts) - 1)], -1)
    num_groups = int(facts.groups.max(initial=0)) + 1
    has_group = facts.groups[own.indices] >= 0
    of_group = _Sums.of(
        (owners * num_groups + facts.groups[own.indices])[has_group], own.counts[has_group], days[has_group]
    )
    in_group, since_group = of_group.find(np.where(groups >= 0, candidates.owners * num_groups + groups, -1))
    total = events[candidates.owners]
    return [np.log1p(times), times / total, np.log1p(since), in_group / total, np.log1p(since_group)]


@dataclass(frozen=True)
class _Sums:
    """Events, and the days since the latest of them, by key."""

    keys: Ints
    times: npt.NDArray[np.float64]
    days: npt.NDArray[np.float64]

    @classmethod
    def of(cls, keys: Ints, counts: npt.NDArray[np.integer], days: npt.NDArray[np.float64]) -> _Sums:
        """Adds up the counts and takes the fewest days of equal keys."""
        distinct, place = np.unique(keys, return_inverse=True)
        fewest = np.full(len(distinct), NEVER_DAYS)
        np.minimum.at(fewest, place, days)
        return cls(distinct, np.bincount(place, weights=counts, minlength=len(distinct)).astype(np.float64), fewest)

    def find(self, keys: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Events and days of some keys: none, and `NEVER_DAYS`, of one that is not there."""
        if not len(self.keys):
            return np.zeros(len(keys)), np.full(len(keys), NEVER_DAYS)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        is_there = self.keys[place] == keys
        return np.where(is_there, self.times[place], 0.0), np.where(is_there, self.days[place], NEVER_DAYS)


def _of_users(users: UserQueries, candidates: Candidates) -> list[npt.NDArray[np.float64]]:
    own, num_users = users.purchases, len(users)
    events = np.bincount(own.owners, weights=own.counts, minlength=num_users)
    latest = np.full(num_users, -np.inf)
    np.maximum.at(latest, own.owners, own.last_seconds)
    days = np.where(np.isfinite(latest), (users.as_of_seconds - latest) / SECONDS_PER_DAY, NEVER_DAYS)
    of_user = [
        np.log1p(events),
        np.log1p(own.num_per_user),
        own.num_per_user / np.maximum(events, 1),
        np.log1p(np.maximum(days, 0)),
    ]
    return [values[candidates.owners] for values in of_user]


def _of_history(
    users: UserQueries, candidates: Candidates, facts: ItemFacts, history: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Each candidate with each of the latest items: cosines by part, days, times, and whether the category is one."""
    own, num_parts = users.purchases, len(facts.parts)
    found = np.zeros((len(candidates), history, num_parts + len(PAIR_INPUTS)), np.float32)
    is_met = np.zeros((len(candidates), history), np.bool_)
    bounds = np.cumsum([0, *facts.parts])
    for user, begin, end in _blocks(candidates, len(users)):
        pairs = slice(own.indptr[user], own.indptr[user + 1])
        latest = np.argsort(-own.last_seconds[pairs], kind="stable")[:history]
        met = own.indices[pairs][latest]
        rows = np.minimum(candidates.items[begin:end], len(facts) - 1)
        is_known = candidates.items[begin:end] < len(facts)
        of_user = found[begin:end, : len(met)]
        left, right = facts.vectors[rows], facts.vectors[met]
        for part, (first, last) in enumerate(pairwise(bounds.tolist())):
            of_user[:, :, part] = unit_rows(left[:, first:last]) @ unit_rows(right[:, first:last]).T
        days = np.maximum(users.as_of_seconds[user] - own.last_seconds[pairs][latest], 0) / SECONDS_PER_DAY
        of_user[:, :, num_parts] = np.log1p(days)
        of_user[:, :, num_parts + 1] = np.log1p(own.counts[pairs][latest])
        groups = facts.groups[rows]
        of_user[:, :, num_parts + 2] = (groups[:, None] == facts.groups[met]) & (groups[:, None] >= 0)
        # An item says nothing about itself here: that it was met is an input of its own.
        is_met[begin:end, : len(met)] = is_known[:, None] & (rows[:, None] != met)
    found[~is_met] = 0
    return found, is_met


def _blocks(candidates: Candidates, num_users: int) -> list[tuple[int, int, int]]:
    """The entries of each user who has any: user, begin and end."""
    bounds = np.searchsorted(candidates.owners, np.arange(num_users + 1)).tolist()
    return [(user, bounds[user], bounds[user + 1]) for user in range(num_users) if bounds[user] < bounds[user + 1]]
