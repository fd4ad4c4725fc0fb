"""How is the recommender asked over HTTP?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from serving.api import (
    MAX_BODY_BYTES,
    BadRequestError,
    ErrorResponse,
    FieldError,
    Limits,
    RecommendRequest,
    RecommendResponse,
)
from serving.recommender import Recommender

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "the body is not JSON"},
    413: {"model": ErrorResponse, "description": f"the body has more than {MAX_BODY_BYTES} bytes"},
    422: {"model": ErrorResponse, "description": "a field is wrong; the answer names it"},
}


def create_app(recommender: Recommender, *, max_k: int) -> FastAPI:
    """The HTTP application around a recommender.

    Args:
        recommender: Answers.
        max_k: Largest k that a request may ask for.

    Returns:
        An ASGI application; it asks the recommender once before it is ready.
    """
    limits = Limits(max_k=max_k, retrievers=recommender.retrievers.keys())
    manifest = recommender.bundle.manifest.model_dump_json().encode()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(recommender.warm_up)
        yield

    app = FastAPI(title="twinspire", lifespan=lifespan)
    body_schema = {"required": True, "content": {"application/json": {"schema": limits.request_schema()}}}

    # Routes read and write bytes themselves: FastAPI's own validation of answers costs more than the answer.
    @app.post(
        "/v1/recommend",
        response_model=RecommendResponse,
        responses=ERRORS,
        openapi_extra={"requestBody": body_schema},
    )
    async def recommend(request: Request) -> Response:
        """Candidates for one user or several."""
        try:
            user_ids, asked = limits.parse(await _read_body(request))
        except BadRequestError as error:
            errors = [dict(issue) for issue in error.errors]
            return _json(orjson.dumps({"errors": errors}), status=error.status)
        # A thread costs about .1 ms, but a slow feature store then stops neither the health checks nor the draining.
        return _json(await run_in_threadpool(_answer, recommender, user_ids, asked))

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """Whether the process is alive."""
        return {"alive": True}

    @app.get("/readyz")
    async def readyz() -> dict[str, bool | str]:
        """Whether requests are answered, and from which bundle."""
        return {"ready": True, "bundle_version": recommender.bundle.version}

    @app.get("/v1/bundle")
    async def bundle() -> Response:
        """Manifest of the bundle that answers."""
        return _json(manifest)

    return app


def _answer(recommender: Recommender, user_ids: list[str], asked: RecommendRequest) -> bytes:
    found = recommender.recommend(user_ids, k=asked.k, retriever=asked.retriever, exclude_known=asked.exclude_bought)
    content: dict[str, Any] = {
        "bundle_version": found.bundle_version,
        "retriever": found.retriever,
        "results": found.answers,
    }
    if asked.timings:
        content["stage_microseconds"] = found.stage_microseconds
    return orjson.dumps(content)


async def _read_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            message = f"has more than {MAX_BODY_BYTES} bytes; ask for fewer users at a time"
            raise BadRequestError(413, FieldError(field="body", message=message))
    return body


def _json(content: bytes, *, status: int = 200) -> Response:
    return Response(content, status_code=status, media_type="application/json")
