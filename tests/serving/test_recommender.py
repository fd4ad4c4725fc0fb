"""The recommender over a small bundle."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.answers import Answer, RecommendRequest
from serving.asked import Unavailable
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval import exact
from serving.retrieval.ranking import Scores
from serving.user_features import BundleFeatures, FeaturesLostError

MIDNIGHT = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
VERSION = "2017-12-01-5f3c9a71"


def ids(recommender: Recommender, user_id: str, k: int, retriever: str, *, exclude_known: bool = False) -> list[str]:
    found = recommender.recommend([user_id], k=k, retriever=retriever, exclude_known=exclude_known)
    return [item["item_id"] for item in found.answers[0].items]


@pytest.fixture(scope="module")
def user_vector(bundle: Bundle, read_users: Callable[[list[str]], pa.Table]) -> Scores:
    """[D] float32 of u1."""
    inputs = bundle.encoder.encode_users(read_users(["u1"]), as_of_seconds=np.array([int(MIDNIGHT.timestamp())]))
    return bundle.user_tower.embed(inputs)[0]


def test_two_tower_answers_with_the_items_nearest_to_the_users_vector(
    recommender: Recommender, bundle: Bundle, user_vector: Scores
) -> None:
    rows, scores = exact.search(user_vector[None], bundle.item_vectors, k=7)
    answer = recommender.recommend(["u1"], k=7, retriever="two_tower").answers[0]
    assert [item["item_id"] for item in answer.items] == bundle.encoder.item_ids.ids(rows[0] + 1)
    np.testing.assert_allclose([item["score"] for item in answer.items], scores[0], atol=1e-6)
    assert (answer.unknown_user, answer.fallback) == (False, None)


def test_items_carry_name_and_category(recommender: Recommender) -> None:
    answer = recommender.recommend(["u2"], k=40, retriever="repeat").answers[0]
    assert answer.items[7] == {"item_id": "i7", "item_name": "name 7", "category": "fruit", "score": pytest.approx(1.2)}
    assert answer.items[5]["item_name"] is None


def test_repeat_answers_with_the_users_own_items(recommender: Recommender) -> None:
    assert ids(recommender, "u1", 5, "repeat") == ["i0", "i2", "i1"]


def test_bought_items_stay_out_when_asked(recommender: Recommender) -> None:
    for retriever in ("two_tower", "fused", "popularity"):
        found = ids(recommender, "u1", 40, retriever, exclude_known=True)
        assert len(found) == 37
        assert not {"i0", "i1", "i2"} & set(found)


@pytest.mark.parametrize("user_id", ["stranger", "u3"])
def test_users_without_a_past_get_popular_items(recommender: Recommender, user_id: str) -> None:
    for retriever in ("fused", "two_tower", "repeat"):
        found = recommender.recommend([user_id], k=3, retriever=retriever)
        answer = found.answers[0]
        assert [item["item_id"] for item in answer.items] == ["i39", "i38", "i37"]
        assert [item["score"] for item in answer.items] == [39, 38, 37]
        assert (answer.fallback, answer.unknown_user) == ("popularity", user_id == "stranger")
        assert found.retriever == retriever


def test_a_retriever_without_candidates_is_replaced(recommender: Recommender) -> None:
    answer = recommender.recommend(["u4"], k=2, retriever="repeat", exclude_known=True).answers[0]
    assert [item["item_id"] for item in answer.items] == ["i38", "i37"]
    assert (answer.fallback, answer.unknown_user) == ("popularity", False)


def test_a_user_newer_than_the_towers_is_served_by_features(recommender: Recommender) -> None:
    answer = recommender.recommend(["n1"], k=3, retriever="two_tower").answers[0]
    assert (answer.fallback, answer.unknown_user) == (None, True)


def test_a_user_whose_features_are_lost_is_answered_from_the_bundle_and_others_as_ever(
    bundle: Bundle, recommender: Recommender, read_users: Callable[[list[str]], pa.Table]
) -> None:
    def without_u1(user_ids: list[str]) -> pa.Table:
        return read_users(["stranger" if name == "u1" else name for name in user_ids])

    def ask(read: Callable[[list[str]], pa.Table], features: Any = None) -> list[Answer]:
        asked = Recommender(bundle, read, retrievers=recommender.retrievers, default_retriever="two_tower")
        return asked.answer(RecommendRequest(("u4", "u1", "u3"), 5), features).answers

    (known, other, new), found = ask(read_users), ask(without_u1)
    assert [answer.reasons for answer in found] == [(), ("no_features",), ("no_history",)]
    assert (found[0], found[2]) == (known, new)
    assert (other.reasons, found[1].items) == ((), ask(read_users, Unavailable("down"))[1].items)
    with pytest.raises(LookupError, match="the online store has none of this user"):
        recommender.embed_user("u1", without_u1(["u1"]))


def test_a_store_that_has_no_features_of_anybody_has_lost_them(
    bundle: Bundle, read_users: Callable[[list[str]], pa.Table]
) -> None:
    read = BundleFeatures(bundle, read_users)
    # u2 was forgotten: known to the bundle until the next one is served.
    assert read(["u2", "u1"]).column("user_as_of_seconds").null_count == 1
    empty = BundleFeatures(bundle, lambda user_ids: read_users(["stranger"] * len(user_ids)))
    assert empty(["stranger", "u3"]).num_rows == 2
    with pytest.raises(
        FeaturesLostError, match=rf"{VERSION}: the store has none of 3 users .* `twinspire features --f"
    ):
        empty(["stranger", "u1"])

    def gone(user_ids: list[str]) -> pa.Table:
        raise FileNotFoundError("online.db: no such file")

    with pytest.raises(FeaturesLostError, match=rf"online features {VERSION} are gone \(online.db: no such file\)"):
        BundleFeatures(bundle, gone)(["u1"])


def test_nothing_left_is_an_empty_answer(recommender: Recommender) -> None:
    assert ids(recommender, "u2", 5, "fused", exclude_known=True) == []


def test_popularity_is_no_fallback_when_it_was_asked_for(recommender: Recommender) -> None:
    assert recommender.recommend(["stranger"], k=3, retriever="popularity").answers[0].fallback is None


def test_users_alone_and_together_get_the_same(recommender: Recommender) -> None:
    asked = ["u1", "stranger", "u4", "u2", "u3", "u1"]
    together = recommender.recommend(asked, k=10, exclude_known=True)
    assert [answer.user_id for answer in together.answers] == asked
    for user_id, answer in zip(asked, together.answers, strict=True):
        alone = recommender.recommend([user_id], k=10, exclude_known=True).answers[0]
        assert [item["item_id"] for item in alone.items] == [item["item_id"] for item in answer.items]
        assert alone.fallback == answer.fallback


def test_the_moment_is_the_bundles_midnight_by_default(recommender: Recommender) -> None:
    def scores(as_of: dt.datetime | None) -> list[float]:
        answer = recommender.recommend(["u1"], k=3, retriever="repeat", as_of=as_of).answers[0]
        return [item["score"] for item in answer.items]

    # u1 bought i0 three times, last 7 days before midnight of the bundle's day.
    assert scores(None)[0] == pytest.approx(3 + 1 / 9)
    assert scores(MIDNIGHT) == scores(None)
    assert scores(MIDNIGHT + dt.timedelta(days=1))[0] == pytest.approx(3 + 1 / 10)


def test_the_answer_names_bundle_retriever_and_stages(recommender: Recommender, bundle: Bundle) -> None:
    found = recommender.recommend(["u1"], k=3)
    assert (found.bundle_version, found.retriever) == (bundle.version, "fused")
    assert [*found.stage_microseconds] == [
        "filters",
        "users",
        "features",
        "encoding",
        "user_tower",
        "retrieval",
        "answer",
    ]
    assert min(found.stage_microseconds.values()) > 0
    assert "features" not in recommender.recommend(["u1"], k=3, retriever="repeat").stage_microseconds


def test_invalid_requests_are_refused(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="user_ids is empty"):
        recommender.recommend([], k=3)
    with pytest.raises(ValueError, match="k is 0"):
        recommender.recommend(["u1"], k=0)
    with pytest.raises(ValueError, match="'best', expected one of: two_tower, exact, repeat, popularity, hnsw, fused"):
        recommender.recommend(["u1"], k=1, retriever="best")
    with pytest.raises(ValueError, match="no time zone"):
        recommender.recommend(["u1"], k=1, as_of=dt.datetime(2017, 12, 1))


def test_names_of_retrievers_are_checked_at_the_start(
    bundle: Bundle, read_users: Callable[[list[str]], pa.Table]
) -> None:
    with pytest.raises(ValueError, match="fusion_weights names 'itemknn', expected some of: two_tower, exact, sp"):
        retrievers_of(
            bundle,
            RankingConfig(max_fetch=30, fusion_weights={"itemknn": 1.0}, fusion_rank_constant=60, fusion_depth=20),
            ef_search=50,
        )
    for name, needed in (
        ("sparcode", "SparCode's tables, and this bundle has none"),
        ("cascade", "vectors of several"),
    ):
        with pytest.raises(ValueError, match=f"serving.fusion_weights names '{name}', which needs {needed}"):
            retrievers_of(bundle, RankingConfig(fusion_weights={name: 1.0}), ef_search=50)
        with pytest.raises(ValueError, match=f"serving.retriever is '{name}', which needs {needed}"):
            retrievers_of(bundle, RankingConfig(retriever=name), ef_search=50)
    with pytest.raises(ValueError, match="'fused' is not there"):
        Recommender(bundle, read_users, retrievers={}, default_retriever="fused")


@pytest.fixture(scope="module")
def weighted_recommender(written_weighted: Path, read_users: Callable[[list[str]], pa.Table]) -> Recommender:
    """Over vectors of two models, ranked by margin too; its cascade orders a first list of five items."""
    retrievers = retrievers_of(
        Bundle.open(written_weighted),
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=5
        ),
        ef_search=50,
    )
    return Recommender(Bundle.open(written_weighted), read_users, retrievers=retrievers, default_retriever="cascade")


@pytest.mark.parametrize("k", [4, 35])
@pytest.mark.parametrize("exclude_known", [False, True])
def test_business_weights_change_order_and_score_by_index_and_by_exact_search(
    weighted_recommender: Recommender, written_weighted: Path, user_vector: Scores, k: int, exclude_known: bool
) -> None:
    bundle = weighted_recommender.bundle
    # Beyond 30 items exact search takes over from the index.
    answer = weighted_recommender.recommend(["u1"], k=k, retriever="two_tower", exclude_known=exclude_known).answers[0]
    scores = (bundle.item_vectors @ user_vector) * np.load(written_weighted / "item_weights.npy")
    if exclude_known:
        scores[:3] = -np.inf
    order = np.argsort(-scores)[:k]
    assert [item["item_id"] for item in answer.items] == bundle.encoder.item_ids.ids(order + 1)
    np.testing.assert_allclose([item["score"] for item in answer.items], scores[order], atol=1e-5)


def test_a_cascade_orders_what_the_first_model_finds_by_the_second(
    weighted_recommender: Recommender, user_vector: Scores
) -> None:
    bundle = weighted_recommender.bundle
    found = weighted_recommender.recommend(["u1"], k=5)
    assert found.retriever == "cascade"
    first = np.argsort(-bundle.ranked[:, :5] @ user_vector[:5])[:5]
    second = bundle.ranked[first, 5:] @ user_vector[5:]
    expected = bundle.encoder.item_ids.ids(first[np.argsort(-second)] + 1)
    assert [item["item_id"] for item in found.answers[0].items] == expected


def test_vectors_of_one_model_have_no_cascade(
    recommender: Recommender, bundle: Bundle, read_users: Callable[[list[str]], pa.Table]
) -> None:
    with pytest.raises(ValueError, match="'cascade', expected one of: two_tower, exact, repeat, popularity"):
        recommender.recommend(["u1"], k=1, retriever="cascade")
    with pytest.raises(ValueError, match="'cascade' is not there"):
        Recommender(bundle, read_users, retrievers=recommender.retrievers, default_retriever="cascade")


def test_warming_up_asks_every_retriever(recommender: Recommender) -> None:
    recommender.warm_up()
