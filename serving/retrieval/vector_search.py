"""Retrieval by the inner product of user and item vectors: one model, or a cascade of two.

Items are kept out of lists while k results stay guaranteed: more are fetched from the index and some taken out, or only
the items that may come are searched exactly.

    fetch = (k + items the user knows) / eligible share of the catalogue, and a quarter more

Which is cheaper was measured (D 64, 92k items, one thread): a place of the beam costs .43 us, a gathered row .042 us, a
row of one product over everything .015 us. So the graph is asked while its beam has fewer places than a tenth of the
eligible items, and exact search answers otherwise, and wherever fetching has found too few.

B users, N items of the catalogue, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from serving.retrieval import exact
from serving.retrieval.eligible import EligibleItems, everything_but
from serving.retrieval.index import ItemIndex
from serving.retrieval.interests import by_interest, first_coordinates, search_index
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import NO_SCORE, Rows, Scores, padding, without
from serving.retrieval.retrievers import UserQueries

# What a place of the beam costs, in gathered rows.
BEAM_COST = 10.0
# What is fetched beyond the expected number: offered items are not spread evenly over the best ones.
_RESERVE = 1.25


@dataclass(frozen=True)
class TwoTowerRetriever:
    """Items whose vector has the largest inner product with one of the user's, which is the score."""

    vectors: Scores
    """[N, D] float32, of length one, or of the length of each item's business weight."""
    index: ItemIndex | None
    """Approximate search over `vectors`; None searches exactly."""
    ef: int
    """Beam width of the index."""
    max_fetch: int
    """Largest number of items to ask the index for; beyond it exact search is cheaper."""
    weights: Scores | None = None
    """[N] float32, what the vectors were multiplied by; None where they were not."""
    beam_cost: float = BEAM_COST
    """What a place of the beam costs, in gathered rows of exact search, by which filtered lists are searched."""
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = True

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
        if kept_out is None and users.eligible is None:
            return search_index(self.index, queries, width=self.vectors.shape[1], k=k, ef=self.ef)
        return search_eligible(
            self.index,
            self.vectors,
            query_embeddings=queries,
            known=kept_out,
            eligible=users.eligible,
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

    Of several interests, either is the best of them. A query whose rest is zero asks the one index for the first
    model's order alone.

    Source: Huang et al. (EBR), KDD 2020, section 6.2.2.
    """

    first: TwoTowerRetriever
    """Finds by the whole vectors what it is asked; asked with the first part alone here."""
    first_width: int
    """Width of the first part, between 0 and D."""
    depth: int
    """Length of the first model's list, raised to k where it is smaller."""
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = True

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
        width = self.first.vectors.shape[1]
        first = first_coordinates(queries, self.first_width, width=width)
        rests = by_interest(queries, width=width)[:, :, self.first_width :]
        rows, _ = self.first.retrieve(replace(users, query_embeddings=first), max(k, self.depth))
        scores, factors = np.full(rows.shape, NO_SCORE, np.float32), self.first.factors(users)
        for user, found in enumerate(rows):
            own = found[found >= 0]
            products = self.first.vectors[own, self.first_width :] @ rests[user].T
            scores[user, : len(own)] = products.max(axis=1)
            if factors is not None:
                scores[user, : len(own)] *= factors[own]
        order = np.lexsort((rows, -scores))[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def search_eligible(
    index: ItemIndex,
    vectors: Scores,
    *,
    query_embeddings: Scores,
    known: Purchases | None,
    eligible: EligibleItems | None,
    k: int,
    ef: int,
    max_fetch: int,
    beam_cost: float = BEAM_COST,
) -> tuple[Rows, Scores]:
    """The nearest items that are offered and that a user does not know yet.

    Args:
        index: Searched where that is cheaper.
        vectors: [N, D] float32, searched exactly otherwise.
        query_embeddings: [B, D] float32, or [B, K D] where users have several vectors.
        known: B rows, what each user must not get; None keeps nothing out.
        eligible: Items that any user may get, none that the index leaves out; None has all that are in it.
        k: Length of the lists.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for.
        beam_cost: What a place of the beam costs, in gathered rows of exact search; 0 asks the index in any case.

    Returns:
        Rows [B, k] and scores [B, k]: exactly k for each user who has k such items, all of them otherwise.
    """
    num_users, num_items = len(query_embeddings), len(vectors)
    num_indexed = num_items - len(index.left_out)
    num_offered = num_indexed if eligible is None else eligible.num_items
    num_known = np.zeros(num_users, np.int64) if known is None else known.num_per_user
    fetches = _fetches(num_known, k, num_offered=num_offered, num_indexed=num_indexed)
    by_index = fetches <= min(max_fetch, num_items)
    if num_offered < num_indexed:
        by_index &= np.maximum(fetches, ef) * beam_cost <= num_offered
    rows, scores = padding(num_users, k)
    for fetch in np.unique(fetches[by_index]).tolist():
        users = np.flatnonzero(by_index & (fetches == fetch))
        found = search_index(index, query_embeddings[users], width=vectors.shape[1], k=fetch, ef=ef)
        rows[users], scores[users] = without(
            *found,
            known_keys=np.empty(0, np.int64) if known is None else known.of(users).keys,
            num_items=num_items,
            k=k,
            offered=None if eligible is None else eligible.mask,
        )
    # Eligible items may be far from the user: fetching has then found too few, though there are more.
    by_index &= (rows[:, -1] >= 0) | (fetches >= k + num_known + num_indexed - num_offered)
    users = np.flatnonzero(~by_index)
    if len(users):
        eligible = eligible or everything_but(index.left_out, num_items=num_items)
        rows[users], scores[users] = exact.search(
            query_embeddings[users],
            vectors,
            k=k,
            exclude=None if known is None else known.of(users).csr(),
            offered=None if eligible is None else eligible.mask,
        )
    return rows, scores


def _fetches(num_known: npt.NDArray[np.int64], k: int, *, num_offered: int, num_indexed: int) -> npt.NDArray[np.int64]:
    """[B] smallest multiple of k that is expected to leave k items.

    It depends on the user alone, because a result must not depend on who else is in the batch; multiples let users
    share a search all the same.
    """
    wanted = k + num_known
    if num_offered < num_indexed:
        expected = np.ceil(wanted * (num_indexed / max(num_offered, 1)) * _RESERVE).astype(np.int64)
        # So many leave k in any case.
        wanted = np.minimum(expected, wanted + num_indexed - num_offered)
    multiples: npt.NDArray[np.int64] = -(-wanted // k)
    return multiples * k
