"""Added items: exact search over a few vectors next to a retriever over the catalogue.

B users, N items of the catalogue, A added ones with the rows N to N + A - 1, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from features.ids import IdMap
from serving.retrieval import exact
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import UserQueries
from serving.retrieval.vector_search import TwoTowerRetriever


@dataclass(frozen=True)
class AddedItems:
    """What a bundle answers with beyond its catalogue.

    Attributes:
        item_ids: [N + A] of the catalogue and of the added ones.
        vectors: [A, D] float32 item vectors.
        weight: What they are multiplied by to be ranked: the median business weight of the catalogue.
    """

    item_ids: IdMap
    vectors: Scores
    weight: float

    @property
    def first_row(self) -> int:
        """N."""
        return len(self.item_ids) - 1 - len(self.vectors)


@dataclass(frozen=True)
class WithAdded:
    """A retriever by inner products that finds added items too, in one order with the others."""

    retriever: TwoTowerRetriever
    """Over the catalogue."""
    added: AddedItems
    """Searched exactly."""
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = True

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`."""
        queries = users.query_embeddings
        if queries is None:
            raise ValueError("query_embeddings is None; this retriever needs the user vectors")
        rows, scores = self.retriever.retrieve(users, k)
        offered = None if users.eligible is None else users.eligible.added
        weight = np.float32(self.added.weight if users.scale is None else np.median(users.scale))
        more, more_scores = exact.search(
            queries, self.added.vectors * weight, k=min(k, len(self.added.vectors)), offered=offered
        )
        more = np.where(more < 0, more, more + np.int32(self.added.first_row))
        rows, scores = np.hstack([rows, more]), np.hstack([scores, more_scores])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
