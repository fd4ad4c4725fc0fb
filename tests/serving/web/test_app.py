"""The HTTP routes, against a server in its own process."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from serving.bundles.bundle import Bundle
from serving.recommender import Recommender
from serving.web.api import MAX_BODY_BYTES
from tests import forking
from tests.waiting import wait_until

HERE = Path(__file__).parents[1]


@contextmanager
def running(written: Path, online_file: Path, gate: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    os.mkfifo(gate)
    process = forking.Popen(
        [sys.executable, "-W", "error", str(HERE / "serve_for_tests.py"), str(written), str(online_file), str(gate)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def client(written: Path, online_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    gate = tmp_path_factory.mktemp("server") / "gate"
    with running(written, online_file, gate) as (_, address), httpx.Client(base_url=address, trust_env=False) as client:
        yield client


def test_one_user_gets_the_recommenders_answer(client: httpx.Client, recommender: Recommender) -> None:
    answer = client.post("/v1/recommend", json={"user_id": "u1", "k": 5, "retriever": "two_tower"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    expected = recommender.recommend(["u1"], k=5, retriever="two_tower")
    assert content.keys() == {"results"}
    (result,) = content["results"]
    assert {name: result[name] for name in result if name != "items"} == {
        "user_id": "u1",
        "arm": "default",
        "bundle_version": expected.bundle_version,
        "retriever": "two_tower",
        "unknown_user": False,
        "fallback": None,
        "reasons": [],
    }
    assert [item["item_id"] for item in result["items"]] == [item["item_id"] for item in expected.answers[0].items]
    assert result["items"][0].keys() == {"item_id", "item_name", "category", "score"}


def test_several_users_come_in_the_order_asked(client: httpx.Client) -> None:
    content = client.post("/v1/recommend", json={"user_ids": ["u4", "stranger", "u1"], "k": 2}).json()
    assert [result["user_id"] for result in content["results"]] == ["u4", "stranger", "u1"]
    assert [result["unknown_user"] for result in content["results"]] == [False, True, False]
    assert [result["fallback"] for result in content["results"]] == [None, "popularity", None]
    assert {result["retriever"] for result in content["results"]} == {"fused"}


def test_bought_items_stay_out_when_asked(client: httpx.Client) -> None:
    body = {"user_id": "u1", "k": 100, "exclude_bought": True}
    (result,) = client.post("/v1/recommend", json=body).json()["results"]
    assert len(result["items"]) == 37
    assert not {"i0", "i1", "i2"} & {item["item_id"] for item in result["items"]}


def test_timings_come_when_asked(client: httpx.Client) -> None:
    content = client.post("/v1/recommend", json={"user_id": "u1", "timings": True}).json()
    assert content["stage_microseconds"]["retrieval"] > 0


@pytest.mark.parametrize(
    ("body", "status", "field", "message"),
    [
        ({"user_id": "u1", "colour": "blue"}, 422, "colour", "not permitted"),
        ({"user_id": "u1", "k": 0}, 422, "k", "is 0, expected 1 to 100"),
        ({"user_id": "u1", "k": 101}, 422, "k", "is 101, expected 1 to 100"),
        ({"user_id": "u1", "k": -1}, 422, "k", "is -1"),
        ({"user_id": "u1", "k": "10"}, 422, "k", "valid integer"),
        ({"user_id": "u1", "k": 2.5}, 422, "k", "valid integer"),
        ({"user_id": "u1", "k": True}, 422, "k", "valid integer"),
        ({"user_id": "u1", "k": None}, 422, "k", "valid integer"),
        ({"user_id": "u1", "k": 10**30}, 422, "k", "expected 1 to 100"),
        (
            {"user_id": "u1", "retriever": "best"},
            422,
            "retriever",
            "two_tower, exact, repeat, popularity, hnsw",
        ),
        ({"user_id": "u1", "retriever": 3}, 422, "retriever", "valid string"),
        ({"user_id": "u1", "exclude_bought": "yes"}, 422, "exclude_bought", "valid boolean"),
        ({"user_id": "u1", "timings": 1}, 422, "timings", "valid boolean"),
        ({}, 422, "user_id", "give either user_id or user_ids"),
        ({"user_id": "u1", "user_ids": ["u2"]}, 422, "user_ids", "one of the two"),
        ({"user_id": ""}, 422, "user_id", "at least 1 character"),
        ({"user_id": "u" * 257}, 422, "user_id", "at most 256 characters"),
        ({"user_id": True}, 422, "user_id", "valid string"),
        ({"user_ids": "u1"}, 422, "user_ids", "valid array"),
        ({"user_ids": []}, 422, "user_ids", "has 0 entries, expected 1 to 256"),
        ({"user_ids": ["u1"] * 257}, 422, "user_ids", "has 257 entries"),
        ({"user_ids": ["u1", ""]}, 422, "user_ids.1", "at least 1 character"),
        ({"user_ids": ["u1", None]}, 422, "user_ids.1", "valid string"),
        ([], 422, "body", "an object"),
        (None, 422, "body", "an object"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, body: object, status: int, field: str, message: str) -> None:
    answer = client.post("/v1/recommend", content=json.dumps(body))
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert message in error["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"user_id": "\\ud800"}', b'{"user_id": NaN}', b'{"user_id": "u1"} x', b"[" * 100_000],
)
def test_a_body_that_is_no_json_is_refused(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/v1/recommend", content=content)
    assert answer.status_code in (400, 422)
    assert answer.json()["errors"][0]["field"] in ("body", "user_id")


def test_all_wrong_fields_are_named_at_once(client: httpx.Client) -> None:
    errors = client.post("/v1/recommend", json={"user_id": True, "k": "x", "size": 3}).json()["errors"]
    assert {error["field"] for error in errors} == {"user_id", "k", "size"}


def test_a_body_that_is_too_large_is_refused(client: httpx.Client) -> None:
    for content in (b" " * (MAX_BODY_BYTES + 1), iter([b" " * 10_000] * 20)):
        answer = client.post("/v1/recommend", content=content)
        assert answer.status_code == 413
        assert answer.json()["errors"][0]["field"] == "body"


@pytest.mark.parametrize("user_id", ["\u0000", "ключ 🛒", "'; drop table users", "{}", "../u1"])
def test_any_text_is_a_user_id(client: httpx.Client, user_id: str) -> None:
    (result,) = client.post("/v1/recommend", json={"user_id": user_id, "k": 1}).json()["results"]
    assert (result["user_id"], result["unknown_user"]) == (user_id, True)


def test_health_readiness_and_bundle_are_reported(client: httpx.Client, bundle: Bundle) -> None:
    assert client.get("/healthz").json() == {"alive": True}
    ready = client.get("/readyz").json()
    midnight = dt.datetime(2017, 12, 1, tzinfo=dt.UTC).timestamp()
    assert ready.pop("features_age_seconds") == pytest.approx(time.time() - midnight, abs=60)
    assert ready == {
        "ready": True,
        "bundle_version": bundle.version,
        "refused": None,
        "features": "ok",
        "features_version": "2017-12-01-5f3c9a71",
        "deny_list": "ok",
    }
    assert client.get("/v1/bundle").json() == json.loads(bundle.manifest.model_dump_json())
    assert client.get("/v1/recommend").status_code == 405
    assert client.get("/nowhere").status_code == 404


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for name in schema["$ref"].removeprefix("#/").split("/"):
        document = document[name]
    return document


def test_the_openapi_document_describes_request_answer_and_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/recommend"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["k"]["maximum"] == 100
    assert body["properties"]["retriever"]["anyOf"][0]["enum"] == [
        "two_tower",
        "exact",
        "repeat",
        "popularity",
        "hnsw",
        "fused",
        "sparcode",
    ]
    assert body["additionalProperties"] is False
    answer = resolve(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
    assert answer["properties"].keys() == {"results", "unknown_recent_items", "stage_microseconds"}
    assert {"400", "413", "422"} <= operation["responses"].keys()


@pytest.mark.parametrize("what", ["history", "embedding"])
def test_any_text_is_a_user_id_in_a_path_but_none(client: httpx.Client, what: str) -> None:
    for user_id in ("a/b", "a/b\nc", "a/history", "/", "é %2F"):
        answer = client.get(f"/v1/users/{quote(user_id, safe='')}/{what}")
        assert answer.status_code == 404
        assert answer.json()["errors"] == [{"field": "user_id", "message": f"{user_id!r} is not known"}]
    (error,) = client.get(f"/v1/users//{what}").json()["errors"]
    assert error["field"] == "path"
    assert client.get(f"/v1/users/u1/{what}").json()["user_id"] == "u1"


def test_connections_at_the_same_time_get_their_own_answers(client: httpx.Client) -> None:
    def ask(number: int) -> tuple[str, str]:
        user_id = f"u{1 + number % 6}"
        (result,) = client.post("/v1/recommend", json={"user_id": user_id, "k": 5}).json()["results"]
        return user_id, result["user_id"]

    with ThreadPoolExecutor(8) as pool:
        assert all(asked == answered for asked, answered in pool.map(ask, range(100)))


def test_sigterm_answers_requests_under_way_and_then_stops(written: Path, online_file: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        running(written, online_file, gate) as (process, address),
        httpx.Client(base_url=address, trust_env=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.post, "/v1/recommend", json={"user_id": "slow"})
        with gate.open("wb"):  # opens when the server has begun to read
            process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


def test_an_item_is_denied_and_allowed_again_while_the_server_runs(
    written: Path, online_file: Path, tmp_path: Path
) -> None:
    denied = tmp_path / "denied_items.txt"
    with (
        running(written, online_file, tmp_path / "gate") as (_, address),
        httpx.Client(base_url=address, trust_env=False) as client,
    ):

        def answered(retriever: str) -> list[str]:
            asked = {"user_ids": ["u1", "stranger"], "k": 5, "retriever": retriever}
            results = client.post("/v1/recommend", json=asked).json()["results"]
            assert retriever == "repeat" or [len(result["items"]) for result in results] == [5, 5]
            return [item["item_id"] for result in results for item in result["items"]]

        worst = answered("popularity")[0]
        denied.write_text(f"{worst}\n")
        wait_until(lambda: worst not in answered("popularity"))
        for retriever in ("two_tower", "repeat", "fused"):
            assert worst not in answered(retriever)
        denied.unlink()
        wait_until(lambda: worst in answered("popularity"))
