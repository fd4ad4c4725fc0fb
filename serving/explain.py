"""Why was this item recommended? Which retrievers found it where, and what of the history it is like.

B users, N items of the catalogue, D vector width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from serving.bundles.bundle import Bundle
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import Fused, Retriever, UserQueries

NUM_NEAR = 3


class Found(TypedDict):
    """Where one retriever had an item."""

    rank: int
    """From 1."""
    score: float
    """In the retriever's own unit."""


class NearItem(TypedDict):
    """An item that the user met before."""

    item_id: str
    item_name: str | None
    cosine: float
    """Of the two items' vectors."""


class Explanation(TypedDict):
    """Why an item stands in a list."""

    found_by: dict[str, Found]
    """Retriever -> its place in that one's list; empty where it was filled in."""
    near: list[NearItem]
    """What the user met before that is most like it, most alike first."""


def explanations(
    bundle: Bundle, retrievers: Mapping[str, Retriever], name: str, users: UserQueries, rows: Rows
) -> list[list[Explanation]]:
    """Explains the lists of some users.

    Args:
        bundle: What was searched.
        retrievers: All of them, by name.
        name: The one that found the lists.
        users: B questions.
        rows: [B, k] its lists.

    Returns:
        For each user an explanation of each item of the list.
    """
    asked = retrievers[name]
    depth = rows.shape[1]
    names = {name: asked}
    if isinstance(asked, Fused):
        depth = max(depth, asked.depth)
        # One of them may have two names: the first tells.
        named = {id(part): own for own, part in reversed(list(retrievers.items()))}
        names = {named[id(part)]: part for part, _ in asked.parts}
    lists = {own: part.retrieve(users, depth) for own, part in names.items()}
    answers = []
    for user, own_rows in enumerate(rows):
        found = own_rows[own_rows >= 0]
        places = {
            part: {int(row): place for place, row in enumerate(part_rows[user].tolist()) if row >= 0}
            for part, (part_rows, _) in lists.items()
        }
        near = _near(bundle, users, user, found)
        answers.append(
            [
                Explanation(
                    found_by={
                        part: Found(rank=place[row] + 1, score=float(lists[part][1][user, place[row]]))
                        for part, place in places.items()
                        if row in place
                    },
                    near=near[position],
                )
                for position, row in enumerate(found.tolist())
            ]
        )
    return answers


def _near(bundle: Bundle, users: UserQueries, user: int, found: Rows) -> list[list[NearItem]]:
    own = users.purchases.indices[users.purchases.indptr[user] : users.purchases.indptr[user + 1]]
    if not len(own) or not len(found):
        return [[] for _ in found]
    cosines = _unit(bundle.item_vectors[found]) @ _unit(bundle.item_vectors[own]).T
    # An item that was bought before is like itself, which tells nothing.
    cosines[found[:, None] == own] = -np.inf
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :NUM_NEAR]
    ids = bundle.encoder.item_ids
    return [
        [
            NearItem(
                item_id=ids.ids([own[place] + 1])[0],
                item_name=bundle.item_names[own[place]],
                cosine=float(cosines[position, place]),
            )
            for place in places
            if np.isfinite(cosines[position, place])
        ]
        for position, places in enumerate(best)
    ]


def _unit(vectors: Scores) -> Scores:
    unit: Scores = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
