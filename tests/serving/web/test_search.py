"""`POST /v1/search`: answers, errors that name the field, the key, and what it costs."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from serving.arms import one_arm
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.live import Live
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.web.app import create_app
from serving.web.feature_reads import FeatureReads
from serving.web.guard import Protection
from serving.web.metrics import Metrics
from serving.web.service import Service

Ask = Callable[..., httpx.Response]


def asking(folder: Path, read_users: Any, protection: Protection | None = None) -> tuple[Ask, Recommender]:
    bundle = Bundle.open(folder)
    recommender = Recommender(
        bundle, read_users, retrievers=retrievers_of(bundle, RankingConfig(), ef_search=None), default_retriever="fused"
    )
    live = Live(one_arm(), lambda _: recommender, lambda: bundle.version, clock=lambda: dt.datetime.now(dt.UTC))
    served = create_app(Service(live, FeatureReads(30.0), Metrics()), max_k=100, protection=protection)

    def ask(path: str = "/v1/search", *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(app=served)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
                return await (client.post(path, json=body) if body else client.get(path))

        return asyncio.run(answer())

    return ask, recommender


@pytest.fixture(scope="module")
def served(written_words: Path, read_users: Callable[[list[str]], pa.Table]) -> tuple[Ask, Recommender]:
    return asking(written_words, read_users, Protection(max_items=200))


def test_the_answer_is_that_of_the_recommender(served: tuple[Ask, Recommender]) -> None:
    ask, recommender = served
    found = ask(query="Cofee", user_id="u1", k=5, deny_categories=["fruit"], timings=True).json()
    expected = recommender.search("cofee", user_id="u1", k=5, deny_categories=("fruit",))
    assert [item["item_id"] for item in found["items"]] == [item["item_id"] for item in expected.items]
    assert found["items"][0].keys() == {"item_id", "item_name", "category", "score"}
    assert (found["query"], found["corrected"], found["user_id"]) == ("Cofee", {"cofee": "coffee"}, "u1")
    assert (found["bundle_version"], found["reasons"]) == (recommender.bundle.version, [])
    assert {"filters", "words", "user_tower", "retrieval"} <= found["stage_microseconds"].keys()
    plain = ask(query="coffee").json()
    assert (plain["user_id"], len(plain["items"])) == (None, 10)
    assert "stage_microseconds" not in plain
    assert ask(query="coffee", user_id="stranger").json()["reasons"] == ["unknown_user", "no_history"]
    [first, *_] = ask(query="coffee", explain=True, k=3).json()["items"]
    assert first["explanation"]["matches"] == ["coffee"]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"k": 3}, "query", "Field required"),
        ({"query": ""}, "query", "String should have at least 1 character"),
        ({"query": "a" * 257}, "query", "String should have at most 256 characters"),
        ({"query": "coffee", "k": 0}, "k", "is 0, expected 1 to 100"),
        ({"query": "coffee", "k": 41, "explain": True}, "k", "is 41, expected 1 to 40"),
        ({"query": "coffee", "users": "u1"}, "users", "did you mean 'user_id'?"),
        ({"query": "coffee", "allow_categories": ["fsh"]}, "allow_categories", "did you mean 'fish'?"),
    ],
)
def test_an_error_names_the_field(
    served: tuple[Ask, Recommender], body: dict[str, Any], field: str, message: str
) -> None:
    answer = served[0](**body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert message in error["message"]


def test_a_bundle_without_a_sparse_index_is_named_as_the_reason(
    written: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    answer = asking(written, read_users)[0](query="coffee")
    assert answer.status_code == 409
    [error] = answer.json()["errors"]
    assert error["field"] == "query"
    assert "set sparse: {} and make the bundle again" in error["message"]


def test_it_needs_the_key_and_is_counted_by_its_path(
    written_words: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    ask, _ = asking(written_words, read_users, Protection(api_key="secret"))
    assert ask(query="coffee").status_code == 401
    assert ask(query="coffee", headers={"X-API-Key": "secret"}).status_code == 200
    counted = ask("/metrics").text
    assert 'endpoint="/v1/search"' in counted
    assert 'twinspire_stage_seconds_count{stage="words"} 1.0' in counted


def test_a_search_takes_more_of_the_allowance_than_a_plain_list(
    written_words: Path, read_users: Callable[[list[str]], pa.Table]
) -> None:
    ask, _ = asking(written_words, read_users, Protection(requests_per_second=2))
    assert ask("/v1/recommend", user_id="u1").status_code == 200
    # It is let in with what is left, and owes the rest.
    assert ask(query="coffee").status_code == 200
    answer = ask(query="coffee")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (429, "body")
    assert int(answer.headers["retry-after"]) > 1
