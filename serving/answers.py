"""Requests for recommendations, and the answers to them."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import UserQueries

Reason = Literal["unknown_user", "no_history", "no_features", "nothing_found", "filled", "short", "no_tables", "late"]
"""Why a list is not the regular one: no such user, or none with a history; the online store did not answer or has
lost the user's features, and those of the bundle were used; nothing was found; the list was too short, and popularity
filled it; it has fewer than k items; no SparCode tables; the request took too long for a second look, and the fused
list answered."""
ANONYMOUS = ""
"""Stands for the user of a request that names none; no id is empty."""
EXPLAIN_COST = 5
"""What an explained item costs, in plain ones."""
FIRST_ITEMS = 100
"""A list of fewer items costs as much as one of these."""
NUM_NEAR = 3
"""Items of the history that explain an item, at most."""
NUM_TERMS = 5
"""Terms that do, at most."""


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


class FoundInterest(TypedDict):
    """Which of a user's several vectors finds an item."""

    number: int
    """From 1."""
    near: list[NearItem]
    """The items of the user's history that are nearest to it, nearest first, with their cosines with it."""


class Explanation(TypedDict):
    """Why an item is in a list."""

    found_by: dict[str, Found]
    """Retriever -> its place in that one's list; empty where it was filled in."""
    near: list[NearItem]
    """The most similar items of the user's history, most similar first."""
    interest: NotRequired[FoundInterest]
    """Where users have several vectors, and one of them has found it."""
    counted: NotRequired[dict[str, float]]
    """Where the second look has ranked it: what raised its score most, and by how much, the largest first."""
    matches: NotRequired[list[str]]
    """Where the sparse index has found it: the terms of the user's history that it has, the strongest first."""


NUM_COUNTED = 3
"""Inputs of the second look that explain an item, at most."""


class RecommendedItem(TypedDict):
    """One candidate."""

    item_id: str
    item_name: str | None
    category: str | None
    score: float
    explanation: NotRequired[Explanation]


MOST_VALUES = 1_000
"""Values of a list in a request, at most."""
ContextValue = str | float | bool | Sequence[str] | Sequence[float] | None
"""A value of a user column in a request."""


@dataclass(frozen=True)
class Answer:
    """The candidates of one user."""

    user_id: str
    """As asked."""
    items: list[RecommendedItem]
    """Best first; fewer than k where there are not more."""
    unknown_user: bool
    """Whether the bundle does not know the user."""
    fallback: str | None
    """Retriever that answered because the one asked for found nothing; None otherwise."""
    reasons: tuple[Reason, ...] = ()
    """Why the list has a fallback; empty where it has none."""


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
        depth: Length of the lists that they were taken out of, at least k.
        fell_back: [B] whether popularity answered in its place.
        filled: [B] whether popular items fill up what it found.
        is_known: [B] whether the bundle knows the user.
        has_past: [B] whether anything is known of the user's past.
        has_features: [B] whether the online store had what it must have of the user.
        missing: Why all of them have a fallback.
    """

    retriever: str
    users: UserQueries
    rows: Rows
    scores: Scores
    depth: int
    fell_back: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.bool_]
    is_known: npt.NDArray[np.bool_]
    has_past: npt.NDArray[np.bool_]
    has_features: npt.NDArray[np.bool_]
    missing: tuple[Reason, ...] = ()

    def reasons(self, user: int) -> tuple[Reason, ...]:
        """Why a user's list has a fallback."""
        reasons: list[Reason] = [] if self.has_features[user] else ["no_features"]
        reasons += self.missing
        if not self.is_known[user]:
            reasons.append("unknown_user")
        if not self.has_past[user]:
            reasons.append("no_history")
        elif self.fell_back[user]:
            reasons.append("nothing_found")
        if self.filled[user]:
            reasons.append("filled")
        if self.rows[user, -1] < 0 and "nothing_found" not in reasons:
            reasons.append("short")
        return tuple(reasons)


class RequestError(ValueError):
    """A request that cannot be answered; `field` names the part of it that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        """Takes the field and what is wrong with it."""
        super().__init__(f"{field} {message}")
        self.field, self.message = field, message


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that is none of some: the nearest of them, if one is near."""
    spelled = {one.lower(): one for one in names}
    near = difflib.get_close_matches(name.lower(), [*spelled], n=1)
    return f"; did you mean {spelled[near[0]]!r}?" if near else ""


@dataclass(frozen=True)
class RecommendRequest:
    """One call: which users get lists, of what, found how."""

    user_ids: tuple[str, ...]
    """At least one; the same may be asked for twice. `ANONYMOUS`, alone, is nobody that is known."""
    k: int = 10
    """Length of the lists, at least 1."""
    retriever: str | None = None
    """What finds the items; None takes the default."""
    exclude_known: bool | None = None
    """Whether items that the user bought before, and those in `recent_items`, are kept out; None takes the default."""
    allow_categories: tuple[str, ...] | None = None
    """Categories of which alone items come; None lets all come."""
    deny_categories: tuple[str, ...] = ()
    """Categories of which no item comes."""
    exclude_items: tuple[str, ...] = ()
    """Ids of items that do not come; unknown ones change nothing."""
    weight_exponent: float | None = None
    """Power of the items' business values; None takes the one that the index was built with."""
    context: Mapping[str, ContextValue] = field(default_factory=dict)
    """User column -> value of this moment, in place of the stored one."""
    recent_items: tuple[str, ...] = ()
    """What the one user has met since the features were computed, latest first; unknown ids change nothing."""
    as_of: dt.datetime | None = None
    """The moment of the request; None takes that of the bundle, 00:00 UTC of its day."""
    explain: bool = False
    """Whether every item comes with the retrievers that found it, and the nearest items of the history."""
    arm: str | None = None
    """Name of the arm that answers; None takes the one that the user is assigned to."""

    @property
    def is_anonymous(self) -> bool:
        """Whether it names no user."""
        return self.user_ids == (ANONYMOUS,)

    @property
    def cost(self) -> int:
        """What it costs, about: in items of plain lists, of which a millisecond has some 300."""
        return len(self.user_ids) * max(self.k, FIRST_ITEMS) * (EXPLAIN_COST if self.explain else 1)
