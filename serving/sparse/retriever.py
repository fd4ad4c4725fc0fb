"""The retriever over the sparse index: items that have the terms of what a user has met, with events or without.

B users, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from serving.retrieval.ranking import Rows, Scores, padding
from serving.retrieval.retrievers import UserQueries
from serving.sparse.index import SparseIndex


@dataclass(frozen=True)
class Sparse:
    """Items by the terms that they share with a user's history."""

    index: SparseIndex
    """Over the catalogue."""
    needs_embeddings: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = False
    fills_up: ClassVar[bool] = True

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; equal scores by the lower row. Items that share no term are not found."""
        rows, scores = padding(len(users), k)
        kept_out, offered = users.kept_out, users.offered
        for user, query in enumerate(self.index.of_histories(users.purchases, users.as_of_seconds)):
            if not len(query.terms):
                continue
            found = self.index.scores(query)
            if users.scale is not None:
                found *= users.scale
            if offered is not None:
                found[~offered] = 0
            if kept_out is not None:
                found[kept_out.indices[kept_out.indptr[user] : kept_out.indptr[user + 1]]] = 0
            best = best_rows(found, k)
            rows[user, : len(best)], scores[user, : len(best)] = best, found[best]
        return rows, scores


def best_rows(scores: Scores, k: int) -> Rows:
    """The items with the k largest scores above 0, the best first, equal ones by the lower row; fewer where not more.

    Args:
        scores: [N].
        k: At least 1.
    """
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        least = np.partition(scores[found], -k)[-k]
        found = found[scores[found] >= least]
    order = np.lexsort((found, -scores[found]))[:k]
    return found[order].astype(np.int32)
