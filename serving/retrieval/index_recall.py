"""Recall of an index: the share of what exact search finds for real users, by score, so that ties are no loss.

B queries, N items of the catalogue, D vector width, k length of the lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from serving.retrieval import exact
from serving.retrieval.eligible import NO_ITEMS, Items, everything_but
from serving.retrieval.index import ItemIndex
from serving.retrieval.interests import search_index
from serving.retrieval.ranking import Rows, Scores

# Scores that differ by less are equal: what float32 loses, as a share of the largest product of lengths.
_TIE = 1e-6


@dataclass(frozen=True)
class ExactLists:
    """What exact search finds for some users, which the lists of indexes are compared with."""

    vectors: Scores
    """[N, D] float32."""
    queries: Scores
    """[B, D] float32, or [B, K D] where users have several vectors."""
    k: int
    """Length of the lists."""
    lowest: npt.NDArray[np.float64]
    """[B] score from which on an item belongs to the user's list."""

    @classmethod
    def of(cls, vectors: Scores, *, query_embeddings: Scores, k: int, left_out: Items = NO_ITEMS) -> Self:
        """Searches exactly.

        Args:
            vectors: [N, D] float32.
            query_embeddings: [B, D] float32, or [B, K D], B >= 1.
            k: Length of the lists, cut to N - W.
            left_out: [W] int32 rows, ascending, that no list has.

        Raises:
            ValueError: There is no query.
        """
        if not len(query_embeddings):
            raise ValueError("there is no query to measure recall with; pass at least one")
        k = min(k, len(vectors) - len(left_out))
        eligible = everything_but(left_out, num_items=len(vectors))
        wanted, _ = exact.search(query_embeddings, vectors, k=k, offered=None if eligible is None else eligible.mask)
        lowest = [_scores(query, vectors, rows).min() for query, rows in zip(query_embeddings, wanted, strict=True)]
        longest = np.linalg.norm(vectors, axis=1).max()
        return cls(vectors, query_embeddings, k, lowest - _TIE * longest * np.linalg.norm(query_embeddings, axis=1))

    def shares(self, index: ItemIndex, *, ef: int) -> npt.NDArray[np.float64]:
        """[B] share of each user's exact list that an index finds.

        Args:
            index: Over the same vectors.
            ef: Its beam width.
        """
        found, _ = search_index(index, self.queries, width=self.vectors.shape[1], k=self.k, ef=ef)
        hits = [
            np.count_nonzero(_scores(query, self.vectors, np.unique(rows[rows >= 0])) >= lowest)
            for query, rows, lowest in zip(self.queries, found, self.lowest, strict=True)
        ]
        return np.array(hits) / self.k


def measure_recall(index: ItemIndex, vectors: Scores, *, query_embeddings: Scores, k: int, ef: int) -> float:
    """Share of the exact top k of what is offered that the index finds, mean over queries.

    Args:
        index: What is measured; what it leaves out is not offered.
        vectors: [N, D] float32, what it was built from.
        query_embeddings: [B, D] float32, or [B, K D], B >= 1.
        k: Length of the lists, cut to N - W.
        ef: Beam width.

    Raises:
        ValueError: There is no query.
    """
    lists = ExactLists.of(vectors, query_embeddings=query_embeddings, k=k, left_out=index.left_out)
    return float(lists.shares(index, ef=ef).mean())


def _scores(query: Scores, vectors: Scores, rows: Rows) -> npt.NDArray[np.float64]:
    """Inner products in double precision, so that ties do not depend on the order of sums; of several, the best."""
    interests = query.reshape(-1, vectors.shape[1]).astype(np.float64)
    best: npt.NDArray[np.float64] = (vectors[rows].astype(np.float64) @ interests.T).max(axis=1)
    return best
