"""Searches for typed words: the request, the answer, and why an item is in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.answers import (
    ANONYMOUS,
    EXPLAIN_COST,
    FIRST_ITEMS,
    NUM_TERMS,
    Explanation,
    Found,
    Reason,
    RecommendedItem,
    RecommendRequest,
)
from serving.bundles.bundle import Bundle
from serving.explanations import near_items
from serving.retrieval.ranking import Rows
from serving.retrieval.retrievers import UserQueries
from serving.sparse.typed import ByWords

WORDS = "words"
"""What an explanation calls the order by words alone."""
TOWERS = "two_tower"
"""Retriever that re-orders what was found."""
WORDS_COST = 10
"""What finding items by words costs, in lists of `FIRST_ITEMS` items."""
NO_INDEX = "needs a sparse index, and this bundle has none; set sparse: {} and make the bundle again"


@dataclass(frozen=True)
class SearchRequest:
    """One search."""

    query: str
    """What was typed. A last word that nothing follows may be unfinished."""
    k: int = 10
    """Length of the list, at least 1; it is shorter where fewer items have any of the words."""
    user_id: str | None = None
    """For whom the towers re-order what is found; None leaves the order of the words."""
    allow_categories: tuple[str, ...] | None = None
    """Categories of which alone items come; None lets all come."""
    deny_categories: tuple[str, ...] = ()
    """Categories of which no item comes."""
    exclude_items: tuple[str, ...] = ()
    """Ids of items that do not come; unknown ones change nothing."""
    explain: bool = False
    """Whether every item comes with the words that match."""

    @property
    def of_user(self) -> RecommendRequest:
        """The user and the filters, as a request for recommendations has them."""
        return RecommendRequest(
            (ANONYMOUS if self.user_id is None else self.user_id,),
            self.k,
            retriever=TOWERS,
            exclude_known=False,
            allow_categories=self.allow_categories,
            deny_categories=self.deny_categories,
            exclude_items=self.exclude_items,
        )

    @property
    def cost(self) -> int:
        """What it costs, about, in the unit of `RecommendRequest.cost`: some milliseconds of words before the items."""
        return FIRST_ITEMS * WORDS_COST + max(self.k, FIRST_ITEMS) * (EXPLAIN_COST if self.explain else 1)


@dataclass(frozen=True)
class SearchAnswer:
    """What has the typed words."""

    bundle_version: str
    """Bundle it comes from."""
    corrected: dict[str, str]
    """Typed word -> what was looked for in its place."""
    items: list[RecommendedItem]
    """Best first; those whose name was typed score more than 1, all others at most 1."""
    reasons: tuple[Reason, ...]
    """Why the order is not the user's, where one was asked for; `nothing_found` where no item has any of the words."""
    stage_microseconds: dict[str, float]
    """Wall-clock time of each stage."""


def explain(bundle: Bundle, by_words: ByWords, users: UserQueries, rows: Rows) -> list[Explanation]:
    """Why some items are in the list of one user.

    Args:
        bundle: Names them.
        by_words: What has found them.
        users: The one user.
        rows: [n] the items, in the order of the list.
    """
    index, query = by_words.typed.index, by_words.understood.query
    scores = index.scores(query)
    offered = scores if users.eligible is None else scores[users.eligible.whole]
    ranks = 1 + np.searchsorted(np.sort(-offered), -scores[rows])
    found = [Found(rank=rank, score=score) for rank, score in zip(ranks.tolist(), scores[rows].tolist(), strict=True)]
    matches, near = index.matches(query, rows, most=NUM_TERMS), near_items(bundle, users, 0, rows)
    return [
        Explanation(found_by={WORDS: place}, near=like, matches=own)
        for place, like, own in zip(found, near, matches, strict=True)
    ]
