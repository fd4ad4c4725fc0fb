"""Typed search: k items under every filter, misspelled words, families, and the order of the user's towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving import added_to_bundle
from serving.answers import RequestError
from serving.asked import Unavailable
from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.eligible import DeniedItems, DenyList
from serving.retrieval.spread import Limit, Spread
from serving.search import SearchAnswer, SearchRequest

ReadUsers = Callable[[list[str]], pa.Table]
NUM_ITEMS = 40
COFFEE = [f"i{row}" for row in range(0, NUM_ITEMS, 4)]


@pytest.fixture(scope="module")
def words(written_words: Path) -> Bundle:
    return Bundle.open(written_words)


def recommender_of(bundle: Bundle, read_users: ReadUsers, **more: Any) -> Recommender:
    retrievers = retrievers_of(bundle, RankingConfig(), ef_search=None)
    return Recommender(bundle, read_users, retrievers=retrievers, default_retriever="fused", **more)


@pytest.fixture(scope="module")
def search(words: Bundle, read_users: ReadUsers) -> Callable[..., SearchAnswer]:
    return recommender_of(words, read_users).search


def ids_of(found: SearchAnswer) -> list[str]:
    return [item["item_id"] for item in found.items]


def of_towers(recommender: Recommender, user_id: str, item_ids: Sequence[str]) -> list[str]:
    """Some items in the order of the user's exact list."""
    [answer] = recommender.recommend([user_id], k=NUM_ITEMS, retriever="exact", exclude_known=False).answers
    return [item["item_id"] for item in answer.items if item["item_id"] in item_ids]


def test_all_items_that_have_a_word_are_found_and_no_others(search: Callable[..., SearchAnswer]) -> None:
    found = search("Coffee", k=30)
    assert ids_of(found) == COFFEE
    assert (found.corrected, found.reasons) == ({}, ())
    assert ids_of(search("coffee", k=3)) == COFFEE[:3]
    assert search("?!", k=3).reasons == search("zzz", k=3).reasons == ("nothing_found",)
    assert search("?!", k=3).items == search("zzz", k=3).items == []


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        ("cofee dunmore", {"cofee": "coffee"}),
        ("coffee dunmroe", {"dunmroe": "dunmore"}),
        ("cofffee dunmor", {"cofffee": "coffee", "dunmor": "dunmore"}),
        ("coffee dun", {"dun": "dunmore"}),
        ("COFFEE: Dunmore", {}),
        ("coffe edunmore", {"coffe": "coffee", "edunmore": "dunmore"}),
    ],
)
def test_a_typed_name_is_first_and_the_answer_has_what_was_understood(
    search: Callable[..., SearchAnswer], typed: str, corrected: dict[str, str]
) -> None:
    found = search(typed)
    assert found.items[0]["item_name"] == "coffee dunmore"
    assert found.corrected == corrected
    scores = [item["score"] for item in found.items]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 1 >= scores[1]


def test_filters_leave_k_items_and_bring_nothing_that_has_no_word(search: Callable[..., SearchAnswer]) -> None:
    # Coffee and broth are fish.
    assert ids_of(search("coffee crackers", k=9, allow_categories=("fish",))) == COFFEE[:9]
    assert ids_of(search("coffee", deny_categories=("fish",))) == []
    assert ids_of(search("coffee", k=5, exclude_items=("i0", "i8", "no such item"))) == [
        "i4",
        "i12",
        "i16",
        "i20",
        "i24",
    ]
    with pytest.raises(RequestError, match=r"allow_categories names 'fsh', .* did you mean 'fish'"):
        search("coffee", allow_categories=("fsh",))
    with pytest.raises(RequestError, match="k is 0, expected at least 1"):
        search("coffee", k=0)


def test_withdrawn_and_denied_items_do_not_come(words: Bundle, read_users: ReadUsers, tmp_path: Path) -> None:
    (tmp_path / "denied.txt").write_text("i4\n")
    denied = DeniedItems(DenyList(tmp_path / "denied.txt"), words.item_ids)
    withdrawn = dataclasses.replace(words, withdrawn=np.array([8], np.int32))
    found = recommender_of(withdrawn, read_users, denied=denied).search("coffee", k=30, user_id="u1")
    assert sorted(ids_of(found)) == sorted(set(COFFEE) - {"i4", "i8"})


def test_items_whose_words_fit_equally_well_are_in_the_order_of_the_users_towers(
    words: Bundle, read_users: ReadUsers
) -> None:
    recommender = recommender_of(words, read_users)
    found = recommender.search("coffee", k=30, user_id="u1")
    assert ids_of(found) == of_towers(recommender, "u1", COFFEE) != COFFEE
    # Every item has two words, all brands are of four items and all kinds of ten: a brand counts more.
    mixed = ids_of(recommender.search("broth acme", k=30, user_id="u1"))
    assert mixed[0] == "i2"
    assert mixed[1:4] == of_towers(recommender, "u1", ["i0", "i1", "i3"])
    assert mixed[4:] == of_towers(recommender, "u1", [f"i{row}" for row in range(6, NUM_ITEMS, 4)])


def test_without_a_past_or_a_user_the_order_of_the_words_stays(words: Bundle, read_users: ReadUsers) -> None:
    recommender = recommender_of(words, read_users)
    stranger = recommender.search("coffee", user_id="stranger")
    assert ids_of(stranger) == COFFEE
    assert stranger.reasons == ("unknown_user", "no_history")
    lost = recommender.answer_search(SearchRequest("coffee", user_id="u1"), Unavailable("down"))
    assert lost.reasons == ("no_features",)
    assert sorted(ids_of(lost)) == sorted(COFFEE)
    nobody = recommender_of(words, lambda _: pytest.fail("no features are read for nobody")).search("coffee")
    assert (ids_of(nobody), nobody.reasons) == (COFFEE, ())


def test_families_and_diversity_hold_and_make_room_for_others(words: Bundle, read_users: ReadUsers) -> None:
    codes = np.repeat(np.arange(10, dtype=np.int32), 4)
    for spread in (Spread((Limit(codes, 1),)), Spread((Limit(codes, 1),), 0.3, words.vectors_of)):
        search = recommender_of(words, read_users, spread=spread).search
        found = [int(item[1:]) for item in ids_of(search("coffee broth", k=10, user_id="u1"))]
        assert sorted(codes[found]) == list(range(10))
        # No list is filled up with what has none of the words.
        assert len(search("coffee broth", k=30).items) == 10


def test_an_explanation_has_the_words_that_match_and_their_rank(search: Callable[..., SearchAnswer]) -> None:
    first, second, *_ = search("brth acme", k=30, user_id="u1", explain=True).items
    assert first["explanation"]["matches"] == ["acme", "broth"]
    assert first["explanation"]["found_by"]["words"]["rank"] == 1
    assert second["explanation"]["matches"] == ["acme"]
    # Three others have the brand alone.
    assert second["explanation"]["found_by"]["words"]["rank"] == 2
    assert {near["item_id"] for near in first["explanation"]["near"]} <= {"i0", "i1", "i2"}
    assert "explanation" not in search("broth").items[0]


def test_a_bundle_without_a_sparse_index_says_how_to_get_one(bundle: Bundle, read_users: ReadUsers) -> None:
    recommender = recommender_of(bundle, read_users)
    with pytest.raises(
        RequestError, match=r"query needs a sparse index, .* set sparse: \{\} and make the bundle again"
    ):
        recommender.search("coffee")
    recommender.warm_up()


def test_an_added_item_is_found_by_its_words_and_filtered(
    words: Bundle, read_users: ReadUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table(
        {"item_id": ["n1", "i0"], "item_name": ["zwieback acme", "known already"], "aisle": ["fruit", "fish"]}
    )
    # What the towers make of it is another test's.
    monkeypatch.setattr(added_to_bundle, "vectors_of_new", lambda bundle, new: bundle.item_vectors[:1])
    recommender = recommender_of(added_to_bundle.with_added(words, rows), read_users)
    for user_id in (None, "u1"):
        found = recommender.search("zwiebak acme", k=30, user_id=user_id, explain=True)
        assert found.items[0]["item_id"] == "n1"
        assert found.items[0]["explanation"]["matches"] == ["zwieback", "acme"]
        assert sorted(ids_of(found)) == ["i0", "i1", "i2", "i3", "n1"]
    assert ids_of(recommender.search("zwieback", allow_categories=("fish",))) == []
    assert ids_of(recommender.search("known already")) == []


@pytest.mark.parametrize("retriever", ["sparse", "hybrid"])
def test_lists_are_explained_alike_with_and_without_added_items(
    words: Bundle, read_users: ReadUsers, monkeypatch: pytest.MonkeyPatch, retriever: str
) -> None:
    rows = pa.table({"item_id": ["n1"], "item_name": ["zwieback acme"], "aisle": ["fruit"]})
    monkeypatch.setattr(added_to_bundle, "vectors_of_new", lambda bundle, new: bundle.item_vectors[:1])

    def explained(bundle: Bundle) -> list[Any]:
        asked = {"retriever": retriever, "explain": True, "deny_categories": ("fruit",)}
        [answer] = recommender_of(bundle, read_users).recommend(["u1"], k=4, **asked).answers
        return answer.items

    before = explained(words)
    assert any("matches" in item["explanation"] for item in before)
    assert explained(added_to_bundle.with_added(words, rows)) == before
