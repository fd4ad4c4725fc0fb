"""Vector search without known or ineligible items."""

from __future__ import annotations

import numpy as np
import pytest

from serving.retrieval import exact
from serving.retrieval.eligible import EligibleItems
from serving.retrieval.index import HnswIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import without
from serving.retrieval.vector_search import search_eligible

NUM_ITEMS = 300


def known_items(counts: list[int]) -> Purchases:
    generator = np.random.default_rng(8)
    pairs = [(user, item) for user, count in enumerate(counts) for item in generator.permutation(NUM_ITEMS)[:count]]
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    found = Purchases.from_events(
        users + 1, items, seconds=np.zeros(len(users), np.int64), num_users=len(counts) + 1, num_items=NUM_ITEMS
    )
    return found.of(np.arange(1, len(counts) + 1))


@pytest.mark.parametrize("max_fetch", [0, 40, 10_000])
def test_over_fetching_and_exact_search_agree_at_any_switch(max_fetch: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 8)).astype(np.float32)
    queries = np.random.default_rng(2).normal(size=(7, 8)).astype(np.float32)
    known = known_items([0, 1, 5, 30, 250, 295, 300])
    index = HnswIndex.build(vectors, m=16, ef_construction=200, seed=1)
    rows, scores = search_eligible(
        index, vectors, query_embeddings=queries, known=known, eligible=None, k=10, ef=NUM_ITEMS, max_fetch=max_fetch
    )
    exact_rows, exact_scores = exact.search(queries, vectors, k=10, exclude=known.csr())
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-5)
    assert (rows >= 0).sum(axis=1).tolist() == [10, 10, 10, 10, 10, 5, 0]


@pytest.mark.parametrize("max_fetch", [0, 40, 10_000])
@pytest.mark.parametrize("beam_cost", [0.0, 1.0, 1e9])
@pytest.mark.parametrize("num_offered", [0, 1, 7, 60, 299])
@pytest.mark.parametrize("knowing", [False, True])
def test_all_offered_items_are_returned_at_any_switch(
    max_fetch: int, beam_cost: float, num_offered: int, knowing: bool
) -> None:
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 8)).astype(np.float32)
    queries = np.random.default_rng(2).normal(size=(7, 8)).astype(np.float32)
    # The worst that can be offered to the first user: what lies farthest.
    mask = np.zeros(NUM_ITEMS, np.bool_)
    mask[np.argsort(vectors @ queries[0])[:num_offered]] = True
    known = known_items([0, 1, 5, 30, 250, 295, 300]) if knowing else None
    index = HnswIndex.build(vectors, m=16, ef_construction=200, seed=1)
    rows, scores = search_eligible(
        index, vectors, query_embeddings=queries, known=known, eligible=EligibleItems(mask), k=10, ef=NUM_ITEMS,
        max_fetch=max_fetch, beam_cost=beam_cost,
    )  # fmt: skip
    out = np.tile(~mask, (7, 1))
    if known is not None:
        out |= known.csr().toarray() > 0
    expected = np.where(out, -np.inf, queries @ vectors.T)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=1e-5)
    assert (rows >= 0).sum(axis=1).tolist() == np.minimum((~out).sum(axis=1), 10).tolist()
    assert not np.take_along_axis(out, np.maximum(rows, 0), axis=1)[rows >= 0].any()


def test_known_items_leave_their_list_only() -> None:
    rows = np.array([[4, 2, 3, 0], [4, 2, 3, -1]], np.int32)
    scores = np.array([[4, 3, 2, 1], [4, 3, 2, -np.inf]], np.float32)
    # User 0 knows item 2, user 1 knows item 4; a catalogue of 5 items.
    found, found_scores = without(rows, scores, known_keys=np.array([2, 9]), num_items=5, k=3)
    assert found.tolist() == [[4, 3, 0], [2, 3, -1]]
    assert found_scores.tolist() == [[4, 2, 1], [3, 2, -np.inf]]
