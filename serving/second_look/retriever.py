"""The retriever that ranks the candidates of several lists again.

B users, N items of the catalogue, E candidates of all users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from serving.retrieval.ranking import Rows, Scores, best_of_each, padding
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.second_look.inputs import Candidates, ItemFacts, inputs_of
from serving.second_look.net import Net

# Users whose inputs are held at a time.
_BLOCK = 64


@dataclass(frozen=True)
class SecondLook:
    """Several retrievers, whose candidates a net ranks.

    Attributes:
        parts: Name -> retriever; in the order of the net's inputs.
        net: Scores candidates.
        facts: Of the items.
        depth: Length of the lists that are merged, raised to k where it is smaller.
        history: Latest items of a user that a candidate attends to, at most.
        weights: [N] business weights of the items; None where there are none.
    """

    parts: Mapping[str, Retriever]
    net: Net
    facts: ItemFacts
    depth: int
    history: int
    weights: Scores | None = None
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    fills_up: ClassVar[bool] = True

    @property
    def finds_all(self) -> bool:
        """Whether a part does."""
        return any(part.finds_all for part in self.parts.values())

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        """See `Retriever`; equal scores by the lower row.

        Business weights count as if the net's scores were logarithms of chances, which its loss makes them.
        """
        depth = max(k, self.depth)
        lists = {name: part.retrieve(users, depth) for name, part in self.parts.items()}
        rows, scores = padding(len(users), k)
        for begin in range(0, len(users), _BLOCK):
            block = np.arange(begin, min(begin + _BLOCK, len(users)))
            own = users if len(block) == len(users) else users.of(block)
            found = Candidates.of({name: (one[0][block], one[1][block]) for name, one in lists.items()})
            values = self.net.scores(inputs_of(own, found, self.facts, depth=depth, history=self.history))
            values = values + self._log_weights(users, found.items)
            rows[block], scores[block] = best_of_each(
                found.owners, found.items, scores=values, num_users=len(block), k=k
            )
        return rows, scores

    def counted(
        self, users: UserQueries, lists: Mapping[str, tuple[Rows, Scores]], rows: Rows
    ) -> list[dict[str, float]]:
        """For each of one user's items what raises its score, and by how much, the largest first.

        Args:
            users: One user.
            lists: The lists of the parts for this user, as long as they were when the items were ranked.
            rows: [k] items of these lists.
        """
        found, depth = Candidates.of(lists), max(part.shape[1] for part, _ in lists.values())
        entries = np.searchsorted(found.items, rows)
        inputs = inputs_of(users, found, self.facts, depth=depth, history=self.history)
        raised = self.net.counted(inputs.of(entries))
        names = np.array([*self.net.names, "history"])
        orders = np.argsort(-raised, axis=1, kind="stable")
        return [
            {str(name): float(value) for name, value in zip(names[order], own[order], strict=True) if value > 0}
            for order, own in zip(orders, raised, strict=True)
        ]

    def _log_weights(self, users: UserQueries, items: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        weights = self.weights if users.scale is None else users.scale
        if weights is None:
            return np.zeros(len(items), np.float32)
        own = np.where(items < len(weights), weights[np.minimum(items, len(weights) - 1)], 1.0)
        return np.asarray(np.log(np.maximum(own, 1e-30)), np.float32)
