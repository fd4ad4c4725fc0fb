"""A bundle with families answers with few items of each, by every retriever and with every filter."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from features.schema import Schema
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of, spread_of

ReadUsers = Callable[[list[str]], pa.Table]
NUM_ITEMS = 40
# Four items of each, and the last four of none.
FAMILIES = [f"family {number // 4}" if number < 36 else None for number in range(NUM_ITEMS)]


@pytest.fixture(scope="module")
def bundle(parts: Parts, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    schema = parts.encoder.schema.model_copy(update={"item_family": "aisle"})
    encoder = dataclasses.replace(parts.encoder, schema=schema)
    items = parts.items.append_column("family", pa.array(FAMILIES, pa.string()))
    bundles = tmp_path_factory.mktemp("families")
    return Bundle.open(bundles / write(bundles, dataclasses.replace(parts, encoder=encoder, items=items), facts))


@pytest.fixture
def answering(bundle: Bundle, read_users: ReadUsers) -> Callable[..., Recommender]:
    def answering(**ranking: Any) -> Recommender:
        settings = RankingConfig(**ranking)
        return Recommender(
            bundle,
            read_users,
            retrievers=retrievers_of(bundle, settings, ef_search=None),
            default_retriever="fused",
            spread=spread_of(bundle, settings),
        )

    return answering


def family_counts(recommender: Recommender, k: int, **asked: Any) -> tuple[Counter[str | None], int]:
    items = recommender.recommend(["u1"], k=k, **asked).answers[0].items
    return Counter(FAMILIES[int(item["item_id"][1:])] for item in items), len(items)


@pytest.mark.parametrize("retriever", ["two_tower", "exact", "fused", "popularity"])
@pytest.mark.parametrize("asked", [{}, {"allow_categories": ("fish",)}, {"exclude_known": True}])
@pytest.mark.parametrize("at_most", [1, 2])
def test_a_list_has_few_items_of_a_family_and_is_as_long_as_asked(
    answering: Callable[..., Recommender], retriever: str, asked: dict[str, Any], at_most: int
) -> None:
    counts, num_items = family_counts(answering(max_per_family=at_most), 10, retriever=retriever, **asked)
    assert num_items == 10
    counts.pop(None, None)
    assert max(counts.values()) <= at_most


def test_all_that_may_come_comes_where_there_are_fewer_than_k(answering: Callable[..., Recommender]) -> None:
    counts, num_items = family_counts(answering(), 30, retriever="exact")
    assert (num_items, counts[None]) == (9 + 4, 4)


def test_null_sets_no_limit(answering: Callable[..., Recommender]) -> None:
    assert answering(max_per_family=None).spread is None
    assert family_counts(answering(max_per_family=None), NUM_ITEMS, retriever="exact")[1] == NUM_ITEMS


def test_categories_are_limited_too(answering: Callable[..., Recommender]) -> None:
    items = answering(max_per_category=3).recommend(["u1"], k=6, retriever="exact").answers[0].items
    assert Counter(item["category"] for item in items) == {"fish": 3, "fruit": 3}


def test_explanations_have_the_place_in_the_longer_list(answering: Callable[..., Recommender]) -> None:
    [answer] = answering().recommend(["u1"], k=8, retriever="exact", explain=True).answers
    ranks = [item["explanation"]["found_by"]["exact"]["rank"] for item in answer.items]
    assert ranks == sorted(ranks)
    assert ranks[-1] > len(ranks)


def test_bundles_without_families_are_answered_as_before(written: Path) -> None:
    plain = Bundle.open(written)
    assert plain.families is None
    assert spread_of(plain, RankingConfig()) is None


def test_a_family_is_a_categorical_item_column() -> None:
    with pytest.raises(ValidationError, match="item_family is 'size', which is not a categorical item column"):
        Schema(item_columns={"aisle": ("categorical",), "size": ("numeric",)}, item_family="size")
