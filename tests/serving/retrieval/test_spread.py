"""Spread lists: few items of a family, unlike ones first, and k of them wherever there are k."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.retrieval.eligible import EligibleItems
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import padding
from serving.retrieval.retrievers import Fused, Popularity, Repeat, Retriever, UserQueries
from serving.retrieval.spread import Limit, Spread, spread_lists, within
from serving.retrieval.vector_search import TwoTowerRetriever

NUM_USERS, NUM_ITEMS, WIDTH, K = 7, 60, 6, 10
RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)
FAMILIES = np.repeat(np.arange(NUM_ITEMS // 4, dtype=np.int32), 4)
FAMILIES[50:] = -1


def one_by_one(rows: list[int], codes: npt.NDArray[np.int32], at_most: int, k: int) -> list[int]:
    """The slow twin: reads the list from the top."""
    kept, seen = [], {}
    for row in rows:
        code = int(codes[row])
        seen[code] = seen.get(code, 0) + 1
        if code < 0 or seen[code] <= at_most:
            kept.append(row)
    return kept[:k]


@pytest.fixture(scope="module")
def users() -> UserQueries:
    counts = np.array([3] * NUM_USERS)
    purchases = Purchases(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([np.sort(RNG.permutation(NUM_ITEMS)[:3]) for _ in counts]).astype(np.int32),
        np.ones(counts.sum(), np.int32),
        np.zeros(counts.sum(), np.int64),
        num_items=NUM_ITEMS,
    )
    queries = RNG.normal(size=(NUM_USERS, WIDTH)).astype(np.float32)
    return UserQueries(purchases, np.zeros(NUM_USERS, np.int64), queries)


@pytest.fixture(scope="module")
def retrievers() -> dict[str, Retriever]:
    exact = TwoTowerRetriever(VECTORS, None, ef=0, max_fetch=0)
    fused = Fused(((Repeat(), 1.0), (exact, 0.5)), rank_constant=5, depth=20)
    return {"exact": exact, "fused": fused, "popularity": Popularity(RNG.random(NUM_ITEMS).astype(np.float32))}


def found(retrievers: dict[str, Retriever], users: UserQueries, spread: Spread | None, name: str, k: int = K) -> Any:
    every = np.ones(len(users), np.bool_)
    return spread_lists(retrievers, users, name, k=k, can_be_found=every, spread=spread)


@pytest.mark.parametrize("at_most", [1, 2, 3])
def test_the_first_items_of_each_group_are_left(at_most: int) -> None:
    rows, _ = padding(20, 30)
    for user, row in enumerate(rows):
        row[: 30 - user] = RNG.permutation(NUM_ITEMS)[: 30 - user]
    left = within(rows, Limit(FAMILIES, at_most))
    for user, row in enumerate(rows):
        own = row[row >= 0].tolist()
        assert row[left[user] & (row >= 0)].tolist() == one_by_one(own, FAMILIES, at_most, NUM_ITEMS)


@pytest.mark.parametrize("name", ["exact", "fused", "popularity"])
@pytest.mark.parametrize("at_most", [1, 2])
def test_lists_are_those_of_reading_all_items_from_the_top(
    retrievers: dict[str, Retriever], users: UserQueries, name: str, at_most: int
) -> None:
    limited = found(retrievers, users, Spread((Limit(FAMILIES, at_most),)), name)
    if name == "fused":
        assert (limited.rows >= 0).all()
        assert within(limited.rows, Limit(FAMILIES, at_most)).all()
        return
    everything = retrievers[name].retrieve(users, NUM_ITEMS)[0]
    for user in range(NUM_USERS):
        assert limited.rows[user].tolist() == one_by_one(everything[user].tolist(), FAMILIES, at_most, K)


@pytest.mark.parametrize("name", ["exact", "fused", "popularity"])
def test_every_family_that_may_come_comes_where_lists_are_long(
    retrievers: dict[str, Retriever], users: UserQueries, name: str
) -> None:
    mask = np.ones(NUM_ITEMS, np.bool_)
    mask[:9] = False
    few = UserQueries(users.purchases, users.as_of_seconds, users.query_embeddings, True, eligible=EligibleItems(mask))
    limited = found(retrievers, few, Spread((Limit(FAMILIES, 1),)), name, k=30)
    for user in range(NUM_USERS):
        own = users.purchases.of(np.array([user])).indices
        offered = np.setdiff1d(np.flatnonzero(mask), own)
        num = len(
            {(code, row if code < 0 else 0) for code, row in zip(FAMILIES[offered].tolist(), offered, strict=True)}
        )
        rows = limited.rows[user]
        assert (rows >= 0).sum() == min(num, 30)
        assert set(rows[rows >= 0].tolist()) <= set(offered.tolist())


def test_a_users_list_does_not_depend_on_the_others(retrievers: dict[str, Retriever], users: UserQueries) -> None:
    spread = Spread((Limit(FAMILIES, 1),), 0.3, VECTORS.__getitem__)
    together = found(retrievers, users, spread, "exact")
    for user in range(NUM_USERS):
        alone = found(retrievers, users.of(np.array([user])), spread, "exact")
        assert np.array_equal(alone.rows[0], together.rows[user])


def test_two_limits_hold_together(retrievers: dict[str, Retriever], users: UserQueries) -> None:
    categories = (np.arange(NUM_ITEMS) % 5).astype(np.int32)
    limits = (Limit(FAMILIES, 1), Limit(categories, 2))
    rows = found(retrievers, users, Spread(limits), "exact").rows
    assert all(within(rows, limit).all() for limit in limits)
    assert (rows >= 0).all()


def slow_marginal_relevance(rows: npt.NDArray[Any], scores: npt.NDArray[Any], weight: float, k: int) -> list[int]:
    """Carbonell and Goldstein's rule, word for word."""
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    scaled = (scores - scores[-1]) / (scores[0] - scores[-1])
    left, chosen = list(range(len(rows))), []
    while left and len(chosen) < k:
        # Below 0 a cosine counts as none.
        values = [
            (1 - weight) * scaled[place]
            - weight * max([0.0, *(float(unit[rows[place]] @ unit[rows[other]]) for other in chosen)])
            for place in left
        ]
        chosen.append(left.pop(int(np.argmax(values))))
    return rows[chosen].tolist()


@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_diversity_is_maximal_marginal_relevance(
    retrievers: dict[str, Retriever], users: UserQueries, weight: float
) -> None:
    rows, scores = retrievers["exact"].retrieve(users, 2 * K)
    diverse = found(retrievers, users, Spread((), weight, VECTORS.__getitem__), "exact").rows
    for user in range(NUM_USERS):
        assert diverse[user].tolist() == slow_marginal_relevance(rows[user], scores[user], weight, K)


def test_without_diversity_and_limits_the_order_stays(retrievers: dict[str, Retriever], users: UserQueries) -> None:
    plain = found(retrievers, users, None, "exact")
    spread = found(retrievers, users, Spread(), "exact")
    assert np.array_equal(plain.rows, spread.rows)
    np.testing.assert_array_equal(plain.scores, spread.scores)


def test_popular_items_beyond_the_list_are_not_said_to_fill_it(users: UserQueries) -> None:
    own = Fused(((Repeat(), 1.0),), rank_constant=5, depth=3)
    retrievers: dict[str, Retriever] = {"own": own, "popularity": Popularity(np.ones(NUM_ITEMS, np.float32))}
    spread = Spread((Limit(np.full(NUM_ITEMS, -1, np.int32), 1),))
    assert not found(retrievers, users, spread, "own", k=3).filled.any()
    assert found(retrievers, users, spread, "own", k=4).filled.all()
