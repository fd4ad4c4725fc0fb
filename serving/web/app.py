"""The HTTP routes around a service, its pages, and the answers to malformed requests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from serving.answers import FIRST_ITEMS
from serving.bundles.manifest import Manifest
from serving.web.api import (
    MAX_BODY_BYTES,
    ArmsResponse,
    BadRequestError,
    EmbeddingResponse,
    ErrorResponse,
    FieldError,
    HistoryResponse,
    Limits,
    ReadyResponse,
    RecommendResponse,
    SimilarItemsResponse,
    as_id,
    bad,
)
from serving.web.guard import API_KEY, CHARGE, Guard, Protection, Rate, too_often
from serving.web.metrics import CONTENT_TYPE
from serving.web.new_items import AddItemsResponse
from serving.web.openapi import Document
from serving.web.search import SearchResponse
from serving.web.search import parse as parse_search
from serving.web.search import search as answer_search
from serving.web.service import Service

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/address.js": ("address.js", "text/javascript; charset=utf-8"),
    "/page/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/page/categories.js": ("categories.js", "text/javascript; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/page/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
"""Path -> file and type."""
_HEADERS = {
    # The last three do not fall back on default-src.
    "content-security-policy": ("default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Files of two versions of the product would not fit each other.
    "cache-control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Adds the page, that of the documentation, and what they load."""
    folder = files("serving.web") / "page"
    for path, (name, media_type) in _FILES.items():
        _add(app, path, (folder / name).read_bytes(), media_type)


def _add(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "the body is not JSON"},
    401: {"model": ErrorResponse, "description": "the key is missing or wrong, where the server asks for one"},
    408: {"model": ErrorResponse, "description": "the body did not arrive in time"},
    413: {"model": ErrorResponse, "description": f"the body has more than {MAX_BODY_BYTES} bytes"},
    421: {"model": ErrorResponse, "description": "not addressed to this machine, where the server asks for no key"},
    422: {"model": ErrorResponse, "description": "a field is wrong; the answer names it"},
    429: {"model": ErrorResponse, "description": "too many requests from this address, where the server has a limit"},
}
NO_INDEX: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorResponse, "description": "the bundle that answers has no sparse index"}
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "nothing of that id"}}
KEY_AND_RATE: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (401, 421, 429)}
OF_USER = KEY_AND_RATE | NOT_FOUND
NO_FEATURES: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "the online store does not answer, and nothing can replace it"}
}
ENDPOINTS = frozenset(
    {
        "/",
        "/docs",
        "/v1/recommend",
        "/v1/similar-items",
        "/v1/search",
        "/v1/bundle",
        "/v1/items",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
)


class _AnyText(Convertor[str]):
    """A part of a path with slashes and line ends, as ids may have: starlette's own have one of the two at most."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())
Route = Callable[..., Awaitable[Response]]


def create_app(
    service: Service,
    *,
    max_k: int,
    protection: Protection | None = None,
    watch: Callable[[], object] | None = None,
) -> ASGIApp:
    """The HTTP application around a service.

    Args:
        service: Answers.
        max_k: Largest k that a request may ask for.
        protection: Limits; None has those of `Protection()`.
        watch: Called at the start, begins to follow what is published; None has the service's own bundles do so.

    Returns:
        An ASGI application; while it runs, it follows what is published.
    """
    live = service.live
    guarded = protection or Protection()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        (watch or live.watch)()
        yield
        live.close()
        service.reads.close()
        if service.exposures is not None:
            await run_in_threadpool(service.exposures.close)

    # FastAPI's own pages of the documentation load scripts from the network.
    app = FastAPI(
        title="twinspire",
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route},
        docs_url=None,
        redoc_url=None,
    )
    names = list(dict.fromkeys([*live.current.retrievers, "sparcode"]))
    limits = Limits(max_k=max_k, retrievers=names, arms=list(live.arms.by_name), max_items=guarded.max_items)
    _add_recommendations(app, service, limits, body_seconds=guarded.body_seconds)
    _add_users(app, service)
    _add_items(app, service, guarded)
    _add_state(app, service)
    add_page(app)
    document = Document(app, limits, needs_key=guarded.api_key is not None)
    app.openapi = lambda: document.of(live.recommenders)  # type: ignore[method-assign]
    rate = None if guarded.requests_per_second is None else Rate(guarded.requests_per_second)
    guard = Guard(app, service.metrics, guarded.api_key, rate, ENDPOINTS, guarded.any_host)
    proxies = list(guarded.trusted_proxies)
    return ProxyHeadersMiddleware(guard, proxies) if proxies else guard  # type: ignore[arg-type, return-value]


def _add_recommendations(app: FastAPI, service: Service, limits: Limits, *, body_seconds: float) -> None:
    """Adds the routes with a body: recommendations, similar items and typed search."""

    # Routes read and write bytes themselves: FastAPI's own validation of answers costs more than the answer.
    @app.post(
        "/v1/recommend",
        response_model=RecommendResponse,
        responses=ERRORS,
    )
    @_errors
    async def recommend(request: Request) -> Response:
        """Candidates for one user or several."""
        body, user_ids = limits.parse(await _within(body_seconds, _read_body(request)))
        asked = body.to_request(user_ids)
        _charge(request, asked.cost)
        results, stages = await service.recommend(asked, request.is_disconnected)
        content: dict[str, Any] = {"results": results}
        if asked.recent_items:
            content["unknown_recent_items"] = service.unknown_items(asked)
        if body.timings:
            content["stage_microseconds"] = stages
        return _json(content)

    @app.post(
        "/v1/similar-items",
        response_model=SimilarItemsResponse,
        responses=ERRORS | NOT_FOUND,
    )
    @_errors
    async def similar_items(request: Request) -> Response:
        """Items whose vectors are nearest to an item's."""
        asked = limits.parse_similar(await _within(body_seconds, _read_body(request)))
        _charge(request, asked.k)
        return _json(await run_in_threadpool(service.similar, asked))

    @app.post("/v1/search", response_model=SearchResponse, responses=ERRORS | NO_INDEX)
    @_errors
    async def search(request: Request) -> Response:
        """Items that have typed words, for a user or for all."""
        asked = parse_search(limits, await _within(body_seconds, _read_body(request)))
        _charge(request, asked.to_request().cost)
        return _json(await answer_search(service, asked))


def _add_users(app: FastAPI, service: Service) -> None:
    """Adds the routes of one user: vector and history."""

    @app.get(
        "/v1/users/{user_id:any_text}/embedding", response_model=EmbeddingResponse, responses=OF_USER | NO_FEATURES
    )
    @_errors
    async def embedding(user_id: str) -> Response:
        """The vector of a user, as the index is asked with it."""
        return _json(await service.embedding(str(as_id(user_id))))

    @app.get("/v1/users/{user_id:any_text}/history", response_model=HistoryResponse, responses=OF_USER)
    @_errors
    async def history(user_id: str) -> Response:
        """What a user has bought, the latest first, as the bundle knows it."""
        return _json(service.history(str(as_id(user_id))))


def _add_items(app: FastAPI, service: Service, protection: Protection) -> None:
    """Adds the route by which items come between two nights."""

    @app.post("/v1/items", response_model=AddItemsResponse, responses=ERRORS)
    @_errors
    async def add(request: Request) -> Response:
        """Offers new items within seconds; the next night reads them from the items table."""
        if protection.api_key is None or service.add_items is None:
            raise bad(401, "path", f"POST /v1/items needs a server with a key; set {API_KEY} and start it again")
        body = await _within(protection.body_seconds, _read_body(request))
        return _json(await run_in_threadpool(service.add_items, body))


def _add_state(app: FastAPI, service: Service) -> None:
    """Adds what operators look at: bundle, arms, health and metrics."""
    live = service.live

    @app.get("/v1/bundle", response_model=Manifest, responses=KEY_AND_RATE)
    async def bundle() -> Response:
        """Manifest of the bundle that answers."""
        return Response(live.current.bundle.manifest.model_dump_json(), media_type="application/json")

    @app.get("/v1/arms", response_model=ArmsResponse, responses=KEY_AND_RATE)
    async def arms() -> Response:
        """Arms, their shares, bundles and retrievers."""
        default = live.current.default_retriever
        found = [
            {
                **dataclasses.asdict(arm),
                "bundle": live.of(arm).bundle.version,
                "retriever": arm.retriever or default,
            }
            for arm in live.arms.arms
        ]
        return _json({"arms": found})

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """Whether the process is alive."""
        return {"alive": True}

    @app.get("/readyz", response_model=ReadyResponse)
    async def readyz() -> Response:
        """Whether requests are answered, from which bundle and features, and why a newer one is not live."""
        return _json(await service.ready())

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counts and times, for Prometheus."""
        return Response(await service.metrics_text(), media_type=CONTENT_TYPE)


async def _no_route(request: Request, error: Exception) -> Response:
    """What the router refuses, in the form of all other errors."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
    answer = _json({"errors": [{"field": "path", "message": message}]}, status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _errors(route: Route) -> Route:
    @wraps(route)
    async def answered(*args: Any, **kwargs: Any) -> Response:
        try:
            return await route(*args, **kwargs)
        except BadRequestError as error:
            answer = _json({"errors": [dict(issue) for issue in error.errors]}, status=error.status)
            answer.headers.update(error.headers or {})
            return answer
        except ClientDisconnect:
            # The client is gone.
            return Response(status_code=400)

    return answered


async def _read_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            message = f"has more than {MAX_BODY_BYTES} bytes; ask for fewer users at a time"
            raise BadRequestError(413, FieldError(field="body", message=message))
    return b"".join(parts)


def _charge(request: Request, cost: int) -> None:
    """Takes what a request costs from the allowance of its address; the first list of up to 100 items is paid for.

    Raises:
        BadRequestError: The address owes for others (429).
    """
    seconds = request.scope[CHARGE](cost / FIRST_ITEMS - 1)
    if seconds is not None:
        error = FieldError(field="body", message=too_often(seconds))
        raise BadRequestError(429, error, headers={"retry-after": str(seconds)})


def _json(content: Any, *, status: int = 200) -> Response:
    data = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, status_code=status, media_type="application/json")


async def _within(seconds: float, reading: Any) -> Any:
    """Waits for a body to arrive.

    Raises:
        BadRequestError: It takes longer (408).
    """
    try:
        # Without a task of its own, as `wait_for` would make before Python 3.12.
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        message = f"did not arrive within {seconds:g} seconds"
        raise BadRequestError(408, FieldError(field="body", message=message)) from None
