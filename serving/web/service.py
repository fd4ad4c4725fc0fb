"""The service behind the routes: users to arms, features in time, lists, counts and exposures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from starlette.concurrency import run_in_threadpool

from serving.answers import Recommendations, RecommendRequest, RequestError
from serving.arms import Arm
from serving.exposures.files import Exposure
from serving.live import Live
from serving.recommender import Recommender, Unavailable
from serving.web.api import SimilarItemsBody, bad
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics

HISTORY_LENGTH = 100
# More users than these are answered in a thread, so that the others need not wait for them.
INLINE_USERS = 4


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
    """

    live: Live
    reads: FeatureReads
    metrics: Metrics
    exposures: Exposures | None = None
    clock: Callable[[], float] = time.time

    async def recommend(self, request: RecommendRequest) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Answers for all users of a request, in the order asked, and the time of each stage, microseconds.

        Raises:
            BadRequestError: Names the field that is wrong.
        """
        arms = self._arms(request)
        parts = list(dict.fromkeys(arms))
        if len(parts) == 1:
            return await self._of_arm(request, parts[0])
        results: list[dict[str, Any]] = [{}] * len(arms)
        stages: dict[str, float] = {}
        for arm in parts:
            places = [place for place, own in enumerate(arms) if own is arm]
            part = replace(request, user_ids=tuple(request.user_ids[place] for place in places))
            found, taken = await self._of_arm(part, arm)
            for place, result in zip(places, found, strict=True):
                results[place] = result
            for stage, value in taken.items():
                stages[stage] = stages.get(stage, 0.0) + value
        return results, stages

    def _arms(self, request: RecommendRequest) -> list[Arm]:
        arms = self.live.arms
        if request.arm is None:
            return arms.of(request.user_ids)
        return [arms.by_name[request.arm]] * len(request.user_ids)

    async def _of_arm(self, request: RecommendRequest, arm: Arm) -> tuple[list[dict[str, Any]], dict[str, float]]:
        recommender = self.live.of(arm)
        exponent = request.weight_exponent
        # A request that names what arms differ in does not show what its user's arm does.
        is_plain = request.retriever is None and request.arm is None and exponent is None
        of_arm = replace(
            request,
            retriever=request.retriever or arm.retriever,
            weight_exponent=arm.weight_exponent if exponent is None else exponent,
        )
        found, read_microseconds = await self._answer(recommender, of_arm)
        stages = {**found.stage_microseconds}
        if read_microseconds is not None:
            stages["features"] += read_microseconds
        self._count(found, arm, stages)
        if is_plain and self.exposures is not None:
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
                "user_id": answer.user_id,
                **head,
                "items": answer.items,
                "unknown_user": answer.unknown_user,
                "fallback": answer.fallback,
                "reasons": answer.reasons,
            }
            for answer in found.answers
        ], stages

    async def _answer(
        self, recommender: Recommender, request: RecommendRequest
    ) -> tuple[Recommendations, float | None]:
        features, taken = None, None
        if recommender.needs_features(request):
            begun = time.perf_counter_ns()
            features = await self.reads.read(recommender.read_users, list(request.user_ids))
            taken = (time.perf_counter_ns() - begun) / 1000
        try:
            if len(request.user_ids) <= INLINE_USERS:
                return recommender.answer(request, features), taken
            return await run_in_threadpool(recommender.answer, request, features), taken
        except RequestError as error:
            raise bad(422, error.field, error.message) from None

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
                "category": bundle.categories[own.indices[place]],
                "num_events": int(own.counts[place]),
                "last_seconds": int(own.last_seconds[place]),
            }
            for item_id, place in zip(ids, latest, strict=True)
        ]
        return {"bundle_version": bundle.version, "user_id": user_id, "items": items}

    async def ready(self) -> dict[str, Any]:
        """Which bundle answers with which features, and what is not as it should be."""
        live, current = self.live, self.live.current
        return {
            "ready": True,
            "bundle_version": current.bundle.version,
            "refused": None if live.refusal is None else asdict(live.refusal),
            "features": await self._look(),
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
        return await self.reads.look((one.read_users, one.probes) for one in self.live.answering)

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
            raise bad(503, "user_id", f"features cannot be read now: {features.why}")
        try:
            vector = await run_in_threadpool(recommender.embed_user, user_id, features)
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
