"""What may be asked of a recommender?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field


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
