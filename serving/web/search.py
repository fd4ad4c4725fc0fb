"""The route of typed search: its body and answer, and who answers it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from features.ids import MAX_LENGTH
from serving.answers import RequestError
from serving.search import NO_INDEX, SearchRequest
from serving.web.api import Asked, Id, Ids, ItemResponse, Limits, Names, Whole, bad, read_body_as
from serving.web.service import Service

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH)]


class SearchBody(Asked):
    """Body of `POST /v1/search`."""

    query: Text
    """What was typed; the last word may be unfinished if nothing follows it."""
    user_id: Id | None = None
    """For whom the two towers re-order what is found."""
    k: Whole = 10
    """How many items come; fewer only where not more have any of the words."""
    allow_categories: Names | None = None
    """Categories of which alone items come."""
    deny_categories: Names = ()
    """Categories of which no item comes."""
    exclude_items: Ids = ()
    """Ids of items that do not come."""
    explain: bool = False
    """Whether each item comes with the words that match, and similar items of the user's history."""
    timings: bool = False
    """Whether the answer has the time of each stage."""

    def to_request(self) -> SearchRequest:
        """What the recommender is asked."""
        return SearchRequest(**self.model_dump(exclude={"timings"}))


class SearchResponse(BaseModel):
    """What has the typed words, best first."""

    bundle_version: str
    query: str
    corrected: dict[str, str]
    user_id: str | None
    items: list[ItemResponse]
    reasons: list[str]
    stage_microseconds: dict[str, float] | None = None


def parse(limits: Limits, body: bytes) -> SearchBody:
    """Reads the body of a search.

    Raises:
        BadRequestError: Names the field that is wrong, with status 400 (no JSON) or 422.
    """
    asked = limits.with_k(read_body_as(SearchBody, body))
    largest = limits.largest_k(1, explain=asked.explain)
    if not 1 <= asked.k <= largest:
        raise bad(422, "k", f"is {asked.k}, expected 1 to {largest}")
    return asked


async def search(service: Service, asked: SearchBody) -> dict[str, Any]:
    """Answers a search by the published bundle; no exposure is logged.

    Raises:
        BadRequestError: A category is not there, or the bundle has no sparse index (409).
    """
    recommender, request = service.live.current, asked.to_request()
    if recommender.typed_words is None:
        raise bad(409, "query", NO_INDEX)
    features, taken = None, 0.0
    if request.user_id is not None:
        features, taken = await service.features_of(recommender, request.of_user)
    try:
        # A few milliseconds, for which requests that cost less need not wait.
        async with service.costly:
            found = await asyncio.to_thread(recommender.answer_search, request, features)
    except RequestError as error:
        raise bad(422, error.field, error.message) from None
    if taken:
        found.stage_microseconds["features"] += taken
    service.metrics.stages(found.stage_microseconds)
    content = {
        "bundle_version": found.bundle_version,
        "query": asked.query,
        "corrected": found.corrected,
        "user_id": asked.user_id,
        "items": found.items,
        "reasons": found.reasons,
    }
    return content | ({"stage_microseconds": found.stage_microseconds} if asked.timings else {})
