"""The interface of a retriever; repeat purchases, popularity and fused lists; lists filled up with popular items.

B users, N items of the catalogue, D vector width. Items are catalogue rows, 0 to N - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from serving.retrieval.eligible import NO_ITEMS, EligibleItems, less
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import Rows, Scores, best_of_each, padding, without

SECONDS_PER_DAY = 86_400
FALLBACK = "popularity"
"""Retriever that answers where another one has nothing, and fills up its lists."""


@dataclass(frozen=True)
class UserQueries:
    """What is asked for a batch of users.

    Raises:
        ValueError: The parts are of different numbers of users.
    """

    purchases: Purchases
    """B rows: what each user knows; empty for an unknown user."""
    as_of_seconds: npt.NDArray[np.int64]
    """[B] the moment of the request, Unix seconds."""
    query_embeddings: Scores | None = None
    """[B, D] float32 user vectors, or [B, K D], K of each user side by side; None where no retriever needs them."""
    exclude_known: bool = False
    """Whether known items are kept out."""
    user_tokens: Scores | None = None
    """[B, K_u D] float32, the users' tokens for SparCode side by side; None where no retriever needs them."""
    eligible: EligibleItems | None = None
    """Items that any user may get; None has the whole catalogue."""
    scale: Scores | None = None
    """[N] float32 business weights that count in place of the retriever's own; None leaves these."""

    def __post_init__(self) -> None:
        """Checks that there is one of each for every user."""
        given = {"moments": self.as_of_seconds, "vectors": self.query_embeddings, "rows of tokens": self.user_tokens}
        for name, values in given.items():
            if values is not None and len(values) != len(self):
                raise ValueError(
                    f"{len(self)} rows of purchases and {len(values)} {name}; expected one of each for every user"
                )

    def __len__(self) -> int:
        """B."""
        return self.purchases.num_users

    def of(self, users: npt.NDArray[np.integer]) -> UserQueries:
        """What is asked for some users: [b] their places in the batch."""
        embeddings, tokens = (
            None if part is None else part[users] for part in (self.query_embeddings, self.user_tokens)
        )
        return replace(
            self,
            purchases=self.purchases.of(users),
            as_of_seconds=self.as_of_seconds[users],
            query_embeddings=embeddings,
            user_tokens=tokens,
        )

    @property
    def kept_out(self) -> Purchases | None:
        """B rows: what each user must not get of what is offered; None where that may all come."""
        return self.purchases if self.exclude_known else None

    @property
    def offered(self) -> npt.NDArray[np.bool_] | None:
        """[N] what is offered; None where everything is."""
        return None if self.eligible is None else self.eligible.mask

    @cached_property
    def num_candidates(self) -> npt.NDArray[np.int64]:
        """[B] how many items each user may get."""
        num_items, offered = self.purchases.num_items, self.offered
        num_offered = np.full(len(self), num_items if self.eligible is None else self.eligible.num_items)
        if not self.exclude_known:
            return num_offered
        if offered is None:
            return num_offered - self.purchases.num_per_user
        own = np.bincount(self.purchases.owners[offered[self.purchases.indices]], minlength=len(self))
        return np.asarray(num_offered - own)


class Retriever(Protocol):
    """Anything that finds candidates."""

    @property
    def needs_embeddings(self) -> bool:
        """Whether `query_embeddings` must be there."""
        ...

    @property
    def needs_tokens(self) -> bool:
        """Whether `user_tokens` must be there."""
        ...

    @property
    def finds_all(self) -> bool:
        """Whether every list has k items as long as k may come."""
        ...

    @property
    def fills_up(self) -> bool:
        """Whether popular items fill up lists that are shorter than they could be."""
        ...

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """The best k candidates of each user.

        Args:
            users: B users.
            k: Length of the lists, at least 1.

        Returns:
            Rows [B, k] int32, distinct, best first, -1 where the retriever has no more candidates, and scores [B, k]
            float32, falling, -inf there. A user's list does not depend on the others in the batch.
        """
        ...


@dataclass(frozen=True)
class Repeat:
    """What the user bought before: most often first, then most lately, then by row.

        score = number of events + 1 / (2 + days since the latest event)

    The second part is at most 1/2, so that it orders only equal counts. Nothing is left when known items are kept out.
    """

    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = False
    fills_up: ClassVar[bool] = False

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        if users.exclude_known:
            return padding(len(users), k)
        own = users.purchases
        stays = slice(None) if users.offered is None else users.offered[own.indices]
        owners, counts, last_seconds = own.owners[stays], own.counts[stays], own.last_seconds[stays]
        age_days = np.maximum(users.as_of_seconds[owners] - last_seconds, 0) / SECONDS_PER_DAY
        return best_of_each(
            owners,
            own.indices[stays],
            scores=counts + 1 / (2 + age_days),
            num_users=len(users),
            k=k,
            # The exact order: float32 scores are equal for two moments of the same day.
            ascending_keys=(-counts, -last_seconds),
        )


class Popularity:
    """Popular items, the same list for all users; the score is the number of recent events.

    Args:
        popularity: [N] recent events of each item.
    """

    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = False

    def __init__(self, popularity: npt.NDArray[np.float32]) -> None:
        """Sorts the catalogue once."""
        self._order = np.lexsort((np.arange(len(popularity)), -popularity)).astype(np.int32)
        self._scores = popularity[self._order].astype(np.float32)

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        kept_out, offered = users.kept_out, users.offered
        num_kept_out = 0 if kept_out is None else int(kept_out.num_per_user.max(initial=0))
        stays = slice(None) if offered is None else offered[self._order]
        width = k + num_kept_out
        rows = np.tile(self._order[stays][:width], (len(users), 1))
        scores = np.tile(self._scores[stays][:width], (len(users), 1))
        keys = np.empty(0, np.int64) if kept_out is None else kept_out.keys
        return without(rows, scores, known_keys=keys, num_items=users.purchases.num_items, k=k)


@dataclass(frozen=True)
class Fused:
    """Several retrievers as one, by weighted reciprocal ranks."""

    parts: tuple[tuple[Retriever, float], ...]
    """Retrievers and their weights."""
    rank_constant: float
    """The larger, the less the first places of a list weigh."""
    depth: int
    """Length of the lists that are fused, raised to k where it is smaller."""
    fills_up: ClassVar[bool] = True

    @property
    def needs_embeddings(self) -> bool:
        """Whether a part needs them."""
        return any(retriever.needs_embeddings for retriever, _ in self.parts)

    @property
    def needs_tokens(self) -> bool:
        """Whether a part needs them."""
        return any(retriever.needs_tokens for retriever, _ in self.parts)

    @property
    def finds_all(self) -> bool:
        """Whether a part does."""
        return any(retriever.finds_all for retriever, _ in self.parts)

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        depth = max(k, self.depth)
        lists = [retriever.retrieve(users, depth)[0] for retriever, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return reciprocal_rank_fusion(lists, weights, rank_constant=self.rank_constant, k=k)


def reciprocal_rank_fusion(
    lists: Sequence[Rows], weights: Sequence[float], *, rank_constant: float, k: int
) -> tuple[Rows, Scores]:
    """Adds up reciprocal ranks of each item, so that scores need no common scale.

        score_i = sum_r w_r / (rank_constant + rank_r(i)),  rank 1 for the first; a list without i adds nothing

    Args:
        lists: R of [B, k_r] int32 catalogue rows, best first, -1 where empty.
        weights: R, at least 0.
        rank_constant: At least 0; the larger, the less the first places weigh.
        k: Length of the resulting lists.

    Returns:
        Rows [B, k], each item once, and scores [B, k] float32; equal scores are ordered by row.

    Raises:
        ValueError: Lists and weights differ in number, or a weight or the constant is negative.
    Source: Cormack et al., SIGIR 2009, with a weight for each list.
    """
    if len(lists) != len(weights) or not lists:
        raise ValueError(f"{len(lists)} lists and {len(weights)} weights, expected one weight for each of some lists")
    if min(weights) < 0 or rank_constant < 0:
        raise ValueError(f"weights {list(weights)} and rank_constant {rank_constant} must be at least 0")
    num_users = len(lists[0])
    items = np.hstack(lists).astype(np.int64)
    shares = np.concatenate(
        [
            weight / (rank_constant + np.arange(1, rows.shape[1] + 1))
            for rows, weight in zip(lists, weights, strict=True)
        ]
    )
    owners, columns = np.nonzero(items >= 0)
    stride = int(items.max(initial=0)) + 1
    keys, key_of_entry = np.unique(owners * stride + items[owners, columns], return_inverse=True)
    scores = np.bincount(key_of_entry, weights=shares[columns], minlength=len(keys)).astype(np.float64)
    return best_of_each(keys // stride, keys % stride, scores=scores, num_users=num_users, k=k)


@dataclass(frozen=True)
class FoundLists:
    """Lists, and which of them popularity has made or filled.

    Attributes:
        rows: [B, k] catalogue rows, best first, -1 behind the last one.
        scores: [B, k], -inf there.
        fell_back: [B] whether popularity answered in the retriever's place.
        filled: [B] whether popular items fill up what it found.
        num_own: [B] how many items the retriever has found, for which popularity may have answered.
        depth: Length of the list that the retriever was asked for.
    """

    rows: Rows
    scores: Scores
    fell_back: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.bool_]
    num_own: npt.NDArray[np.int64]
    depth: int


def lists_of(
    retrievers: Mapping[str, Retriever], users: UserQueries, name: str, *, k: int, can_be_found: npt.NDArray[np.bool_]
) -> FoundLists:
    """The lists of a retriever, with popular items where it has none for a user, or too few.

    Args:
        retrievers: By name, `popularity` among them.
        users: B users.
        name: Of the retriever that is asked.
        k: Length of the lists.
        can_be_found: [B] whether anything is known to look for; popular items come where nothing is.
    """
    retriever = retrievers[name]
    rows, scores = retriever.retrieve(users, k)
    num_own, no_one = (rows >= 0).sum(axis=1), np.zeros(len(users), np.bool_)
    found = FoundLists(rows, scores, no_one, no_one.copy(), num_own, k)
    if name == FALLBACK:
        return found
    found.fell_back[:] = ~can_be_found | (rows[:, 0] < 0)
    if retriever.fills_up:
        short = ~found.fell_back & (rows[:, -1] < 0)
        if short.any():
            found.filled[:] = short & (num_own < users.num_candidates)
    if not (found.fell_back.any() or found.filled.any()):
        return found
    found = replace(found, rows=rows.copy(), scores=scores.copy())
    for user in np.flatnonzero(found.fell_back | found.filled):
        _fill(retrievers[FALLBACK], users, found, int(user), k)
    return found


def _fill(popularity: Retriever, users: UserQueries, found: FoundLists, user: int, k: int) -> None:
    """Puts what is popular behind what was found of one user's list, or in its place."""
    own = found.rows[user][found.rows[user] >= 0] if found.filled[user] else NO_ITEMS
    # Items added to the catalogue are never popular.
    num_items = users.purchases.num_items
    known = own[own < num_items]
    eligible = less(users.eligible, known, num_items=num_items) if len(known) else users.eligible
    rows, scores = popularity.retrieve(replace(users.of(np.array([user])), eligible=eligible), k)
    rest = k - len(own)
    found.rows[user, len(own) :], found.scores[user, len(own) :] = rows[0, :rest], scores[0, :rest]
