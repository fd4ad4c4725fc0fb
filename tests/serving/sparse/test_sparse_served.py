"""A bundle with a sparse index answers by it, explains what matches and keeps places; that of others is refused.

The last item of the two towers' list has the words of what u1 has bought, and no event.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from serving.answers import RecommendRequest
from serving.arms import one_arm
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import BundleError, Facts, read_manifest
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.live import Live
from serving.recommender import Recommender
from serving.registry import cold_lane_of, retrievers_of
from serving.retrieval.purchases import Purchases
from serving.sparcode.postings import catalogue_digest
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex
from serving.sparse.terms import count_terms, terms_of
from serving.web.app import create_app
from serving.web.feature_reads import FeatureReads
from serving.web.metrics import Metrics
from serving.web.service import Service

NUM_ITEMS, DAY, AS_OF_SECONDS = 40, 86_400, 1512086400
ITEMS = [f"i{number}" for number in range(NUM_ITEMS)]
ReadUsers = Callable[[list[str]], pa.Table]


@pytest.fixture(scope="module")
def new_item(bundle: Bundle, read_users: ReadUsers) -> int:
    """What the two towers put last for u1."""
    found = Recommender(
        bundle, read_users, retrievers=retrievers_of(bundle, RankingConfig(), ef_search=None), default_retriever="exact"
    ).recommend(["u1"], k=NUM_ITEMS)
    row = int(found.answers[0].items[-1]["item_id"][1:])
    assert row > 2
    return row


@pytest.fixture(scope="module")
def written_sparse(parts: Parts, facts: Facts, new_item: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """u1 has bought i0 to i2, and u4 what is next to the new item; nobody any other."""
    fields = fields_of(parts.encoder.schema, {"item_name": 1.0, "aisle": 0.1})
    names = [None] * NUM_ITEMS
    for row in (0, 1, new_item):
        names[row] = "Gluten-free cracker"  # type: ignore[call-overload]
    items = pa.table({"item_name": pa.array(names, pa.string()), "aisle": parts.items.column("category")})
    vocabulary, counts = count_terms(terms_of(items, fields), fields, num_items=NUM_ITEMS)
    about = About(catalogue_digest(ITEMS), fields, Scoring(), 60.0, 0.01)
    index = SparseIndex.build(about, vocabulary, counts, None)
    folder = tmp_path_factory.mktemp("sparse-bundles")
    index.save(folder / "sparse")
    own = facts.model_copy(update={"sparse_report": index.report(folder / "sparse")})
    other = new_item - 1 if new_item > 3 else new_item + 1
    bought = Purchases.from_events(
        np.array([1, 1, 1, 4]), np.array([0, 1, 2, other]),
        seconds=AS_OF_SECONDS - DAY * np.array([3, 2, 1, 2]), num_users=7, num_items=NUM_ITEMS,
    )  # fmt: skip
    changed = dataclasses.replace(parts, purchases=bought, sparse=folder / "sparse")
    return folder / write(folder, changed, own)


def recommender_of(folder: Path, read_users: ReadUsers, **ranking: Any) -> Recommender:
    bundle, settings = Bundle.open(folder), RankingConfig(fusion_depth=20, **ranking)
    return Recommender(
        bundle,
        read_users,
        retrievers=retrievers_of(bundle, settings, ef_search=None),
        default_retriever="two_tower",
        cold_lane=cold_lane_of(bundle, settings),
    )


def ids_of(recommender: Recommender, **asked: Any) -> list[str]:
    return [item["item_id"] for item in recommender.recommend(["u1"], **asked).answers[0].items]


def test_an_item_without_events_is_found_by_its_words_and_not_by_the_towers(
    written_sparse: Path, read_users: ReadUsers, new_item: int
) -> None:
    recommender = recommender_of(written_sparse, read_users)
    asked: dict[str, Any] = {"k": 10, "exclude_known": True}
    assert ids_of(recommender, retriever="sparse", **asked)[0] == f"i{new_item}"
    assert f"i{new_item}" not in ids_of(recommender, retriever="two_tower", **asked)
    # Scaled, it has the largest sparse score, which an own weight puts first.
    hybrid = recommender_of(written_sparse, read_users, hybrid_weight=3.0)
    assert ids_of(hybrid, retriever="hybrid", **asked)[0] == f"i{new_item}"
    fused = recommender_of(written_sparse, read_users, fusion_weights={"hybrid": 1.0}, hybrid_weight=3.0)
    assert ids_of(fused, retriever="fused", **asked)[0] == f"i{new_item}"


@pytest.mark.parametrize("retriever", ["sparse", "hybrid"])
def test_filtered_lists_have_k_items(
    written_sparse: Path, read_users: ReadUsers, new_item: int, retriever: str
) -> None:
    recommender = recommender_of(written_sparse, read_users)
    found = ids_of(recommender, k=15, retriever=retriever, deny_categories=("fish",), exclude_items=("i5",))
    assert len(found) == 15
    assert all(int(item[1:]) % 2 for item in found)
    assert "i5" not in found
    # A user of whom nothing is known gets what is popular.
    [stranger] = recommender.recommend(["stranger"], k=15, retriever=retriever).answers
    assert (len(stranger.items), stranger.fallback) == (15, "popularity")


def test_an_explanation_has_the_terms_that_match(written_sparse: Path, read_users: ReadUsers, new_item: int) -> None:
    category = "fruit" if new_item % 2 else "fish"
    recommender = recommender_of(written_sparse, read_users, hybrid_weight=3.0)
    for retriever, parts in (("sparse", {"sparse"}), ("hybrid", {"sparse", "two_tower"})):
        [answer] = recommender.recommend(
            ["u1"], k=NUM_ITEMS, retriever=retriever, explain=True, exclude_known=True
        ).answers
        explained = {item["item_id"]: item["explanation"] for item in answer.items}
        assert set(explained[f"i{new_item}"]["found_by"]) == parts
        assert explained[f"i{new_item}"]["matches"] == ["cracker", "free", "gluten", category]
        assert explained[f"i{new_item}"]["found_by"]["sparse"]["rank"] == 1


def test_places_are_kept_where_the_request_names_no_retriever(
    written_sparse: Path, read_users: ReadUsers, new_item: int
) -> None:
    recommender = recommender_of(written_sparse, read_users, cold_share=0.34)
    plain = recommender_of(written_sparse, read_users)
    assert plain.cold_lane is None
    cold = np.flatnonzero(recommender.bundle.num_events < 1)
    assert len(cold) == NUM_ITEMS - 4
    # Eligible are the four items with events, and the new one, which the towers put last.
    others = tuple(f"i{row}" for row in cold if row != new_item)
    asked: dict[str, Any] = {"k": 3, "exclude_known": False, "exclude_items": others}
    own = ids_of(plain, **asked)
    assert f"i{new_item}" not in own
    assert ids_of(recommender, **asked) == [*own[:2], f"i{new_item}"]
    assert ids_of(recommender, retriever="two_tower", **asked) == own
    last = recommender.recommend(["u1"], explain=True, **asked).answers[0].items[2]["explanation"]
    assert set(last["found_by"]) == {"sparse"}
    assert last["matches"][0] == "cracker"


def test_a_server_answers_and_explains_by_words(written_sparse: Path, read_users: ReadUsers, new_item: int) -> None:
    recommender = recommender_of(written_sparse, read_users)
    version = recommender.bundle.version
    live = Live(one_arm(), lambda _: recommender, lambda: version, clock=lambda: dt.datetime.now(dt.UTC))
    served = create_app(Service(live, FeatureReads(30.0), Metrics()), max_k=100)

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            body = {"user_id": "u1", "k": 3, "retriever": "sparse", "explain": True, "exclude_bought": True}
            answer = await client.post("/v1/recommend", json=body)
            return answer.json(), (await client.get("/openapi.json")).json()

    answer, document = asyncio.run(ask())
    [result] = answer["results"]
    assert result["retriever"] == "sparse"
    assert result["items"][0]["item_id"] == f"i{new_item}"
    assert result["items"][0]["explanation"]["matches"][0] == "cracker"
    body = document["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"sparse", "hybrid"} <= set(body["properties"]["retriever"]["anyOf"][0]["enum"])


def test_the_answer_is_the_same_again(written_sparse: Path, read_users: ReadUsers) -> None:
    for retriever in ("sparse", "hybrid"):
        request = RecommendRequest(("u1", "u4"), k=20, retriever=retriever)
        first, second = (recommender_of(written_sparse, read_users).rank(request) for _ in range(2))
        np.testing.assert_array_equal(first.rows, second.rows)
        np.testing.assert_array_equal(first.scores, second.scores)


def test_a_bundle_with_the_index_of_another_catalogue_is_refused(
    written_sparse: Path, sign: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written_sparse, tmp_path / written_sparse.name))
    about = folder / "sparse" / "about.json"
    about.write_text(about.read_text().replace(catalogue_digest(ITEMS), catalogue_digest(ITEMS[::-1])))
    with pytest.raises(BundleError, match=r"about\.json: SHA-256 is"):
        Bundle.open(folder)
    with pytest.raises(BundleError, match=r"sparse: cannot be read: .* is of catalogue"):
        Bundle.open(sign(folder))


def test_a_bundle_without_an_index_lacks_what_it_is_asked_for(bundle: Bundle, written: Path) -> None:
    assert read_manifest(written).facts.sparse_report is None
    assert {"sparse", "hybrid"}.isdisjoint(retrievers_of(bundle, RankingConfig(), ef_search=None))
    with pytest.raises(ValueError, match=r"serving\.retriever is 'hybrid', which needs a sparse index"):
        retrievers_of(bundle, RankingConfig(retriever="hybrid"), ef_search=None)
    with pytest.raises(ValueError, match=r"serving\.cold_share is 0\.1, which needs a sparse index"):
        cold_lane_of(bundle, RankingConfig(cold_share=0.1))
