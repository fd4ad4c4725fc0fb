"""The recommender: from user ids to named items, stage by stage.

B users of a request, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving import context, context_values, explanations
from serving.answers import (
    Answer,
    Explanation,
    Ranked,
    Reason,
    Recommendations,
    RecommendedItem,
    RecommendRequest,
    RequestError,
)
from serving.asked import ReadUsers, Stages, Unavailable, asked_of, moment_of, num_events
from serving.bundles.bundle import Bundle
from serving.retrieval.eligible import (
    NO_ITEMS,
    DeniedItems,
    Eligibility,
    EligibleItems,
    Items,
    KeptOut,
    UnknownCategoryError,
)
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import FALLBACK, Retriever, UserQueries
from serving.retrieval.spread import Spread, spread_lists
from serving.search import NO_INDEX, SearchAnswer, SearchRequest, explain
from serving.served import FUSED, SECOND_LOOK
from serving.sparse.typed import ByWords, TypedWords

if TYPE_CHECKING:
    from serving.sparse.hybrid import ColdLane

ONLY_KNOWN = "repeat"
"""Retriever that finds nothing but known items."""
NO_TABLES = "two_tower"
"""Retriever that answers where SparCode is asked for and the bundle has no tables."""
WARM_UP_USER = "(warm-up)"
SCANNED = 10_000
"""Numbers of vectors that exact search reads in the time of one item of a plain list."""


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
        second_look_ms: What a request may have taken when candidates are ranked again, in milliseconds; None sets no
            limit.

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
        second_look_ms: float | None = None,
    ) -> None:
        """Checks the names."""
        for name in (default_retriever, FALLBACK):
            if name not in retrievers:
                raise ValueError(f"retriever {name!r} is not there; expected one of: {', '.join(retrievers)}")
        self.bundle = bundle
        self.retrievers = dict(retrievers)
        self.default_retriever, self.exclude_known = default_retriever, exclude_known
        self.read_users, self.spread, self.cold_lane = read_users, spread, cold_lane
        self.second_look_ms = second_look_ms
        self.probes = context.probes(bundle.purchases, bundle.encoder.user_ids)
        """A few users whose features must be there."""
        num_added = 0 if bundle.added is None else len(bundle.added.vectors)
        self.eligibility = Eligibility(bundle.categories, KeptOut(bundle.withdrawn, denied), num_added=num_added)
        self.as_of_seconds = moment_of(bundle)
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
        stages = Stages()
        found = self._rank(request, features, stages)
        explained: Sequence[Sequence[Explanation] | None] = [None] * len(found.rows)
        if request.explain:
            lane = None if self.cold_lane is None or request.retriever else self.cold_lane.sparse
            explained = explanations.of_lists(self.bundle, self.retrievers, found, lane=lane)
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
        return self._rank(request, features, Stages())

    @property
    def has_weights(self) -> bool:
        """Whether a request may give the power of business weights."""
        about = self.bundle.manifest.facts.business_weight
        return about is not None and about.power != 0

    def retriever_of(self, request: RecommendRequest) -> str:
        """Name of the retriever that answers: where SparCode has no tables, the two towers do."""
        name = request.retriever or self.default_retriever
        return NO_TABLES if name == "sparcode" and name not in self.retrievers else name

    def _rank(self, request: RecommendRequest, features: pa.Table | Unavailable | None, stages: Stages) -> Ranked:
        name, as_of_seconds = self.retriever_of(request), self._check(request)
        request = replace(request, exclude_known=self._excludes_known(request, name))
        eligible = self._eligible(request)
        stages.end("filters")
        asked = asked_of(
            self.bundle,
            self.read_users,
            request,
            self.retrievers[name],
            eligible=eligible,
            scale=self._scale(request),
            features=features,
            as_of_seconds=as_of_seconds,
            stages=stages,
        )
        missing: tuple[Reason, ...] = ("no_tables",) if request.retriever == "sparcode" != name else ()
        if name == SECOND_LOOK and self.second_look_ms is not None and stages.total_ms > self.second_look_ms:
            name, missing = FUSED, (*missing, "late")
        found = spread_lists(
            self.retrievers, asked.users, name, k=request.k, can_be_found=asked.can_be_found, spread=self.spread
        )
        if self.cold_lane is not None and request.retriever is None:
            rows, scores = self.cold_lane.fill(asked.users, found.rows, found.scores)
            found = replace(found, rows=rows, scores=scores)
        stages.end("retrieval")
        return Ranked(
            name,
            asked.users,
            found.rows,
            found.scores,
            found.depth,
            fell_back=found.fell_back,
            filled=found.filled,
            is_known=asked.is_known,
            has_past=asked.has_past,
            has_features=asked.has_features,
            missing=missing,
        )

    def search(self, query: str, *, k: int = 10, **asked: Any) -> SearchAnswer:
        """The best k items that have typed words; see `answer_search`.

        Args:
            query: What was typed.
            k: Length of the list, at least 1.
            asked: Further fields of `SearchRequest`.

        Raises:
            RequestError: Names the field that is wrong.
        """
        return self.answer_search(SearchRequest(query, k, **asked))

    def answer_search(self, request: SearchRequest, features: pa.Table | Unavailable | None = None) -> SearchAnswer:
        """Answers a search: items by words, those whose words fit about equally well in the order of the user's towers.

        Args:
            request: What is asked.
            features: Of the user, as for `rank`.

        Raises:
            RequestError: Names the field that is wrong; `query` where the bundle has no sparse index.
        """
        if self.typed_words is None:
            raise RequestError("query", NO_INDEX)
        stages, of_user = Stages(), request.of_user
        as_of_seconds, eligible = self._check(of_user), self._eligible(of_user)
        stages.end("filters")
        towers = None if request.user_id is None else self.retrievers[NO_TABLES]
        by_words = ByWords(self.typed_words, self.typed_words.understand(request.query), towers)
        stages.end("words")
        asked = asked_of(
            self.bundle,
            self.read_users,
            of_user,
            by_words,
            eligible=eligible,
            scale=None,
            features=features,
            as_of_seconds=as_of_seconds,
            stages=stages,
        )
        if not asked.can_be_found[0]:
            by_words = replace(by_words, towers=None)
        # What is popular is not what was typed: a list by this name is never filled up.
        own = {FALLBACK: by_words}
        lists = spread_lists(
            own, asked.users, FALLBACK, k=request.k, can_be_found=asked.can_be_found, spread=self.spread
        )
        rows = lists.rows[0][lists.rows[0] >= 0]
        stages.end("retrieval")
        explained = explain(self.bundle, by_words, asked.users, rows) if request.explain else None
        items = self._items(rows, lists.scores[0], explained)
        stages.end("answer")
        reasons: list[Reason] = [] if items else ["nothing_found"]
        if request.user_id is not None:
            reasons = [*asked.reasons(0), *reasons]
        corrected = by_words.understood.corrected
        return SearchAnswer(self.bundle.version, corrected, items, tuple(reasons), stages.microseconds)

    @cached_property
    def typed_words(self) -> TypedWords | None:
        """What understands typed words; None where the bundle has no sparse index."""
        index = self.bundle.typed_index
        return None if index is None else TypedWords(index, self.bundle.item_names)

    def embed_user(self, user_id: str, features: pa.Table | None = None) -> npt.NDArray[np.float32] | None:
        """The vector that the user tower gives a user now: [D]; None where nothing is known of the user.

        Raises:
            LookupError: The online store has lost the user's features: without them, the vector would be another one.
        """
        raw = self.read_users([user_id]) if features is None else features
        rows = self.bundle.encoder.user_ids.rows([user_id])
        if rows[0] == 0 and num_events(raw)[0] == 0:
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
        if self.typed_words is not None:
            self.typed_words.prepare()
            self.search(WARM_UP_USER, k=1)
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
