"""The service behind the routes: what is answered in a thread, in which parts, and for whom."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import threading
from typing import Any

import pyarrow as pa
import pytest
from starlette.requests import ClientDisconnect

from serving.answers import ANONYMOUS, Recommendations, RecommendRequest
from serving.arms import Arm, Arms, one_arm
from serving.live import Live
from serving.recommender import Recommender
from serving.web.api import without_paths
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics
from serving.web.service import Service


async def stays() -> bool:
    return False


class Exposures:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[Any] = []

    def add(self, exposures: Any) -> None:
        self.logged += exposures

    def close(self) -> None:
        pass


class Watched:
    """A recommender whose answers are watched: how many users, and whether in the thread of the event loop."""

    def __init__(self, recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[tuple[int, bool]] = []
        answer = recommender.answer

        def watched(request: RecommendRequest, features: Any = None) -> Recommendations:
            in_place = threading.current_thread() is threading.main_thread()
            self.answers.append((len(request.user_ids), in_place))
            return answer(request, features)

        monkeypatch.setattr(recommender, "answer", watched)


@pytest.fixture
def watched(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(recommender, monkeypatch)


@pytest.fixture
def service(recommender: Recommender) -> Service:
    live = Live(one_arm(), lambda _: recommender, lambda: "", clock=lambda: dt.datetime.now(dt.UTC), warm_up=False)
    return Service(live, FeatureReads(10.0), Metrics(), Exposures())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"k": 10}, [(1, True)]),
        ({"k": 1000}, [(1, True)]),
        ({"k": 1001}, [(1, False)]),
        ({"k": 1000, "explain": True}, [(1, False)]),
        ({"num_users": 10, "k": 100}, [(10, True)]),
        ({"num_users": 11, "k": 100}, [(11, False)]),
        ({"num_users": 4, "k": 1000, "explain": True}, [(1, False)] * 4),
        # 50 users, 100 items each, are a part.
        ({"num_users": 120, "k": 10}, [(50, False), (50, False), (20, False)]),
    ],
)
def test_costly_requests_are_answered_in_a_thread_and_in_parts(
    service: Service, watched: Watched, asked: dict[str, Any], expected: list[tuple[int, bool]]
) -> None:
    number = asked.pop("num_users", 1)
    request = RecommendRequest(tuple(["u1", "u4", "stranger"] * 40)[:number], **asked)
    results, _ = asyncio.run(service.recommend(request, stays))
    assert watched.answers == expected
    assert [result["user_id"] for result in results] == list(request.user_ids)


def test_exact_search_over_a_large_catalogue_is_costly(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = dataclasses.replace(recommender.bundle, item_vectors=_Large())  # type: ignore[arg-type]
    monkeypatch.setattr(recommender, "bundle", large)
    assert recommender.cost(RecommendRequest(("u1",), 10, retriever="exact")) == 100 + 6400
    assert recommender.cost(RecommendRequest(("u1",), 10, retriever="fused")) == 100


class _Large:
    size = 1_000_000 * 64


def test_lists_in_parts_are_those_of_one_call(service: Service, recommender: Recommender) -> None:
    request = RecommendRequest(tuple(["u1", "u4", "stranger"] * 40), 10)
    results, stages = asyncio.run(service.recommend(request, stays))
    expected = recommender.answer(request)
    assert [result["items"] for result in results] == [answer.items for answer in expected.answers]
    assert stages.keys() == expected.stage_microseconds.keys()


def test_work_ends_when_the_client_has_gone(service: Service, watched: Watched) -> None:
    async def goes() -> bool:
        return len(watched.answers) == 1

    with pytest.raises(ClientDisconnect):
        asyncio.run(service.recommend(RecommendRequest(tuple(["u1"] * 120), 10), goes))
    assert watched.answers == [(50, False)]


def test_a_request_that_names_nobody_is_answered_by_the_first_arm_and_is_no_exposure(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = Arms([Arm("plain", 0.5, retriever="fused"), Arm("new", 0.5, retriever="two_tower")], salt="")
    live = Live(arms, lambda _: recommender, lambda: "", clock=lambda: dt.datetime.now(dt.UTC), warm_up=False)
    exposures = Exposures()

    def no_reads(_: list[str]) -> pa.Table:
        raise AssertionError("nobody is known")

    monkeypatch.setattr(recommender, "read_users", no_reads)
    service = Service(live, FeatureReads(10.0), Metrics(), exposures)
    request = RecommendRequest((ANONYMOUS,), 5, recent_items=("i3", "i8", "i999"))
    (result,), _ = asyncio.run(service.recommend(request, stays))
    assert {name: result[name] for name in ("user_id", "arm", "unknown_user", "fallback", "reasons")} == {
        "user_id": None,
        "arm": "plain",
        "unknown_user": True,
        "fallback": None,
        "reasons": ("unknown_user",),
    }
    assert len(result["items"]) == 5
    assert exposures.logged == []
    assert service.unknown_items(request) == ["i999"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/runs/shop/bundles/2024-02-06-93d90a55/items.parquet: has 3 bytes", "items.parquet: has 3 bytes"),
        ("OperationalError: unable to open '/a b/c d/online.db'", "OperationalError: unable to open 'online.db'"),
        ("[Errno 2] No such file or directory: '/x'", "[Errno 2] No such file or directory: 'x'"),
        ("redis://localhost:6379/0 and read/write", "redis://localhost:6379/0 and read/write"),
    ],
)
def test_messages_name_files_without_their_folders(text: str, shown: str) -> None:
    assert without_paths(text) == shown
