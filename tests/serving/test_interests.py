"""Users of several interests are answered and explained: the best of their vectors finds an item."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from serving.bundles.bundle import Bundle
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of

ReadUsers = Callable[[list[str]], pa.Table]
K = 3


@pytest.fixture
def several(bundle: Bundle, read_users: ReadUsers) -> Recommender:
    """Users have a vector, the same backwards, and the first once more."""

    def embed(inputs: Any) -> npt.NDArray[np.float32]:
        vectors = bundle.user_tower.embed(inputs)
        return np.hstack([vectors, vectors[:, ::-1], vectors])

    tower: Any = SimpleNamespace(embed=embed)
    own = dataclasses.replace(bundle, user_tower=tower)
    return Recommender(
        own, read_users, retrievers=retrievers_of(own, RankingConfig(), ef_search=None), default_retriever="two_tower"
    )


def interests_of(recommender: Recommender, user_id: str) -> npt.NDArray[np.float32]:
    vector = recommender.embed_user(user_id)
    assert vector is not None
    return vector.reshape(K, -1)


@pytest.mark.parametrize("retriever", ["two_tower", "exact"])
@pytest.mark.parametrize("asked", [{}, {"allow_categories": ("fish",)}, {"exclude_known": True}])
def test_lists_are_those_of_the_largest_score_and_as_long_as_asked(
    several: Recommender, retriever: str, asked: dict[str, Any]
) -> None:
    found = several.recommend(["u1"], k=15, retriever=retriever, **asked).answers[0]
    best = (several.bundle.item_vectors @ interests_of(several, "u1").T).max(axis=1)
    if "allow_categories" in asked:
        best[1::2] = -np.inf
    if "exclude_known" in asked:
        best[:3] = -np.inf
    expected = np.argsort(-best, kind="stable")[:15]
    assert [item["item_id"] for item in found.items] == [f"i{row}" for row in expected]
    np.testing.assert_allclose([item["score"] for item in found.items], best[expected], atol=1e-5)


def test_an_explanation_names_the_interest_and_what_of_the_past_is_near_it(several: Recommender) -> None:
    found = several.recommend(["u1"], k=20, explain=True).answers[0]
    items, interests = several.bundle.item_vectors, interests_of(several, "u1")
    numbers = set()
    for item in found.items:
        interest = item["explanation"]["interest"]
        scores = interests @ items[int(item["item_id"][1:])]
        # The third is the first once more, and never asks.
        assert interest["number"] == int(np.argmax(scores[:2])) + 1
        cosines = {f"i{row}": float(items[row] @ interests[interest["number"] - 1]) for row in range(3)}
        expected = sorted(cosines, key=lambda name: -cosines[name])
        assert [near["item_id"] for near in interest["near"]] == expected
        assert [near["cosine"] for near in interest["near"]] == pytest.approx([cosines[name] for name in expected])
        numbers.add(interest["number"])
    assert numbers == {1, 2}


def test_users_without_a_past_and_with_one_vector_have_no_interest_to_show(
    several: Recommender, recommender: Recommender
) -> None:
    fallen = several.recommend(["stranger"], k=2, explain=True).answers[0]
    assert fallen.fallback == "popularity"
    for item in fallen.items:
        assert ("interest" in item["explanation"]) == bool(item["explanation"]["found_by"])
    assert "interest" not in recommender.recommend(["u1"], k=1, explain=True).answers[0].items[0]["explanation"]
    assert (
        "interest"
        not in several.recommend(["u1"], k=1, retriever="repeat", explain=True).answers[0].items[0]["explanation"]
    )
