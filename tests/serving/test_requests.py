"""All fields of a request: categories, exclusions, context, recent items, weights, reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.answers import Answer, RecommendRequest, RequestError
from serving.asked import Unavailable
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.exported_tower import ExportedTower

FISH = [f"i{number}" for number in range(0, 40, 2)]
ReadUsers = Callable[[list[str]], pa.Table]
EVERY = ["two_tower", "hnsw", "exact", "repeat", "popularity", "fused"]


def answer(recommender: Recommender, user_id: str = "u1", *, k: int = 40, **asked: Any) -> Answer:
    return recommender.recommend([user_id], k=k, **asked).answers[0]


def ids(found: Answer) -> list[str]:
    return [item["item_id"] for item in found.items]


@pytest.mark.parametrize("retriever", EVERY)
def test_only_allowed_categories_come_and_all_of_them(recommender: Recommender, retriever: str) -> None:
    found = answer(recommender, retriever=retriever, allow_categories=("fish",))
    assert {item["category"] for item in found.items} == {"fish"}
    # u1 bought two of them.
    assert sorted(ids(found)) == (["i0", "i2"] if retriever == "repeat" else sorted(FISH))


@pytest.mark.parametrize("retriever", EVERY)
def test_denied_categories_and_excluded_items_stay_out(recommender: Recommender, retriever: str) -> None:
    found = answer(recommender, retriever=retriever, deny_categories=("fruit", "no such"), exclude_items=("i2", "x"))
    assert sorted(ids(found)) == (["i0"] if retriever == "repeat" else sorted(set(FISH) - {"i2"}))


def test_nothing_is_left_where_all_is_denied(recommender: Recommender) -> None:
    found = answer(recommender, deny_categories=("fish", "fruit"))
    assert (found.items, found.reasons) == ([], ("nothing_found",))


def test_an_allowed_category_that_no_item_has_is_named(recommender: Recommender) -> None:
    with pytest.raises(
        RequestError, match=r"names 'fishes', which no item of this catalogue is of.*did you mean 'fish'\?"
    ) as error:
        answer(recommender, allow_categories=("fishes",))
    assert error.value.field == "allow_categories"


def test_filters_leave_the_order_of_the_rest(recommender: Recommender) -> None:
    everything = ids(answer(recommender, retriever="exact"))
    left = ids(answer(recommender, retriever="exact", exclude_items=("i5",), deny_categories=("fish",)))
    assert left == [name for name in everything if name not in FISH and name != "i5"]


@pytest.mark.parametrize("name", ["colour", "user_num_events"])
def test_context_is_of_declared_columns(recommender: Recommender, name: str) -> None:
    with pytest.raises(RequestError, match="is not a column of users; expected some of: age") as error:
        answer(recommender, context={name: "red"})
    assert error.value.field == f"context.{name}"


def test_context_is_of_the_columns_kind(recommender: Recommender) -> None:
    with pytest.raises(RequestError, match=r"context\.age is 3\.0, expected text"):
        answer(recommender, context={"age": 3.0})


def test_context_replaces_stored_features(bundle: Bundle, recommender: Recommender, read_users: ReadUsers) -> None:
    found = answer(recommender, retriever="exact", context={"age": "old"})
    raw = read_users(["u1"])
    place = raw.schema.get_field_index("age")
    changed = raw.set_column(place, "age", pa.array(["old"]))
    expected = recommender.answer(RecommendRequest(("u1",), 40, retriever="exact"), changed).answers[0]
    assert found.items == expected.items
    assert [item["score"] for item in found.items] != [
        item["score"] for item in answer(recommender, retriever="exact").items
    ]


def test_context_of_an_unknown_user_is_used(recommender: Recommender) -> None:
    assert answer(recommender, "stranger", retriever="exact").reasons == ("unknown_user", "no_history")
    for given in ({"context": {"age": "old"}}, {"recent_items": ("i7",)}):
        found = answer(recommender, "stranger", retriever="exact", **given)
        assert (found.fallback, found.reasons) == (None, ("unknown_user",))


def test_recent_items_are_met_now(recommender: Recommender, read_users: ReadUsers) -> None:
    seconds = recommender.as_of_seconds
    found = answer(recommender, retriever="exact", recent_items=("i9", "i1", "i9"))
    raw = read_users(["u1"]).to_pylist()[0]
    raw["user_history"] = ["i9", "i1", "i2", "i0"]
    raw["user_history_seconds"] = [seconds, seconds, *raw["user_history_seconds"][::2]]
    raw["user_last_seconds"] = seconds
    changed = pa.Table.from_pylist([raw], schema=read_users(["u1"]).schema)
    expected = recommender.answer(RecommendRequest(("u1",), 40, retriever="exact"), changed).answers[0]
    assert found.items == expected.items
    assert found.items != answer(recommender, retriever="exact").items


@pytest.mark.parametrize("user", ["u1", "stranger"])
def test_recent_items_change_the_list_at_once_where_their_order_counts(
    user: str, bundle: Bundle, exported: Path, read_users: ReadUsers
) -> None:
    sequence = dataclasses.replace(bundle, user_tower=ExportedTower(exported / "sequence.tflite"))
    ranking = RankingConfig(max_fetch=30, fusion_weights={"two_tower": 1.0}, fusion_rank_constant=60, fusion_depth=20)
    retrievers = retrievers_of(sequence, ranking, ef_search=50)
    recommender = Recommender(sequence, read_users, retrievers=retrievers, default_retriever="exact")
    visits = [(), ("i9",), ("i9", "i7"), ("i7", "i9"), ("i30", "i7", "i9")]
    lists = [ids(answer(recommender, user, recent_items=visit)) for visit in visits]
    assert len({tuple(found) for found in lists}) == len(visits)
    assert ids(answer(recommender, user, recent_items=visits[1])) == lists[1]
    found = answer(recommender, user, recent_items=visits[1])
    assert (found.fallback, found.reasons) == (None, () if user == "u1" else ("unknown_user",))


def test_recent_items_count_as_bought(recommender: Recommender) -> None:
    found = answer(recommender, recent_items=("i9", "nowhere"), exclude_known=True)
    assert not {"i0", "i1", "i2", "i9"} & set(ids(found))
    assert len(found.items) == 36


def test_recent_items_are_of_one_user(recommender: Recommender) -> None:
    with pytest.raises(RequestError, match="recent_items are given for 2 users"):
        recommender.recommend(["u1", "u2"], k=1, recent_items=("i1",))


@pytest.fixture(scope="module")
def weighted(written_weighted: Path, read_users: ReadUsers) -> Recommender:
    opened = Bundle.open(written_weighted)
    retrievers = retrievers_of(
        opened,
        RankingConfig(max_fetch=30, fusion_weights={"two_tower": 1.0}, fusion_rank_constant=60, fusion_depth=20),
        ef_search=50,
    )
    return Recommender(opened, read_users, retrievers=retrievers, default_retriever="two_tower")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("retriever", ["two_tower", "exact"])
def test_an_exponent_ranks_by_that_power_of_the_business_values(
    weighted: Recommender, exponent: float, retriever: str
) -> None:
    bundle = weighted.bundle
    assert bundle.item_weights is not None
    found = answer(weighted, k=12, retriever=retriever, weight_exponent=exponent)
    vector = weighted.embed_user("u1")
    assert vector is not None
    # The index was built with the power .5.
    scores = (bundle.item_vectors @ vector) * bundle.item_weights ** (exponent / 0.5)
    order = np.argsort(-scores)[:12]
    assert ids(found) == bundle.encoder.item_ids.ids(order + 1)
    np.testing.assert_allclose([item["score"] for item in found.items], scores[order], rtol=1e-4, atol=1e-6)


def test_without_weights_an_exponent_is_refused(recommender: Recommender) -> None:
    with pytest.raises(RequestError, match="weight_exponent is given, and this bundle has no business weights"):
        answer(recommender, weight_exponent=0.0)


def test_without_the_online_store_the_bundle_answers_from_its_own_data(recommender: Recommender) -> None:
    gone = Unavailable("no answer in 200 ms")
    found = recommender.answer(RecommendRequest(("u1", "stranger", "u3"), 5, retriever="exact"), gone).answers
    assert [one.reasons for one in found] == [
        ("no_features",),
        ("no_features", "unknown_user", "no_history"),
        ("no_features", "no_history"),
    ]
    assert [one.fallback for one in found] == [None, "popularity", "popularity"]
    # Not what everybody gets: the history is that of the purchases.
    assert ids(found[0]) != ids(found[1])
    assert len(found[0].items) == 5


def test_without_tables_the_two_towers_are_the_substitute(recommender: Recommender) -> None:
    found = answer(recommender, k=5, retriever="sparcode")
    assert found.reasons == ("no_tables",)
    assert found.items == answer(recommender, k=5, retriever="two_tower").items


def test_an_explanation_names_ranks_and_near_items(recommender: Recommender, bundle: Bundle) -> None:
    found = answer(recommender, k=5, explain=True)
    lists = {name: answer(recommender, k=20, retriever=name) for name in ("two_tower", "repeat")}
    for item in found.items:
        explanation = item["explanation"]
        assert explanation["found_by"].keys() == {name for name, one in lists.items() if item["item_id"] in ids(one)}
        for name, place in explanation["found_by"].items():
            expected = lists[name].items[place["rank"] - 1]
            assert (expected["item_id"], expected["score"]) == (item["item_id"], pytest.approx(place["score"]))
        cosines = [near["cosine"] for near in explanation["near"]]
        assert cosines == sorted(cosines, reverse=True)
        assert {near["item_id"] for near in explanation["near"]} <= {"i0", "i1", "i2"} - {item["item_id"]}
        row = bundle.encoder.item_ids.rows([item["item_id"], explanation["near"][0]["item_id"]]) - 1
        own, near = bundle.item_vectors[row]
        assert explanation["near"][0]["cosine"] == pytest.approx(float(own @ near), abs=1e-5)
    assert "explanation" not in answer(recommender, k=1).items[0]


def test_similar_items_are_the_nearest_others(recommender: Recommender, bundle: Bundle) -> None:
    found = recommender.similar_items("i4", k=39)
    assert found is not None
    cosines = bundle.item_vectors @ bundle.item_vectors[4]
    order = [row for row in np.argsort(-cosines) if row != 4]
    assert [item["item_id"] for item in found] == [f"i{row}" for row in order]
    fish = recommender.similar_items("i4", k=40, allow=("fish",))
    assert fish is not None
    assert [item["item_id"] for item in fish] == [f"i{row}" for row in order if f"i{row}" in FISH]
    assert recommender.similar_items("nowhere", k=3) is None


def test_a_vector_exists_for_users_with_known_features(recommender: Recommender) -> None:
    vector = recommender.embed_user("n1")
    assert vector is not None
    assert vector.shape == (8,)
    assert recommender.embed_user("stranger") is None


@pytest.mark.parametrize(
    ("retriever", "k", "asked", "expected"),
    [
        ("repeat", 5, {}, ("short",)),  # u1 bought three items
        ("repeat", 3, {}, ()),
        ("repeat", 2, {"deny_categories": ("fish",)}, ("short",)),
        ("repeat", 5, {"exclude_known": True}, ("nothing_found",)),
        ("fused", 40, {}, ()),
        ("fused", 41, {}, ("short",)),
        ("popularity", 2, {"allow_categories": ()}, ("short",)),
    ],
)
def test_a_list_shorter_than_k_has_a_reason(
    recommender: Recommender, retriever: str, k: int, asked: dict[str, Any], expected: tuple[str, ...]
) -> None:
    found = answer(recommender, "u1", retriever=retriever, k=k, **asked)
    assert (found.reasons, len(found.items) < k) == (expected, "short" in expected)


def test_recent_items_that_are_all_unknown_are_no_history(recommender: Recommender) -> None:
    asked = {"retriever": "two_tower", "recent_items": ("i998", "i999")}
    assert answer(recommender, "stranger", **asked).reasons == ("unknown_user", "no_history")
    assert answer(recommender, "stranger", **(asked | {"recent_items": ("i1", "i999")})).reasons == ("unknown_user",)


def test_a_vector_that_is_no_number_is_answered_with_popular_items(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = recommender.bundle.user_tower.embed

    class Overflowing:
        def embed(self, inputs: Any) -> Any:
            vectors = np.array(embed(inputs))
            vectors[0] = np.nan
            return vectors

    changed = dataclasses.replace(recommender.bundle, user_tower=Overflowing())  # type: ignore[arg-type]
    monkeypatch.setattr(recommender, "bundle", changed)
    first, second = recommender.recommend(["u1", "u4"], k=3, retriever="two_tower").answers
    assert (first.fallback, first.reasons, second.reasons) == ("popularity", ("nothing_found",), ())
    assert all(np.isfinite(item["score"]) for item in first.items)
