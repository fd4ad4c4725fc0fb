"""The recommender: from user ids to named items, stage by stage.

B users of a request, N items of the catalogue.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving import context, context_values
from serving.answers import (
    Answer,
    Explanation,
    Ranked,
    Reason,
    Recommendations,
    RecommendedItem,
    RecommendRequest,
    RequestError,
    explanations,
)
from serving.bundles.bundle import Bundle
from serving.retrieval.eligible import (
    NO_ITEMS,
    DeniedItems,
    Eligibility,
    EligibleItems,
    Items,
    UnknownCategoryError,
)
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import FALLBACK, Retriever, UserQueries
from serving.retrieval.spread import Spread, spread_lists

if TYPE_CHECKING:
    from serving.sparse.hybrid import ColdLane

ONLY_KNOWN = "repeat"
"""Retriever that finds nothing but known items."""
NO_TABLES = "two_tower"
"""Retriever that answers where SparCode is asked for and the bundle has no tables."""
WARM_UP_USER = "(warm-up)"
SCANNED = 10_000
"""Numbers of vectors that exact search reads in the time of one item of a plain list."""

ReadUsers = Callable[[list[str]], pa.Table]
"""User ids -> one row per id in the order asked: user_id and the fields of the user view, nulls where unknown."""


@dataclass(frozen=True)
class Unavailable:
    """The users' features could not be read in time."""

    why: str
    """In words."""


class Recommender:
    """A bundle and the place where the users' features are read.

    Args:
        bundle: Everything that was learned.
        read_users: Reads the features of users, such as the online store's `read`.
        retrievers: Name -> retriever over this bundle; `popularity` must be among them.
        default_retriever: Name of the one that answers when none is asked for.
        exclude_known: Whether items that a user has met are kept out when the request does not say.
        denied: Items that no user gets, by any retriever; None where there are none. Read again for every request.
        cold_lane: Keeps places for items with few events where a request names no retriever; None keeps none.
        spread: What lists must be like, by any retriever; None takes them as they are found.

    Raises:
        ValueError: A name that is needed is not among the retrievers.
    """

    def __init__(
        self,
        bundle: Bundle,
        read_users: ReadUsers,
        *,
        retrievers: Mapping[str, Retriever],
        default_retriever: str,
        exclude_known: bool = False,
        denied: DeniedItems | None = None,
        cold_lane: ColdLane | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Checks the names."""
        for name in (default_retriever, FALLBACK):
            if name not in retrievers:
                raise ValueError(f"retriever {name!r} is not there; expected one of: {', '.join(retrievers)}")
        self.bundle = bundle
        self.retrievers = dict(retrievers)
        self.default_retriever, self.exclude_known = default_retriever, exclude_known
        self.read_users, self.spread, self.cold_lane = read_users, spread, cold_lane
        self.probes = context.probes(bundle.purchases, bundle.encoder.user_ids)
        """A few users whose features must be there."""
        self.eligibility = Eligibility(bundle.categories, _KeptOut(bundle.withdrawn, denied))
        midnight = dt.datetime.combine(bundle.manifest.facts.as_of, dt.time(), dt.UTC)
        self.as_of_seconds = int(midnight.timestamp())
        """The moment of the bundle and its features, Unix seconds."""

    def recommend(self, user_ids: Sequence[str], *, k: int, **asked: Any) -> Recommendations:
        """The best k candidates of each user.

        Args:
            user_ids: B ids, B >= 1; one may be asked for twice.
            k: Length of the lists, at least 1.
            asked: Further fields of `RecommendRequest`.

        Returns:
            Answers in the order asked.

        Raises:
            RequestError: Names the field that is wrong.
        """
        return self.answer(RecommendRequest(tuple(user_ids), k, **asked))

    def needs_features(self, request: RecommendRequest) -> bool:
        """Whether features of users are read for a request."""
        asked = self.retrievers.get(self.retriever_of(request))
        return asked is not None and not request.is_anonymous and (asked.needs_embeddings or asked.needs_tokens)

    def cost(self, request: RecommendRequest) -> int:
        """What a request costs, about, in the unit of `RecommendRequest.cost`: exact search reads every vector."""
        scanned = self.bundle.item_vectors.size // SCANNED if self.retriever_of(request) == "exact" else 0
        return request.cost + len(request.user_ids) * scanned

    def unknown_items(self, item_ids: Sequence[str]) -> list[str]:
        """Those of some ids that are no items of the catalogue, in their order."""
        rows = self.bundle.item_ids.rows(item_ids)
        return [item_id for item_id, row in zip(item_ids, rows.tolist(), strict=True) if not row]

    def answer(self, request: RecommendRequest, features: pa.Table | Unavailable | None = None) -> Recommendations:
        """Answers a request, as `rank` does, with items that have names.

        Args:
            request: What is asked.
            features: As for `rank`.

        Returns:
            Answers in the order asked.

        Raises:
            RequestError: Names the field that is wrong.
        """
        stages = _Stages()
        found = self._rank(request, features, stages)
        explained: Sequence[Sequence[Explanation] | None] = [None] * len(found.rows)
        if request.explain:
            lane = None if self.cold_lane is None or request.retriever else self.cold_lane.sparse
            explained = explanations(self.bundle, self.retrievers, found, lane=lane)
            stages.end("explanation")
        answers = [
            Answer(
                user_id,
                self._items(found.rows[user], found.scores[user], explained[user]),
                not bool(found.is_known[user]),
                FALLBACK if found.fell_back[user] else None,
                found.reasons(user),
            )
            for user, user_id in enumerate(request.user_ids)
        ]
        stages.end("answer")
        return Recommendations(self.bundle.version, found.retriever, answers, stages.microseconds)

    def rank(self, request: RecommendRequest, features: pa.Table | Unavailable | None = None) -> Ranked:
        """The lists that answer a request, as catalogue rows.

        Users without any past get popular items, and so do those for whom the retriever finds nothing. A list that is
        shorter than it could be is filled up with them. Without features from the store, those of the bundle are used.

        Args:
            request: What is asked.
            features: Of the users, if they were read before, or why they could not be; None reads them here.

        Returns:
            Lists in the order asked.

        Raises:
            RequestError: Names the field that is wrong.
        """
        return self._rank(request, features, _Stages())

    @property
    def has_weights(self) -> bool:
        """Whether a request may give the power of business weights."""
        about = self.bundle.manifest.facts.business_weight
        return about is not None and about.power != 0

    def retriever_of(self, request: RecommendRequest) -> str:
        """Name of the retriever that answers: where SparCode has no tables, the two towers do."""
        name = request.retriever or self.default_retriever
        return NO_TABLES if name == "sparcode" and name not in self.retrievers else name

    def _rank(self, request: RecommendRequest, features: pa.Table | Unavailable | None, stages: _Stages) -> Ranked:
        name, as_of_seconds = self.retriever_of(request), self._check(request)
        request = replace(request, exclude_known=self._excludes_known(request, name))
        eligible = self._eligible(request)
        stages.end("filters")
        user_ids = request.user_ids
        known_rows = self.bundle.encoder.user_ids.rows(user_ids)
        purchases = self.bundle.purchases.of(known_rows)
        moments = np.full(len(user_ids), as_of_seconds, np.int64)
        has_past = purchases.num_per_user > 0
        can_be_found: npt.NDArray[np.bool_] = np.ones(len(user_ids), np.bool_)
        stages.end("users")
        asked, embeddings, tokens = self.retrievers[name], None, None
        is_lost = np.full(len(user_ids), isinstance(features, Unavailable))
        if asked.needs_embeddings or asked.needs_tokens:
            read: pa.Table | Unavailable | None = None
            if not request.is_anonymous:
                read = self.read_users(list(user_ids)) if features is None else features
            raw, is_lost = context.complete(
                None if isinstance(read, Unavailable) else read,
                user_ids,
                purchases,
                self.bundle.encoder,
                as_of_seconds=self.as_of_seconds,
            )
            is_lost &= not request.is_anonymous
            raw = self._at_request(raw, request, as_of_seconds)
            has_past |= _num_events(raw) > 0
            stages.end("features")
            inputs = self.bundle.encoder.encode_users(raw, as_of_seconds=moments)
            stages.end("encoding")
            if asked.needs_embeddings:
                embeddings = self.bundle.user_tower.embed(inputs)
                # Numbers may be too large for a tower. No search sorts what is no number.
                can_be_found = np.logical_and.reduce(np.isfinite(embeddings), axis=1)
                embeddings = np.where(can_be_found[:, None], embeddings, np.float32(0))
                stages.end("user_tower")
            if asked.needs_tokens and self.bundle.sparcode is not None:
                tokens = self.bundle.sparcode.tokenizer.embed(inputs)
                stages.end("tokenizer")
            # Context and recent items are inputs of the tower alone.
            has_past |= bool(request.context) or len(self.unknown_items(request.recent_items)) < len(
                request.recent_items
            )
        scale = self._scale(request)
        users = UserQueries(purchases, moments, embeddings, bool(request.exclude_known), tokens, eligible, scale)
        missing: tuple[Reason, ...] = ("no_tables",) if request.retriever == "sparcode" != name else ()
        found = spread_lists(
            self.retrievers, users, name, k=request.k, can_be_found=has_past & can_be_found, spread=self.spread
        )
        if self.cold_lane is not None and request.retriever is None:
            rows, scores = self.cold_lane.fill(users, found.rows, found.scores)
            found = replace(found, rows=rows, scores=scores)
        stages.end("retrieval")
        return Ranked(
            name,
            users,
            found.rows,
            found.scores,
            found.depth,
            fell_back=found.fell_back,
            filled=found.filled,
            is_known=known_rows > 0,
            has_past=has_past,
            has_features=~is_lost,
            missing=missing,
        )

    def embed_user(self, user_id: str, features: pa.Table | None = None) -> npt.NDArray[np.float32] | None:
        """The vector that the user tower gives a user now: [D]; None where nothing is known of the user.

        Raises:
            LookupError: The online store has lost the user's features: without them, the vector would be another one.
        """
        raw = self.read_users([user_id]) if features is None else features
        rows = self.bundle.encoder.user_ids.rows([user_id])
        if rows[0] == 0 and _num_events(raw)[0] == 0:
            return None
        if context.lost(raw, self.bundle.purchases.of(rows)).any():
            raise LookupError("the online store has none of this user")
        moments = np.array([self.as_of_seconds], np.int64)
        inputs = self.bundle.encoder.encode_users(raw, as_of_seconds=moments)
        vector: npt.NDArray[np.float32] = self.bundle.user_tower.embed(inputs)[0]
        return vector

    def similar_items(
        self, item_id: str, *, k: int, allow: tuple[str, ...] | None = None, deny: tuple[str, ...] = ()
    ) -> list[RecommendedItem] | None:
        """Items whose vectors have the largest cosine with an item's, best first; None where there is no such item.

        Raises:
            RequestError: A category in `allow` is not there.
        """
        request = RecommendRequest((), allow_categories=allow, deny_categories=deny, exclude_items=(item_id,))
        eligible = self._eligible(request)
        row = int(self.bundle.item_ids.rows([item_id])[0]) - 1
        if row < 0:
            return None
        vector = np.array(self.bundle.vectors_of(np.array([row])))
        vector /= max(float(np.linalg.norm(vector)), 1e-12)
        towers = self.retrievers["two_tower"]
        no_history = self.bundle.purchases.of(np.zeros(1, np.int64))
        moments = np.array([self.as_of_seconds], np.int64)
        rows, scores = towers.retrieve(UserQueries(no_history, moments, vector, eligible=eligible), k)
        return self._items(rows[0], scores[0], None)

    def warm_up(self) -> None:
        """Asks every retriever once, so that the first real request does not pay for first calls.

        Raises:
            FeaturesLostError: The online store has lost the users' features; all else was asked.
        """
        for name in self.retrievers:
            self.recommend([WARM_UP_USER], k=1, retriever=name)
        if self.probes:
            self.read_users(list(self.probes))

    def _check(self, request: RecommendRequest) -> int:
        name = self.retriever_of(request)
        if not request.user_ids:
            raise RequestError("user_ids", "is empty; ask for at least one user")
        if request.k < 1:
            raise RequestError("k", f"is {request.k}, expected at least 1")
        if name not in self.retrievers:
            raise RequestError("retriever", f"is {name!r}, expected one of: {', '.join(self.retrievers)}")
        if request.recent_items and len(request.user_ids) > 1:
            raise RequestError("recent_items", f"are given for {len(request.user_ids)} users, expected one user")
        context_values.check_context(request.context, self.bundle.encoder)
        if request.weight_exponent is not None and not self.has_weights:
            raise RequestError(
                "weight_exponent", "is given, and this bundle has no business weights; configure index.weight"
            )
        as_of = request.as_of
        if as_of is None:
            return self.as_of_seconds
        if as_of.tzinfo is None:
            raise RequestError("as_of", f"is {as_of}, which has no time zone; expected such as {as_of}+00:00")
        return int(as_of.timestamp())

    def _excludes_known(self, request: RecommendRequest, name: str) -> bool:
        """Whether known items are kept out; of repeat purchases, asked for by name, nothing would be left."""
        if request.exclude_known is not None:
            return request.exclude_known
        return self.exclude_known and name != ONLY_KNOWN

    def _eligible(self, request: RecommendRequest) -> EligibleItems | None:
        """What may come."""
        names = list(request.exclude_items)
        if request.exclude_known:
            names += request.recent_items
        excluded: Items = NO_ITEMS
        if names:
            rows = self.bundle.item_ids.rows(names)
            excluded = rows[rows > 0] - 1
        try:
            return self.eligibility.of(allow=request.allow_categories, deny=request.deny_categories, exclude=excluded)
        except UnknownCategoryError as error:
            raise RequestError("allow_categories", f"names {error}") from None

    def _at_request(self, raw: pa.Table, request: RecommendRequest, as_of_seconds: int) -> pa.Table:
        """Features with the context and recent items of the request."""
        if request.context:
            raw = context_values.with_context(raw, request.context, self.bundle.encoder.schema)
        if request.recent_items:
            raw = context.with_recent(raw, request.recent_items, as_of_seconds=as_of_seconds)
        return raw

    def _scale(self, request: RecommendRequest) -> Scores | None:
        """[N] business weights to the power that is asked for; those of the index themselves where it is theirs."""
        about, weights = self.bundle.manifest.facts.business_weight, self.bundle.item_weights
        asked = request.weight_exponent
        if asked is None or about is None or weights is None:
            return None
        if asked == about.power:
            return weights
        return np.asarray(weights ** (asked / about.power), np.float32)

    def _items(self, rows: Rows, scores: Scores, explained: Sequence[Explanation] | None) -> list[RecommendedItem]:
        found = rows[rows >= 0]
        item_ids = self.bundle.item_ids.ids(found + 1)
        names, category_of = self.bundle.item_names, self.bundle.category_of
        items: list[RecommendedItem] = [
            {"item_id": item_id, "item_name": names[row], "category": category_of(row), "score": score}
            for item_id, row, score in zip(item_ids, found.tolist(), scores[: len(found)].tolist(), strict=True)
        ]
        for item, explanation in zip(items, explained or (), strict=False):
            item["explanation"] = explanation
        return items


@dataclass
class _KeptOut:
    """What no user gets now: withdrawn and denied items; the same array as long as nothing changes."""

    withdrawn: Items
    denied: DeniedItems | None
    _last: tuple[Items, Items] | None = field(default=None, init=False)

    def __call__(self) -> Items:
        if self.denied is None:
            return self.withdrawn
        rows, last = self.denied.rows(), self._last
        if last is None or last[0] is not rows:
            self._last = last = (rows, np.union1d(self.withdrawn, rows).astype(np.int32))
        return last[1]


def _num_events(raw: pa.Table) -> npt.NDArray[Any]:
    counts = raw.column("user_num_events")
    known: npt.NDArray[Any] = (counts.fill_null(0) if counts.null_count else counts).to_numpy()
    return known


class _Stages:
    """Adds up the time between the ends of stages."""

    def __init__(self) -> None:
        self.microseconds: dict[str, float] = {}
        self._last = time.perf_counter_ns()

    def end(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self.microseconds[stage] = (now - self._last) / 1000
        self._last = now
