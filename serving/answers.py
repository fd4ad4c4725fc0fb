"""What does a recommender answer? Lists of B users as rows, and the same as items with names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from serving.explain import Explanation
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import UserQueries

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


@dataclass(frozen=True)
class Ranked:
    """Lists of users, and how they came about.

    Attributes:
        retriever: Name of the one that answered.
        users: What it was asked: B users.
        rows: [B, k] int32 catalogue rows, best first, -1 behind the last one.
        scores: [B, k] float32, -inf there.
        fell_back: [B] whether popularity answered in its place.
        filled: [B] whether popularity stands behind what it found.
        is_known: [B] whether the bundle has heard of the user.
        has_past: [B] whether there is anything to go by.
        missing: Why all of them are not the plain ones.
    """

    retriever: str
    users: UserQueries
    rows: Rows
    scores: Scores
    fell_back: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.bool_]
    is_known: npt.NDArray[np.bool_]
    has_past: npt.NDArray[np.bool_]
    missing: tuple[Reason, ...] = ()

    def reasons(self, user: int) -> tuple[Reason, ...]:
        """Why a user's list is not the plain one."""
        reasons = list(self.missing)
        if not self.is_known[user]:
            reasons.append("unknown_user")
        if not self.has_past[user]:
            reasons.append("no_history")
        elif self.fell_back[user]:
            reasons.append("nothing_found")
        if self.filled[user]:
            reasons.append("filled")
        return tuple(reasons)


class QuestionError(ValueError):
    """A question that cannot be answered; `field` names the part of it that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        """Takes the field and what is wrong with it."""
        super().__init__(f"{field} {message}")
        self.field, self.message = field, message


@dataclass(frozen=True)
class Question:
    """One call: which users get lists, of what, found how."""

    user_ids: tuple[str, ...]
    """At least one; the same may be asked for twice."""
    k: int = 10
    """Length of the lists, at least 1."""
    retriever: str | None = None
    """What finds the items; None takes the default."""
    exclude_known: bool = False
    """Whether items that the user bought before, and those in `recent_items`, are kept out."""
    allow_categories: tuple[str, ...] | None = None
    """Categories of which alone items come; None lets all come."""
    deny_categories: tuple[str, ...] = ()
    """Categories of which no item comes."""
    exclude_items: tuple[str, ...] = ()
    """Ids of items that do not come; unknown ones change nothing."""
    weight_exponent: float | None = None
    """Power of the items' business values; None takes the one that the index was built with."""
    context: Mapping[str, str | float | None] = field(default_factory=dict)
    """User column -> value of this moment, in place of the stored one."""
    recent_items: tuple[str, ...] = ()
    """What the one user has met since the features were computed, latest first; unknown ids change nothing."""
    as_of: dt.datetime | None = None
    """The moment of the question; None takes the moment that the bundle speaks of, 00:00 UTC of its day."""
    explain: bool = False
    """Whether every item tells which retrievers found it, and which items of the history it is near."""
    arm: str | None = None
    """Name of the arm that answers; None takes the one that the user is assigned to."""
