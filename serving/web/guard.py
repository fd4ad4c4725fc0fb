"""Who may ask, and how much: keys, host names, the allowance of each address, and the count of every request."""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artefacts.config import ConfigError
from serving.web.metrics import Metrics
from serving.web.server import is_loopback

# Clients whose allowance is kept; the one that was quiet longest goes first.
KEPT_CLIENTS = 10_000
PROTECTED = "/v1/"
CHARGE = "twinspire.charge"
"""Key of a request's scope: `Charge`, by which a route takes what the request costs beyond a plain one."""
Charge = Callable[[float], int | None]
"""Cost -> None, or the seconds to wait where the address has nothing left."""


API_KEY = "TWINSPIRE_API_KEY"
"""Environment variable with the key that a server asks for; not set, it asks for none."""


def check_key(api_key: str | None, *, host: str, without_key: bool) -> None:
    """Refuses what protects nothing.

    Args:
        api_key: What requests have to show; None asks for nothing.
        host: Address to listen on.
        without_key: Whether there may be none although others than this machine reach the address.

    Raises:
        ConfigError: The message has the remedy.
    """
    if api_key is None:
        if not without_key and not is_loopback(host):
            raise ConfigError(
                f"{API_KEY} is not set, and others than this machine reach {host or 'all addresses'}: set it to the "
                "key that clients have to show, listen on 127.0.0.1, or start the server with --without-key"
            )
    elif not api_key.strip():
        raise ConfigError(f"{API_KEY} is set and empty, which protects nothing; set it to a key, or unset it")
    elif api_key != api_key.strip() or not api_key.isprintable():
        raise ConfigError(
            f"{API_KEY} begins or ends with white space, or holds control characters, which no header carries; set it "
            "to a key without them"
        )


@dataclass(frozen=True)
class Protection:
    """What keeps a server from harm.

    Attributes:
        api_key: Needed below /v1/; None asks for none.
        requests_per_second: Of one address; None sets no limit.
        body_seconds: What a body may take to arrive.
        max_items: Most items in all lists of a request; see `serving.web.api.Limits`.
        trusted_proxies: Addresses and networks whose `X-Forwarded-For` is believed.
        any_host: Whether requests over loopback are answered without a key under any host name.
    """

    api_key: str | None = None
    requests_per_second: float | None = None
    body_seconds: float = 10.0
    max_items: int = 51_200
    trusted_proxies: tuple[str, ...] = ()
    any_host: bool = False


class Rate:
    """Requests a second that each client may make, and as many at once; a costly request counts as several.

    A request is let in while the client has one left, and may then take more than are left: what it owes has to grow
    back before the next one.

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
        return self._take(client, 1.0, at_least=1.0)

    def charges(self, client: str, cost: float) -> bool:
        """Takes the further cost of a request that was let in; False where others of the client owe something."""
        return self._take(client, cost, at_least=0.0)

    def seconds(self, client: str) -> int:
        """When the client may ask again, in whole seconds, at least 1."""
        left, since = self._left.get(client, (1.0, 0.0))
        return max(1, math.ceil((1.0 - left) / self._per_second - (self._clock() - since)))

    def _take(self, client: str, cost: float, *, at_least: float) -> bool:
        now = self._clock()
        most = max(self._per_second, 1.0)
        left, since = self._left.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        allowed = left >= at_least
        self._left[client] = (left - cost * allowed, now)
        if len(self._left) > KEPT_CLIENTS:
            self._left.popitem(last=False)
        return allowed


@dataclass(frozen=True)
class Guard:
    """Middleware: refuses what has no key, another host or comes too often, counts and times the rest.

    `HEAD` is answered as `GET` is, without the body, which the server leaves out.

    Attributes:
        app: What is guarded.
        metrics: Where it is counted.
        api_key: What `Authorization: Bearer` or `X-API-Key` must hold on the paths below /v1/; None asks for none.
        rate: How often a client may ask below /v1/; None sets no limit.
        endpoints: Paths that are counted by name; others are counted together, so that clients cannot add names.
        any_host: See `Protection`.
    """

    app: ASGIApp
    metrics: Metrics
    api_key: str | None
    rate: Rate | None
    endpoints: frozenset[str]
    any_host: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, or answers 401, 421 or 429."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        endpoint = path if path in self.endpoints else _named(path)
        begun = time.perf_counter()
        status, is_counted = 500, False

        def count() -> None:
            nonlocal is_counted
            if not is_counted:
                self.metrics.requests.labels(endpoint, str(status)).inc()
                self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun)
            is_counted = True

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                # Before the end of the answer leaves: what a client has got is counted, even if this process dies next.
                count()
            await send(message)

        try:
            refused = self._wrong_host(scope)
            if refused is None and path.startswith(PROTECTED):
                refused = self._refusal(scope)
            if refused is None:
                method = "GET" if scope.get("method") == "HEAD" else scope.get("method")
                await self.app({**scope, "method": method, CHARGE: self._charge(scope)}, receive, counted)
            else:
                await _answer(counted, *refused)
        finally:
            count()

    def _wrong_host(self, scope: Scope) -> _Refused | None:
        """Refuses names by which a page of somebody else's could reach this machine, where no key keeps it out."""
        if self.api_key is not None or self.any_host or not _is_loopback((scope.get("server") or ("",))[0]):
            return None
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and _is_of_this_machine(hosts[0]):
            return None
        found = f"is {hosts[0]!r}" if len(hosts) == 1 else f"is given {len(hosts)} times"
        message = (
            f"{found}, expected localhost or a loopback address: without a key, only requests addressed to this "
            "machine are answered; ask http://127.0.0.1, set TWINSPIRE_API_KEY, or start the server with --without-key"
        )
        return 421, "Host", message, {}

    def _refusal(self, scope: Scope) -> _Refused | None:
        # First of all, so that guesses at the key count.
        if self.rate is not None and not self.rate.takes(_client(scope)):
            seconds = self.rate.seconds(_client(scope))
            return 429, "body", too_often(seconds), {"retry-after": str(seconds)}
        if self.api_key is None or _shows_key(dict(scope["headers"]), self.api_key.encode()):
            return None
        message = "missing or wrong; send the server's key in this header, or as a bearer token"
        return 401, "X-API-Key", message, {"www-authenticate": "Bearer"}

    def _charge(self, scope: Scope) -> Charge:
        def charge(cost: float) -> int | None:
            client = _client(scope)
            if self.rate is None or cost <= 0 or self.rate.charges(client, cost):
                return None
            return self.rate.seconds(client)

        return charge


_Refused = tuple[int, str, str, dict[str, str]]


def too_often(seconds: int) -> str:
    """What an address is told that has nothing left."""
    return f"too many requests from this address, or too costly ones; wait {seconds} seconds"


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _shows_key(headers: dict[bytes, bytes], key: bytes) -> bool:
    # One guess a request: a bearer token counts only where there is no other header.
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    return hmac.compare_digest(headers.get(b"x-api-key", bearer), key)


def _is_of_this_machine(host: str) -> bool:
    """Whether a Host header names the machine itself: `localhost` or a loopback address, with any port."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::[0-9]*)?", host)
    if found is None:
        return False
    name = found[1] or found[2]
    return name.lower().rstrip(".") == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _named(path: str) -> str:
    last = path.rpartition("/")[2]
    is_of_user = path.startswith("/v1/users/") and last in ("embedding", "history")
    return f"/v1/users/{{user_id}}/{last}" if is_of_user else "other"


async def _answer(send: Send, status: int, field: str, message: str, more: dict[str, str]) -> None:
    body = orjson.dumps({"errors": [{"field": field, "message": message}]})
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
