"""What a retriever is asked for the users of a request: their pasts, features and vectors, and what is missing.

B users of a request, N items of the catalogue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.columns import seconds_of
from serving import context, context_values
from serving.answers import Reason, RecommendRequest
from serving.bundles.bundle import Bundle
from serving.retrieval.eligible import EligibleItems
from serving.retrieval.ranking import Scores
from serving.retrieval.retrievers import Retriever, UserQueries

ReadUsers = Callable[[list[str]], pa.Table]
"""User ids -> one row per id in the order asked: user_id and the fields of the user view, nulls where unknown."""


@dataclass(frozen=True)
class Unavailable:
    """The users' features could not be read in time."""

    why: str
    """In words."""


@dataclass(frozen=True)
class Asked:
    """What a retriever is asked for B users, and what is known of them.

    Attributes:
        users: The question.
        is_known: [B] whether the bundle knows the user.
        has_past: [B] whether anything is known of the user's past.
        can_be_found: [B] whether anything is known to look for.
        has_features: [B] whether the online store had what it must have of the user.
    """

    users: UserQueries
    is_known: npt.NDArray[np.bool_]
    has_past: npt.NDArray[np.bool_]
    can_be_found: npt.NDArray[np.bool_]
    has_features: npt.NDArray[np.bool_]

    def reasons(self, user: int) -> list[Reason]:
        """What is not known of a user."""
        missing: dict[Reason, bool] = {
            "no_features": not self.has_features[user],
            "unknown_user": not self.is_known[user],
            "no_history": not self.has_past[user],
        }
        return [reason for reason, is_so in missing.items() if is_so]


class Stages:
    """Adds up the time between the ends of stages."""

    def __init__(self) -> None:
        """Begins the first stage."""
        self.microseconds: dict[str, float] = {}
        self._last = time.perf_counter_ns()

    @property
    def total_ms(self) -> float:
        """Milliseconds of the stages that have ended."""
        return sum(self.microseconds.values()) / 1000

    def end(self, stage: str) -> None:
        """Ends a stage, and begins the next one."""
        now = time.perf_counter_ns()
        self.microseconds[stage] = (now - self._last) / 1000
        self._last = now


def moment_of(bundle: Bundle) -> int:
    """The moment of a bundle and its features, Unix seconds."""
    return seconds_of(bundle.manifest.facts.as_of)


def asked_of(
    bundle: Bundle,
    read_users: ReadUsers,
    request: RecommendRequest,
    retriever: Retriever,
    *,
    eligible: EligibleItems | None,
    scale: Scores | None,
    features: pa.Table | Unavailable | None,
    as_of_seconds: int,
    stages: Stages,
) -> Asked:
    """What a retriever is asked for the users of a request.

    Args:
        bundle: Has their pasts, and makes their vectors.
        read_users: Reads their features.
        request: Names them.
        retriever: What is made of them depends on what it needs.
        eligible: Items that they may get; None has the whole catalogue.
        scale: [N] business weights in place of the retriever's own.
        features: Theirs, if they were read before, or why they could not be; None reads them here.
        as_of_seconds: The moment of the request.
        stages: Gets the time of each stage.
    """
    user_ids = request.user_ids
    known_rows = bundle.encoder.user_ids.rows(user_ids)
    purchases = bundle.purchases.of(known_rows)
    moments = np.full(len(user_ids), as_of_seconds, np.int64)
    has_past = purchases.num_per_user > 0
    can_be_found: npt.NDArray[np.bool_] = np.ones(len(user_ids), np.bool_)
    stages.end("users")
    embeddings, tokens = None, None
    is_lost = np.full(len(user_ids), isinstance(features, Unavailable))
    if retriever.needs_embeddings or retriever.needs_tokens:
        read: pa.Table | Unavailable | None = None
        if not request.is_anonymous:
            read = read_users(list(user_ids)) if features is None else features
        raw, is_lost = context.complete(
            None if isinstance(read, Unavailable) else read,
            user_ids,
            purchases,
            bundle.encoder,
            as_of_seconds=moment_of(bundle),
        )
        is_lost &= not request.is_anonymous
        raw = _at_request(raw, request, bundle, as_of_seconds)
        has_past |= num_events(raw) > 0
        stages.end("features")
        inputs = bundle.encoder.encode_users(raw, as_of_seconds=moments)
        stages.end("encoding")
        if retriever.needs_embeddings:
            embeddings = bundle.user_tower.embed(inputs)
            # Numbers may be too large for a tower. No search sorts what is no number.
            can_be_found = np.logical_and.reduce(np.isfinite(embeddings), axis=1)
            embeddings = np.where(can_be_found[:, None], embeddings, np.float32(0))
            stages.end("user_tower")
        if retriever.needs_tokens and bundle.sparcode is not None:
            tokens = bundle.sparcode.tokenizer.embed(inputs)
            stages.end("tokenizer")
        # Context and recent items are inputs of the tower alone.
        has_past |= bool(request.context) or bool((bundle.item_ids.rows(request.recent_items) > 0).any())
    users = UserQueries(purchases, moments, embeddings, bool(request.exclude_known), tokens, eligible, scale)
    return Asked(users, known_rows > 0, has_past, has_past & can_be_found, ~is_lost)


def _at_request(raw: pa.Table, request: RecommendRequest, bundle: Bundle, as_of_seconds: int) -> pa.Table:
    """Features with the context and recent items of the request."""
    if request.context:
        raw = context_values.with_context(raw, request.context, bundle.encoder.schema)
    if request.recent_items:
        raw = context.with_recent(raw, request.recent_items, as_of_seconds=as_of_seconds)
    return raw


def num_events(raw: pa.Table) -> npt.NDArray[Any]:
    """[B] events of users so far, by their features."""
    counts = raw.column("user_num_events")
    known: npt.NDArray[Any] = (counts.fill_null(0) if counts.null_count else counts).to_numpy()
    return known
