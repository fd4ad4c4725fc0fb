"""The OpenAPI document is as strict as the server: what it allows is answered, and what it forbids is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.kinds import Measure
from features.schema import Schema
from serving.arms import one_arm
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.live import Live
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.web.api import MAX_USERS, Limits
from serving.web.app import create_app
from serving.web.feature_reads import FeatureReads
from serving.web.guard import Protection
from serving.web.metrics import Metrics
from serving.web.service import Service

COLUMNS = {
    "age": "categorical",
    "income": "numeric",
    "size": ["numeric", "categorical"],
    "about": "text",
    "likes": "categories",
    "likes_weights": "weights",
    "taste": "vector",
    "joined": "timestamp",
    "home": "geo",
    "member": "boolean",
}
MEASURES = {"likes_values": Measure(2), "taste": Measure(2)}
PROTECTION = Protection(max_items=12_800)


def application(written: Path, protection: Protection = PROTECTION) -> Any:
    """A server that reads no features, so that columns may be what no tower knows."""
    bundle = Bundle.open(written)
    schema = Schema(user_columns=COLUMNS, **bundle.encoder.schema.model_dump(exclude={"user_columns"}))
    bundle = dataclasses.replace(bundle, encoder=dataclasses.replace(bundle.encoder, schema=schema, measures=MEASURES))
    ranking = RankingConfig(retriever="repeat", fusion_weights={"repeat": 1.0})
    retrievers = retrievers_of(bundle, ranking, ef_search=50)
    recommender = Recommender(bundle, lambda _: None, retrievers=retrievers, default_retriever="repeat")  # type: ignore[arg-type,return-value]
    live = Live(one_arm(), lambda _: recommender, lambda: "", clock=lambda: dt.datetime.now(dt.UTC), warm_up=False)
    return create_app(Service(live, FeatureReads(1.0), Metrics()), max_k=100, protection=protection)


Ask = Callable[[str, Any], httpx.Response]


@pytest.fixture(scope="module", params=["plain", "weighted"])
def ask(request: pytest.FixtureRequest, written: Path, written_weighted: Path) -> Iterator[Ask]:
    app = application(written if request.param == "plain" else written_weighted)
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")

        def ask(path: str, body: Any = None) -> httpx.Response:
            return runner.run(client.get(path) if body is None else client.post(path, json=body))

        yield ask
        runner.run(client.aclose())


def schema_of(ask: Ask, path: str) -> dict[str, Any]:
    document = ask("/openapi.json", None).json()
    found: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return found


IDS: Any = st.sampled_from(
    ["u1", "u2", "i1", "strange", 7, 2**53 - 1, 2**53, 1.5, "", " ", "x" * 256, "x" * 257, None, True]
)
GOOD_IDS: Any = st.sampled_from(["u1", "u2", "i3", "strange", 7])
FLAGS = st.sampled_from([True, False, 1, "yes", None])
USERS = st.one_of(
    st.lists(GOOD_IDS, max_size=4),
    st.lists(IDS, max_size=2),
    st.sampled_from([0, 1, 2, 16, 17, 32, 33, 64, 65, 128, 129, MAX_USERS, MAX_USERS + 1]).map(lambda n: ["u1"] * n),
    st.sampled_from([None, "u1", {}]),
)
CATEGORIES = st.one_of(
    st.lists(st.sampled_from(["fish", "fruit"]), max_size=2), st.sampled_from([["meat"], "fish", [1], None])
)
VALUES = st.sampled_from(
    ["young", "", 3, -2.5, 1e30, 1e31, -1e300, 10**400, True, None, "7", "7.5", "1e5", "7\n", [], {}]
) | st.sampled_from(
    [
        *(False, 1.0, 253_402_300_800, {"a": 1}, [None], [True], [[1.0]]),
        *(["a"], ["a", 1], ["a"] * 1000, ["a"] * 1001),
        *([1.5, -90], [90.5, 0], [-90, 181], [0.0, 1e31], [1] * 3, [-1.0]),
    ]
)
FIELDS: dict[str, Any] = {
    "user_id": st.one_of(GOOD_IDS, IDS),
    "user_ids": USERS,
    "k": st.sampled_from([1, 10, 50, 51, 99, 100, 101, 0, -1, 2.5, "3", None, 10**30]),
    "retriever": st.sampled_from(["repeat", "popularity", "best", 3, None]),
    "arm": st.sampled_from(["default", "other", None]),
    "exclude_bought": FLAGS,
    "allow_categories": CATEGORIES,
    "deny_categories": CATEGORIES,
    "exclude_items": st.one_of(st.lists(GOOD_IDS, max_size=2), st.lists(IDS, max_size=2)),
    "weight_exponent": st.sampled_from([0, 1.5, 4, 4.1, -1, "1", None]),
    "context": st.one_of(
        st.dictionaries(st.sampled_from([*COLUMNS]), VALUES, max_size=2),
        st.sampled_from([{}, None, [], {"aisle": "x"}, {"": 1}]),
    ),
    "recent_items": st.one_of(st.lists(GOOD_IDS, max_size=2), st.lists(IDS, max_size=2), st.just(["i1"] * 201)),
    "explain": FLAGS,
    "timings": FLAGS,
    "user": st.just("u1"),
}
OF_ITEMS = {name: FIELDS[name] for name in ("k", "allow_categories", "deny_categories", "user")}
BODIES = st.builds(
    dict,
    st.one_of(
        st.fixed_dictionaries({"user_id": GOOD_IDS}),
        st.fixed_dictionaries({"user_ids": USERS}),
        st.fixed_dictionaries({"recent_items": st.lists(GOOD_IDS, max_size=1)}),
        st.just({}),
    ).flatmap(
        lambda about: st.lists(st.sampled_from([*FIELDS]), max_size=3, unique=True).flatmap(
            lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names}).map(lambda more: about | more)
        )
    ),
)
SETTINGS = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_requests_are_answered_if_and_only_if_the_document_allows_them(ask: Ask) -> None:
    allows = jsonschema_rs.Draft202012Validator(schema_of(ask, "/v1/recommend"))
    statuses = []

    @SETTINGS
    @given(body=BODIES)
    def asked(body: dict[str, Any]) -> None:
        answer = ask("/v1/recommend", body)
        assert answer.status_code == (200 if allows.is_valid(body) else 422), answer.text
        statuses.append(answer.status_code)

    asked()
    assert min(statuses.count(200), statuses.count(422)) > len(statuses) / 5


def test_similar_items_are_answered_if_and_only_if_the_document_allows_it(ask: Ask) -> None:
    allows = jsonschema_rs.Draft202012Validator(schema_of(ask, "/v1/similar-items"))

    @SETTINGS
    @given(body=st.fixed_dictionaries({"item_id": IDS}, optional=OF_ITEMS))
    def asked(body: dict[str, Any]) -> None:
        assert (ask("/v1/similar-items", body).status_code in (200, 404)) == allows.is_valid(body)

    asked()


def test_a_search_is_answered_if_and_only_if_the_document_allows_it(written_words: Path) -> None:
    # An explained item counts five times, so that the two limits differ.
    app = application(written_words, Protection(max_items=250))
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")

        def ask(path: str, body: Any = None) -> httpx.Response:
            return runner.run(client.get(path) if body is None else client.post(path, json=body))

        allows = jsonschema_rs.Draft202012Validator(schema_of(ask, "/v1/search"))
        queries = st.sampled_from(["coffee", "cofee acme", "?", "", "x" * 256, "x" * 257, None, 7, ["coffee"]])
        # No tower knows this server's columns, so that no user who is valid may be named.
        users = st.sampled_from([None, "", "x" * 257, 2**53, True])
        more = {"user_id": users, "explain": FLAGS, "timings": FLAGS, "exclude_items": FIELDS["exclude_items"]}

        @SETTINGS
        @given(body=st.fixed_dictionaries({"query": queries}, optional=OF_ITEMS | more))
        def asked(body: dict[str, Any]) -> None:
            assert (ask("/v1/search", body).status_code == 200) == allows.is_valid(body)

        asked()
        runner.run(client.aclose())


def test_the_document_follows_the_bundle(ask: Ask) -> None:
    fields = schema_of(ask, "/v1/recommend")["properties"]
    assert fields["context"]["properties"].keys() == COLUMNS.keys()
    assert fields["context"]["additionalProperties"] is False
    assert fields["allow_categories"]["anyOf"][0]["items"]["enum"] == ["fish", "fruit"]


def test_the_document_names_the_key_where_one_is_needed(written: Path) -> None:
    async def document(key: str | None) -> Any:
        app = application(written, Protection(api_key=key))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return (await client.get("/openapi.json")).json()

    found, plain = (asyncio.run(document(key)) for key in ("secret", None))
    assert found["components"]["securitySchemes"].keys() == {"key", "bearer"}
    assert found["paths"]["/v1/arms"]["get"]["security"] == [{"key": []}, {"bearer": []}]
    assert "security" not in found["paths"]["/readyz"]["get"]
    assert "security" not in plain["paths"]["/v1/arms"]["get"]


@pytest.mark.parametrize(
    ("num_users", "explain", "largest"),
    [
        (1, False, 100),
        (128, False, 100),
        (129, False, 50),
        (256, False, 50),
        (25, True, 80),
        (32, True, 80),
        (33, True, 40),
        (256, True, 10),
    ],
)
def test_users_times_k_are_limited(num_users: int, explain: bool, largest: int) -> None:
    limits = Limits(max_k=100, retrievers=[], arms=[], max_items=12_800)
    assert limits.largest_k(num_users, explain=explain) == largest


def test_a_limit_of_users_times_k_is_explained(ask: Ask) -> None:
    (error,) = ask("/v1/recommend", {"user_ids": ["u1"] * 256, "k": 100}).json()["errors"]
    assert error["field"] == "k"
    assert "is 100, expected 1 to 50 for 256 users: a request gets at most 12,800 items" in error["message"]


@pytest.mark.parametrize(
    ("body", "field", "meant"),
    [
        ({"userid": "u1"}, "userid", "user_id"),
        ({"User_Ids": ["u1"]}, "User_Ids", "user_ids"),
        ({"user_id": "u1", "retriver": "repeat"}, "retriver", "retriever"),
        ({"user_id": "u1", "retriever": "repeet"}, "retriever", "repeat"),
        ({"user_id": "u1", "context": {"incom": 3}}, "context.incom", "income"),
        ({"user_id": "u1", "allow_categories": ["fisch"]}, "allow_categories", "fish"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(ask: Ask, body: Any, field: str, meant: str) -> None:
    errors = ask("/v1/recommend", body).json()["errors"]
    (message,) = [error["message"] for error in errors if error["field"] == field]
    assert f"did you mean {meant!r}?" in message
