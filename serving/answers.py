"""What does a recommender answer?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from serving.explain import Explanation

Reason = Literal["unknown_user", "no_history", "no_features", "nothing_found", "filled", "no_tables"]
"""Why an answer is not the plain one: nobody of that id, or without a past; the online store did not answer, and what
the bundle knows stood in; nothing was found; the list was too short, and popularity filled it; no SparCode tables."""


class RecommendedItem(TypedDict):
    """One candidate."""

    item_id: str
    item_name: str | None
    category: str | None
    score: float
    explanation: NotRequired[Explanation]


@dataclass(frozen=True)
class Answer:
    """The candidates of one user."""

    user_id: str
    """As asked."""
    items: list[RecommendedItem]
    """Best first; fewer than k where no more exist."""
    unknown_user: bool
    """Whether the bundle has never heard of the user."""
    fallback: str | None
    """Retriever that stood in because the asked one had nothing to go by; None if it did not have to."""
    reasons: tuple[Reason, ...] = ()
    """Why the answer is not the plain one; nothing where it is."""


@dataclass(frozen=True)
class Recommendations:
    """All answers of one call."""

    bundle_version: str
    """Bundle they come from."""
    retriever: str
    """Retriever that was asked."""
    answers: list[Answer]
    """One for each user id, in the order asked."""
    stage_microseconds: dict[str, float]
    """Wall-clock time of each stage, for all users together."""
