"""API keys, rate limits, and the count of every request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.web.guard import KEPT_CLIENTS, Guard, Rate
from serving.web.metrics import Metrics


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def ask(guard: Guard, path: str, headers: dict[str, str] | None = None, client: str = "1.2.3.4") -> tuple[int, bytes]:
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
    }
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def guard(metrics: Metrics | None = None, *, key: str | None = None, rate: Rate | None = None) -> Guard:
    return Guard(application, metrics or Metrics(), key, rate, frozenset({"/v1/recommend", "/healthz"}))


@pytest.mark.parametrize("headers", [{"X-API-Key": "secret"}, {"Authorization": "Bearer secret"}])
def test_a_request_with_the_key_is_answered(headers: dict[str, str]) -> None:
    assert ask(guard(key="secret"), "/v1/recommend", headers)[0] == 200


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "secre"}, {"Authorization": "secret2"}])
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
