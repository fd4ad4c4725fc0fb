"""Middleware that asks for an API key, limits the rate and counts requests; plain ASGI, which costs microseconds."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.web.metrics import Metrics

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
