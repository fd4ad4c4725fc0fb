"""Which candidates does a user get? One call for every way of finding them.

B users, N items of the catalogue, D vector width. Items are catalogue rows, 0 to N - 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serving.retrieval import exact
from serving.retrieval.eligible import Offer
from serving.retrieval.filters import BEAM_COST, search_offered
from serving.retrieval.index import AnnIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import NO_SCORE, Rows, Scores, best_of_each, padding, reciprocal_rank_fusion, without

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class UserQueries:
    """What is asked for a batch of users.

    Raises:
        ValueError: The parts speak of different numbers of users.
    """

    purchases: Purchases
    """B rows: what each user knows; empty for an unknown user."""
    as_of_seconds: npt.NDArray[np.int64]
    """[B] the moment of the question, Unix seconds."""
    query_embeddings: Scores | None = None
    """[B, D] float32 user vectors; None where no retriever needs them."""
    exclude_known: bool = False
    """Whether known items are kept out."""
    user_tokens: Scores | None = None
    """[B, K_u D] float32, the users' tokens for SparCode side by side; None where no retriever needs them."""
    offer: Offer | None = None
    """What anybody may get; None offers the whole catalogue."""
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

    @property
    def kept_out(self) -> Purchases | None:
        """B rows: what each user must not get of what is offered; None where that may all come."""
        return self.purchases if self.exclude_known else None

    @property
    def offered(self) -> npt.NDArray[np.bool_] | None:
        """[N] what is offered; None where everything is."""
        return None if self.offer is None else self.offer.mask

    @cached_property
    def num_candidates(self) -> npt.NDArray[np.int64]:
        """[B] how many items each user may get."""
        num_items, offered = self.purchases.num_items, self.offered
        num_offered = np.full(len(self), num_items if self.offer is None else self.offer.num_items)
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

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """The best k candidates of each user.

        Args:
            users: B questions.
            k: Length of the lists, at least 1.

        Returns:
            Rows [B, k] int32, distinct, best first, -1 where the retriever has no more candidates, and scores [B, k]
            float32, falling, -inf there. A user's list does not depend on the others in the batch.
        """
        ...


@dataclass(frozen=True)
class TwoTower:
    """Items whose vector has the largest inner product with the user's, which is the score."""

    vectors: Scores
    """[N, D] float32, of length one, or of the length of each item's business weight."""
    index: AnnIndex | None
    """Approximate search over `vectors`; None searches exactly."""
    ef: int
    """Beam width of the index."""
    max_fetch: int
    """Largest number of items to ask the index for; beyond it exact search is cheaper."""
    weights: Scores | None = None
    """[N] float32, what the vectors were multiplied by; None where they were not."""
    beam_cost: float = BEAM_COST
    """What a place of the beam costs, in gathered rows of exact search, by which filtered lists are searched."""
    needs_embeddings: bool = field(default=True, init=False)
    needs_tokens: bool = field(default=False, init=False)

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        queries = users.query_embeddings
        if queries is None:
            raise ValueError("query_embeddings is None; this retriever needs the user vectors")
        kept_out, scale = users.kept_out, self.factors(users)
        # The graph knows one order of items, that of the vectors as they are.
        if self.index is None or k > self.max_fetch or scale is not None:
            exclude = None if kept_out is None else kept_out.csr()
            return exact.search(queries, self.vectors, k=k, exclude=exclude, offered=users.offered, scale=scale)
        if kept_out is None and users.offer is None:
            return self.index.search(queries, k=k, ef=self.ef)
        return search_offered(
            self.index,
            self.vectors,
            query_embeddings=queries,
            known=kept_out,
            offer=users.offer,
            k=k,
            ef=self.ef,
            max_fetch=self.max_fetch,
            beam_cost=self.beam_cost,
        )

    def factors(self, users: UserQueries) -> Scores | None:
        """[N] what scores of the vectors are to be multiplied by; None where the vectors have the weights asked for."""
        if users.scale is None or users.scale is self.weights:
            return None
        return users.scale if self.weights is None else users.scale / self.weights


@dataclass(frozen=True)
class Cascade:
    """Two models in turn: the first finds a list, the second orders it by the rest of the same vectors.

        first = <u_1, v_1>,   second = <u_2, v_2>,   u = [u_1; u_2], v = [v_1; v_2]

    A query whose rest is zero asks the one index for the first model's order alone.

    Source: Huang et al. (EBR), KDD 2020, section 6.2.2.
    """

    first: TwoTower
    """Finds by the whole vectors what it is asked; asked with the first part alone here."""
    first_width: int
    """Width of the first part, between 0 and D."""
    depth: int
    """Length of the first model's list, raised to k where it is smaller."""
    needs_embeddings: bool = field(default=True, init=False)
    needs_tokens: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Checks that there are two parts.

        Raises:
            ValueError: The first part is empty or everything.
        """
        width = self.first.vectors.shape[1]
        if not 0 < self.first_width < width:
            raise ValueError(
                f"first_width is {self.first_width}, expected between 1 and {width - 1}: a cascade needs vectors "
                "of two models, concatenated"
            )

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; the score is that of the second model."""
        queries = users.query_embeddings
        if queries is None:
            raise ValueError("query_embeddings is None; this retriever needs the user vectors")
        first = queries.copy()
        first[:, self.first_width :] = 0
        rows, _ = self.first.retrieve(replace(users, query_embeddings=first), max(k, self.depth))
        scores, factors = np.full(rows.shape, NO_SCORE, np.float32), self.first.factors(users)
        for user, found in enumerate(rows):
            own = found[found >= 0]
            scores[user, : len(own)] = self.first.vectors[own, self.first_width :] @ queries[user, self.first_width :]
            if factors is not None:
                scores[user, : len(own)] *= factors[own]
        order = np.lexsort((rows, -scores))[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


@dataclass(frozen=True)
class Repeat:
    """What the user bought before: most often first, then most lately, then by row.

        score = number of events + 1 / (2 + days since the latest event)

    The second part is at most 1/2, so that it orders only equal counts. Nothing is left when known items are kept out.
    """

    needs_embeddings: bool = field(default=False, init=False)
    needs_tokens: bool = field(default=False, init=False)

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
            # The exact order: float32 scores cannot tell two moments of the same day apart.
            ascending_keys=(-counts, -last_seconds),
        )


class Popularity:
    """What everybody buys, the same list for all users; the score is the number of recent events.

    Args:
        popularity: [N] recent events of each item.
    """

    needs_embeddings: bool = False
    needs_tokens: bool = False

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
    """The larger, the less the first places of a list stand out."""
    depth: int
    """Length of the lists that are fused, raised to k where it is smaller."""

    @property
    def needs_embeddings(self) -> bool:
        """Whether a part needs them."""
        return any(retriever.needs_embeddings for retriever, _ in self.parts)

    @property
    def needs_tokens(self) -> bool:
        """Whether a part needs them."""
        return any(retriever.needs_tokens for retriever, _ in self.parts)

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        depth = max(k, self.depth)
        lists = [retriever.retrieve(users, depth)[0] for retriever, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return reciprocal_rank_fusion(lists, weights, rank_constant=self.rank_constant, k=k)
