"""The HTTP routes around a service, its page, the check of keys and rates, and the answers to malformed requests."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
)
from serving.web.metrics import CONTENT_TYPE, Metrics
from serving.web.service import Service

# Clients whose allowance is kept; the one that was quiet longest goes first.
KEPT_CLIENTS = 10_000
PROTECTED = "/v1/"


class Rate:
    """Requests a second that each client may make, and as many at once.

    Args:
        per_second: Allowance.
        clock: Monotonic seconds; given only by tests.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Every client starts with the allowance of one second."""
        self._per_second, self._clock = per_second, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def takes(self, client: str) -> bool:
        """Whether one more request of a client is within its allowance."""
        now = self._clock()
        most = max(self._per_second, 1.0)
        left, since = self._left.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        if len(self._left) > KEPT_CLIENTS:
            self._left.popitem(last=False)
        return allowed


@dataclass(frozen=True)
class Guard:
    """Middleware: refuses what has no key or comes too often, counts and times the rest.

    Attributes:
        app: What is guarded.
        metrics: Where it is counted.
        api_key: What `Authorization: Bearer` or `X-API-Key` must hold on the paths below /v1/; None asks for none.
        rate: How often a client may ask below /v1/; None sets no limit.
        endpoints: Paths that are counted by name; others are counted together, so that clients cannot add names.
    """

    app: ASGIApp
    metrics: Metrics
    api_key: str | None
    rate: Rate | None
    endpoints: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, or answers 401 or 429."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        endpoint = path if path in self.endpoints else _named(path)
        begun = time.perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refusal(scope) if path.startswith(PROTECTED) else None
            if refused is None:
                await self.app(scope, receive, counted)
            else:
                await _answer(counted, *refused)
        finally:
            self.metrics.requests.labels(endpoint, str(status)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        if self.api_key is not None:
            headers = dict(scope["headers"])
            bearer = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            given = headers.get(b"x-api-key", bearer)
            if not hmac.compare_digest(given, self.api_key.encode()):
                return 401, "X-API-Key", "missing or wrong; send the server's key in this header, or as a bearer token"
        client = scope["client"][0] if scope.get("client") else ""
        if self.rate is not None and not self.rate.takes(client):
            return 429, "body", "too many requests from this address; wait a second"
        return None


def _named(path: str) -> str:
    last = path.rpartition("/")[2]
    is_of_user = path.startswith("/v1/users/") and last in ("embedding", "history")
    return f"/v1/users/{{user_id}}/{last}" if is_of_user else "other"


async def _answer(send: Send, status: int, field: str, message: str) -> None:
    body = orjson.dumps({"errors": [{"field": field, "message": message}]})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/address.js": ("address.js", "text/javascript; charset=utf-8"),
    "/page/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/page/categories.js": ("categories.js", "text/javascript; charset=utf-8"),
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
    """Adds the page and what it loads."""
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
    422: {"model": ErrorResponse, "description": "a field is wrong; the answer names it"},
    429: {"model": ErrorResponse, "description": "too many requests from this address, where the server has a limit"},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "nothing of that id"}}
KEY_AND_RATE: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (401, 429)}
OF_USER = KEY_AND_RATE | NOT_FOUND
NO_FEATURES: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "the online store does not answer, and nothing can replace it"}
}
ENDPOINTS = frozenset(
    {"/", "/v1/recommend", "/v1/similar-items", "/v1/bundle", "/healthz", "/readyz", "/metrics", "/openapi.json"}
)


@dataclass(frozen=True)
class Protection:
    """What keeps a server from harm.

    Attributes:
        api_key: Needed below /v1/; None asks for none.
        requests_per_second: Of one address; None sets no limit.
        body_seconds: What a body may take to arrive.
    """

    api_key: str | None = None
    requests_per_second: float | None = None
    body_seconds: float = 10.0


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

    app = FastAPI(title="twinspire", lifespan=lifespan, exception_handlers={HTTPException: _no_route})
    names = list(dict.fromkeys([*live.current.retrievers, "sparcode"]))
    limits = Limits(max_k=max_k, retrievers=names, arms=list(live.arms.by_name))
    _add_recommendations(app, service, limits, body_seconds=guarded.body_seconds)
    _add_users(app, service)
    _add_state(app, service)
    add_page(app)
    rate = None if guarded.requests_per_second is None else Rate(guarded.requests_per_second)
    return Guard(app, service.metrics, guarded.api_key, rate, ENDPOINTS)


def _add_recommendations(app: FastAPI, service: Service, limits: Limits, *, body_seconds: float) -> None:
    """Adds the routes with a body: recommendations and similar items."""

    # Routes read and write bytes themselves: FastAPI's own validation of answers costs more than the answer.
    @app.post(
        "/v1/recommend",
        response_model=RecommendResponse,
        responses=ERRORS,
        openapi_extra=_body(limits.recommend_schema()),
    )
    @_errors
    async def recommend(request: Request) -> Response:
        """Candidates for one user or several."""
        asked, user_ids = limits.parse(await _within(body_seconds, _read_body(request)))
        results, stages = await service.recommend(asked.to_request(user_ids))
        content: dict[str, Any] = {"results": results}
        if asked.timings:
            content["stage_microseconds"] = stages
        return _json(content)

    @app.post(
        "/v1/similar-items",
        response_model=SimilarItemsResponse,
        responses=ERRORS | NOT_FOUND,
        openapi_extra=_body(limits.similar_schema()),
    )
    @_errors
    async def similar_items(request: Request) -> Response:
        """Items whose vectors are nearest to an item's."""
        found = service.similar(limits.parse_similar(await _within(body_seconds, _read_body(request))))
        return _json(found)


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
            return _json({"errors": [dict(issue) for issue in error.errors]}, status=error.status)
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


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


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
