"""The service behind the routes: users to arms, features in time, lists, counts and exposures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from starlette.requests import ClientDisconnect

from serving.answers import Recommendations, RecommendRequest, RequestError
from serving.asked import Unavailable
from serving.exposures.files import Exposure
from serving.live import Live
from serving.web.api import SimilarItemsBody, bad, without_paths
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.arms import Arm
    from serving.recommender import Recommender

HISTORY_LENGTH = 100
# Items of plain lists. A request that costs more is answered in a thread, so that the others need not wait for it, and
# in parts of about that cost, between which it ends if its client has gone.
INLINE_COST, PART_COST = 1_000, 5_000
NUM_COSTLY = 2
"""Parts of costly requests that are answered at the same time; the others wait in the order in which they came."""
IsGone = Callable[[], Awaitable[bool]]


class Exposures(Protocol):
    """Where exposures go."""

    def add(self, exposures: Sequence[Exposure]) -> None:
        """Takes them; never waits."""
        ...

    def close(self) -> None:
        """Sees to it that what was taken is written."""
        ...


@dataclass(frozen=True)
class Service:
    """Everything that answers requests need.

    Attributes:
        live: Bundles and arms.
        reads: How features are read.
        metrics: What is counted.
        exposures: Where lists are logged; None logs none.
        clock: Unix seconds, for exposures.
        add_items: Adds the items of a body; None where there is no file of them.
        costly: Held while a part of a costly request is answered.
    """

    live: Live
    reads: FeatureReads
    metrics: Metrics
    exposures: Exposures | None = None
    clock: Callable[[], float] = time.time
    add_items: Callable[[bytes], dict[str, Any]] | None = None
    costly: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(NUM_COSTLY))

    async def recommend(
        self, request: RecommendRequest, is_gone: IsGone
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Answers for all users of a request, in the order asked, and the time of each stage, microseconds.

        Args:
            request: What is asked.
            is_gone: Whether the client no longer waits; asked between the parts of a costly request.

        Raises:
            BadRequestError: Names the field that is wrong.
            ClientDisconnect: The client has gone.
        """
        arms = self._arms(request)
        parts = list(dict.fromkeys(arms))
        if len(parts) == 1:
            return await self._of_arm(request, parts[0], is_gone)
        results: list[dict[str, Any]] = [{}] * len(arms)
        stages: dict[str, float] = {}
        for arm in parts:
            places = [place for place, own in enumerate(arms) if own is arm]
            part = replace(request, user_ids=tuple(request.user_ids[place] for place in places))
            found, taken = await self._of_arm(part, arm, is_gone)
            for place, result in zip(places, found, strict=True):
                results[place] = result
            for stage, value in taken.items():
                stages[stage] = stages.get(stage, 0.0) + value
        return results, stages

    def unknown_items(self, request: RecommendRequest) -> list[str]:
        """Recent items of a request that are none of the bundle that answers."""
        return self.live.of(self._arms(request)[0]).unknown_items(request.recent_items)

    def _arms(self, request: RecommendRequest) -> list[Arm]:
        arms = self.live.arms
        if request.arm is None:
            # Nobody who could be assigned: as most users, by the first arm.
            return [arms.arms[0]] if request.is_anonymous else arms.of(request.user_ids)
        return [arms.by_name[request.arm]] * len(request.user_ids)

    async def _of_arm(
        self, request: RecommendRequest, arm: Arm, is_gone: IsGone
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        recommender = self.live.of(arm)
        exponent = request.weight_exponent
        # A request that names what arms differ in does not show what its user's arm does.
        is_plain = request.retriever is None and request.arm is None and exponent is None
        of_arm = replace(
            request,
            retriever=request.retriever or arm.retriever,
            weight_exponent=arm.weight_exponent if exponent is None else exponent,
        )
        found = await self._answer(recommender, of_arm, is_gone)
        stages = found.stage_microseconds
        self._count(found, arm, stages)
        if is_plain and self.exposures is not None and not request.is_anonymous:
            moment = self.clock()
            self.exposures.add(
                [
                    Exposure(
                        moment=moment,
                        user_id=answer.user_id,
                        arm=arm.name,
                        bundle_version=found.bundle_version,
                        retriever=found.retriever,
                        k=request.k,
                        reasons=answer.reasons,
                        item_ids=[item["item_id"] for item in answer.items],
                    )
                    for answer in found.answers
                ]
            )
        head = {"arm": arm.name, "bundle_version": found.bundle_version, "retriever": found.retriever}
        return [
            {
                "user_id": answer.user_id or None,
                **head,
                "items": answer.items,
                "unknown_user": answer.unknown_user,
                "fallback": answer.fallback,
                "reasons": answer.reasons,
            }
            for answer in found.answers
        ], stages

    async def _answer(self, recommender: Recommender, request: RecommendRequest, is_gone: IsGone) -> Recommendations:
        try:
            cost = recommender.cost(request)
            if cost <= INLINE_COST:
                features, taken = await self.features_of(recommender, request)
                return _with_read(recommender.answer(request, features), taken)
            user_ids, parts = request.user_ids, []
            size = max(1, PART_COST * len(user_ids) // cost)
            for begin in range(0, len(user_ids), size):
                part = replace(request, user_ids=user_ids[begin : begin + size])
                async with self.costly:
                    if await is_gone():
                        raise ClientDisconnect
                    features, taken = await self.features_of(recommender, part)
                    parts.append(_with_read(await asyncio.to_thread(recommender.answer, part, features), taken))
        except RequestError as error:
            raise bad(422, error.field, error.message) from None
        return _as_one(parts)

    async def features_of(
        self, recommender: Recommender, request: RecommendRequest
    ) -> tuple[pa.Table | Unavailable | None, float]:
        """Features of users where a request needs them, and the microseconds that it took to read them."""
        if not recommender.needs_features(request):
            return None, 0.0
        begun = time.perf_counter_ns()
        features = await self.reads.read(recommender.read_users, list(request.user_ids))
        return features, (time.perf_counter_ns() - begun) / 1000

    def similar(self, asked: SimilarItemsBody) -> dict[str, Any]:
        """Items like one.

        Raises:
            BadRequestError: There is no such item (404), or a category is not there.
        """
        recommender = self.live.current
        try:
            items = recommender.similar_items(
                asked.item_id, k=asked.k, allow=asked.allow_categories, deny=asked.deny_categories
            )
        except RequestError as error:
            raise bad(422, error.field, error.message) from None
        if items is None:
            raise bad(404, "item_id", f"{asked.item_id!r} is not in the catalogue")
        return {"bundle_version": recommender.bundle.version, "item_id": asked.item_id, "items": items}

    def history(self, user_id: str) -> dict[str, Any]:
        """What a user has bought, the latest first.

        Raises:
            BadRequestError: There is no such user (404).
        """
        bundle = self.live.current.bundle
        row = bundle.encoder.user_ids.rows([user_id])
        if not row[0]:
            raise bad(404, "user_id", f"{user_id!r} is not known")
        own = bundle.purchases.of(row)
        latest = np.argsort(-own.last_seconds, kind="stable")[:HISTORY_LENGTH]
        ids = bundle.encoder.item_ids.ids(own.indices[latest].astype(np.int64) + 1)
        items = [
            {
                "item_id": item_id,
                "item_name": bundle.item_names[own.indices[place]],
                "category": bundle.category_of(own.indices[place]),
                "num_events": int(own.counts[place]),
                "last_seconds": int(own.last_seconds[place]),
            }
            for item_id, place in zip(ids, latest, strict=True)
        ]
        return {"bundle_version": bundle.version, "user_id": user_id, "items": items}

    async def ready(self) -> dict[str, Any]:
        """Which bundle answers with which features, and what is not as it should be."""
        refusal, current = self.live.refusal, self.live.current
        refused = None if refusal is None else {**asdict(refusal), "reason": without_paths(refusal.reason)}
        return {
            "ready": True,
            "bundle_version": current.bundle.version,
            "refused": refused,
            "features": without_paths(await self._look()),
            "features_version": current.bundle.manifest.facts.features_version,
            "features_age_seconds": self.clock() - current.as_of_seconds,
            "deny_list": self._deny_list,
        }

    async def metrics_text(self) -> bytes:
        """All that is counted, in Prometheus's format."""
        live, metrics = self.live, self.metrics
        metrics.refused.set(live.refusal is not None)
        metrics.swaps.set(live.num_swaps)
        metrics.features_missing.set(await self._look() != "ok")
        metrics.features_moment.set(live.current.as_of_seconds)
        metrics.deny_list_unreadable.set(self._deny_list != "ok")
        return metrics.text()

    async def _look(self) -> str:
        """`ok`, or why users are answered without features."""
        return await self.reads.look((one.read_users, one.probes) for one in self.live.recommenders)

    @property
    def _deny_list(self) -> str:
        problem = None if self.live.denied is None else self.live.denied.problem
        return "ok" if problem is None else f"{problem}; what was denied before stays denied"

    async def embedding(self, user_id: str) -> dict[str, Any]:
        """A user's vector now.

        Raises:
            BadRequestError: Nothing is known of the user (404), or the online store does not answer or has lost the
                user's features (503): a vector without features would be another one.
        """
        recommender = self.live.current
        features = await self.reads.read(recommender.read_users, [user_id])
        if isinstance(features, Unavailable):
            raise bad(503, "user_id", f"features cannot be read now: {without_paths(features.why)}")
        try:
            vector = await asyncio.to_thread(recommender.embed_user, user_id, features)
        except LookupError as error:
            raise bad(503, "user_id", f"features cannot be read now: {error}") from None
        if vector is None:
            raise bad(404, "user_id", f"{user_id!r} is not known")
        return {
            "bundle_version": recommender.bundle.version,
            "user_id": user_id,
            "embedding": vector,
        }

    def _count(self, found: Recommendations, arm: Arm, stages: dict[str, float]) -> None:
        metrics = self.metrics
        metrics.stages(stages)
        metrics.lists.labels(arm.name, found.bundle_version, found.retriever).inc(len(found.answers))
        metrics.items.inc(sum(len(answer.items) for answer in found.answers))
        for answer in found.answers:
            for reason in answer.reasons:
                metrics.reasons.labels(reason).inc()


def _with_read(found: Recommendations, microseconds: float) -> Recommendations:
    if microseconds:
        found.stage_microseconds["features"] += microseconds
    return found


def _as_one(parts: Sequence[Recommendations]) -> Recommendations:
    """The parts of a request, all of one bundle."""
    first, *others = parts
    for part in others:
        first.answers.extend(part.answers)
        for stage, taken in part.stage_microseconds.items():
            first.stage_microseconds[stage] += taken
    return first
