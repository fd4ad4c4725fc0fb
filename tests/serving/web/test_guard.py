"""API keys, rate limits, and the count of every request."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from artefacts.config import ConfigError
from serving.arms import one_arm
from serving.config import ServingConfig
from serving.live import Live
from serving.recommender import Recommender
from serving.web.app import create_app
from serving.web.feature_reads import FeatureReads
from serving.web.guard import KEPT_CLIENTS, Guard, Protection, Rate, check_key
from serving.web.metrics import Metrics
from serving.web.service import Service


@pytest.fixture
def live(recommender: Recommender) -> Live:
    return Live(one_arm(), lambda _: recommender, lambda: "", clock=lambda: dt.datetime.now(dt.UTC), warm_up=False)


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def ask(
    guard: Any, path: str, headers: dict[str, str] | None = None, client: str = "1.2.3.4", server: str = "5.6.7.8"
) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("unexpected read")

    scope = {
        "type": "http",
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": (client, 5000),
        "server": (server, 8100),
        "method": "GET",
        "query_string": b"",
    }
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def guard(metrics: Metrics | None = None, *, key: str | None = None, rate: Rate | None = None) -> Guard:
    return Guard(application, metrics or Metrics(), key, rate, frozenset({"/v1/recommend", "/healthz"}))


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "secret"},
        *({"Authorization": f"{word} secret"} for word in ("Bearer", "bearer", "BEARER", "bEaReR ")),
    ],
)
def test_a_request_with_the_key_is_answered(headers: dict[str, str]) -> None:
    assert ask(guard(key="secret"), "/v1/recommend", headers)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "secre"},
        {"Authorization": "secret2"},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
        {"Authorization": "Bearersecret"},
    ],
)
def test_without_a_key_only_the_health_check_answers(headers: dict[str, str]) -> None:
    status, body = ask(guard(key="secret"), "/v1/recommend", headers)
    assert status == 401
    assert b"X-API-Key" in body
    assert b"secret" not in body
    assert ask(guard(key="secret"), "/healthz", headers)[0] == 200


def test_an_address_has_its_allowance() -> None:
    now = [0.0]
    guarded = guard(rate=Rate(2, clock=lambda: now[0]))
    assert [ask(guarded, "/v1/recommend")[0] for _ in range(3)] == [200, 200, 429]
    assert ask(guarded, "/v1/recommend", client="5.6.7.8")[0] == 200
    now[0] = 0.5
    assert [ask(guarded, "/v1/recommend")[0] for _ in range(2)] == [200, 429]
    assert ask(guarded, "/healthz")[0] == 200


def test_wrong_keys_take_from_the_allowance_of_their_address() -> None:
    guarded = guard(key="secret", rate=Rate(2, clock=lambda: 0.0))
    assert [ask(guarded, "/v1/recommend", {"X-API-Key": "guess"})[0] for _ in range(3)] == [401, 401, 429]
    assert ask(guarded, "/v1/recommend", {"X-API-Key": "secret"})[0] == 429
    assert ask(guarded, "/v1/recommend", {"X-API-Key": "secret"}, client="5.6.7.8")[0] == 200


def test_a_costly_request_has_to_be_paid_off_before_the_next() -> None:
    now = [0.0]
    rate = Rate(10, clock=lambda: now[0])
    assert rate.takes("a")
    assert rate.charges("a", 29)
    # 10 - 30 = -20 are left; another that was let in before does not owe more, and one needs 2.1 seconds.
    assert not rate.charges("a", 5)
    assert (rate.takes("a"), rate.seconds("a")) == (False, 3)
    now[0] = 2.0
    assert (rate.takes("a"), rate.seconds("a")) == (False, 1)
    now[0] = 2.1
    assert rate.takes("a")
    assert rate.takes("b")


LOCAL = [
    "localhost", "LOCALHOST:8100", "localhost.", "127.0.0.1", "127.0.0.1:8100", "127.8.9.1:1", "[::1]", "[::1]:8100",
    "[::ffff:127.0.0.1]:8100",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8100", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost", "",
    "8.8.8.8", "[2001:db8::1]:8100", "localhost@evil.example", "localhost:80@evil.example", "localhost:x", "::1",
    "[::1",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/recommend", "/", "/docs", "/page/page.js", "/metrics", "/healthz", "/nowhere"])
@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
def test_over_loopback_without_a_key_only_names_of_this_machine_are_answered(path: str, server: str) -> None:
    for host in LOCAL:
        assert ask(guard(), path, {"Host": host}, server=server)[0] == 200, host
    for host in FOREIGN:
        status, body = ask(guard(), path, {"Host": host}, server=server)
        assert (status, b"--without-key" in body) == (421, True), host
    assert ask(guard(), path, {}, server=server)[0] == 421


def test_where_a_key_is_needed_or_any_host_is_allowed_names_do_not_matter() -> None:
    headers = {"Host": "shop.example", "X-API-Key": "secret"}
    assert ask(guard(key="secret"), "/v1/recommend", headers, server="127.0.0.1")[0] == 200
    assert ask(guard(), "/v1/recommend", headers, server="192.168.0.7")[0] == 200
    any_host = Guard(application, Metrics(), None, None, frozenset(), any_host=True)
    assert ask(any_host, "/v1/recommend", headers, server="127.0.0.1")[0] == 200


@pytest.mark.parametrize("key", ["", " ", "\t\n", "secret\n", " secret", "sec\x00ret"])
def test_a_key_that_protects_nothing_or_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"TWINSPIRE_API_KEY (is set and empty|begins or ends)"):
        check_key(key, host="127.0.0.1", without_key=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "8.8.8.8", "no such host"])
def test_addresses_that_others_reach_need_a_key_or_the_flag(host: str) -> None:
    with pytest.raises(
        ConfigError, match=f"TWINSPIRE_API_KEY is not set.*reach {host or 'all addresses'}.*--without-key"
    ):
        check_key(None, host=host, without_key=False)
    check_key(None, host=host, without_key=True)
    check_key("secret", host=host, without_key=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "localhost", "::1"])
def test_loopback_needs_no_key(host: str) -> None:
    check_key(None, host=host, without_key=False)


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "client"),
    [
        ((), "127.0.0.1", "9.9.9.9", "127.0.0.1"),
        (("10.0.0.0/8",), "127.0.0.1", "9.9.9.9", "127.0.0.1"),
        (("10.0.0.0/8",), "10.1.2.3", "9.9.9.9", "9.9.9.9"),
        (("10.0.0.0/8",), "10.1.2.3", "6.6.6.6, 9.9.9.9, 10.0.0.1", "9.9.9.9"),
        (("::1",), "::1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_forwarded_addresses_are_believed_of_configured_proxies_only(
    live: Live, proxies: tuple[str, ...], peer: str, forwarded: str, client: str
) -> None:
    protection = Protection(requests_per_second=1, trusted_proxies=proxies, any_host=True)
    app = create_app(Service(live, FeatureReads(1.0), Metrics()), max_k=10, protection=protection)
    assert ask(app, "/v1/arms", {"X-Forwarded-For": forwarded}, client=peer)[0] == 200
    # The same again, from the address that is taken for the client's.
    assert ask(app, "/v1/arms", client=client)[0] == 429


def test_a_proxy_must_be_an_address_or_a_network() -> None:
    with pytest.raises(ValueError, match=r"'\*' does not appear to be an IPv4 or IPv6 network"):
        ServingConfig(trusted_proxies=("*",))


def test_a_slow_rate_lets_one_through_at_a_time() -> None:
    now = [0.0]
    rate = Rate(0.1, clock=lambda: now[0])
    assert [rate.takes("a"), rate.takes("a")] == [True, False]
    now[0] = 10.0
    assert rate.takes("a")


def test_memory_of_addresses_is_bounded() -> None:
    rate = Rate(1.0)
    for number in range(KEPT_CLIENTS + 50):
        rate.takes(str(number))
    assert len(rate._left) == KEPT_CLIENTS


def test_requests_are_counted_by_endpoint_and_status_and_made_up_paths_together() -> None:
    metrics = Metrics()
    guarded = guard(metrics, key="secret")
    ask(guarded, "/v1/recommend")
    for path in ("/a", "/b", "/v1/users/7/embedding", "/v1/users/8/embedding"):
        ask(guarded, path, {"X-API-Key": "secret"})
    text = metrics.text().decode()
    assert 'twinspire_requests_total{endpoint="/v1/recommend",status="401"} 1.0' in text
    assert 'twinspire_requests_total{endpoint="other",status="200"} 2.0' in text
    assert 'twinspire_requests_total{endpoint="/v1/users/{user_id}/embedding",status="200"} 2.0' in text
    assert 'twinspire_request_seconds_count{endpoint="other"} 2.0' in text
