"""Candidates and their order; what all retrievers promise is in the contract."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from serving.retrieval import exact
from serving.retrieval.index import HnswIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import Popularity, Repeat, UserQueries
from serving.retrieval.vector_search import Cascade, TwoTowerRetriever

AS_OF_SECONDS = 1512086400
DAY = 86_400


def test_repeat_orders_by_count_then_recency_then_row() -> None:
    # Days ago of each event of one user's items 0 to 4.
    events = {0: [9], 1: [6, 30], 2: [4, 50], 3: [9], 4: [8, 40, 50]}
    pairs = np.array([(1, item, days) for item, all_days in events.items() for days in all_days])
    purchases = Purchases.from_events(
        pairs[:, 0], pairs[:, 1], seconds=AS_OF_SECONDS - DAY * pairs[:, 2], num_users=2, num_items=5
    )
    users = UserQueries(purchases.of(np.array([1])), np.array([AS_OF_SECONDS]))
    rows, scores = Repeat().retrieve(users, 6)
    assert rows.tolist() == [[4, 2, 1, 0, 3, -1]]
    # Count + 1 / (2 + days): 3 + 1/10, 2 + 1/6, 2 + 1/8, 1 + 1/11 twice.
    expected = [3 + Fraction(1, 10), 2 + Fraction(1, 6), 2 + Fraction(1, 8), 1 + Fraction(1, 11), 1 + Fraction(1, 11)]
    np.testing.assert_allclose(scores[0, :5], [float(score) for score in expected], rtol=1e-6)


def test_repeat_orders_moments_within_a_day() -> None:
    seconds = AS_OF_SECONDS - 200 * DAY + np.array([0, 1])
    ones = np.ones(2, np.int64)
    purchases = Purchases.from_events(ones, np.array([0, 1]), seconds=seconds, num_users=2, num_items=2)
    users = UserQueries(purchases.of(np.array([1])), np.array([AS_OF_SECONDS]))
    assert Repeat().retrieve(users, 2)[0].tolist() == [[1, 0]]


def test_popularity_orders_equal_items_by_row() -> None:
    nothing = np.empty(0, np.int64)
    no_purchases = Purchases.from_events(nothing, nothing, seconds=nothing, num_users=1, num_items=4)
    users = UserQueries(no_purchases, np.array([AS_OF_SECONDS]))
    rows, scores = Popularity(np.array([1, 5, 0, 5], np.float32)).retrieve(users, 4)
    assert rows.tolist() == [[1, 3, 0, 2]]
    assert scores.tolist() == [[5, 5, 1, 0]]


WIDTHS = (5, 3)


def ensemble_vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Two parts of length sqrt(1/2) each."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(count, width)) for width in WIDTHS]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    return (np.hstack(unit) / 2**0.5).astype(np.float32)


ITEM_VECTORS, USER_VECTORS = ensemble_vectors(200, 1), ensemble_vectors(6, 2)


def strangers(vectors: npt.NDArray[np.float32]) -> UserQueries:
    """Users without a past."""
    nothing = np.empty(0, np.int64)
    no_purchases = Purchases.from_events(nothing, nothing, seconds=nothing, num_users=len(vectors), num_items=200)
    return UserQueries(no_purchases, np.full(len(vectors), AS_OF_SECONDS), vectors)


@pytest.mark.parametrize("approximately", [False, True])
def test_a_cascade_as_deep_as_the_catalogue_is_exact_search_by_the_second_part(approximately: bool) -> None:
    index = HnswIndex.build(ITEM_VECTORS, m=8, ef_construction=100, seed=1) if approximately else None
    first = TwoTowerRetriever(ITEM_VECTORS, index, ef=200, max_fetch=200)
    rows, scores = Cascade(first, first_width=5, depth=200).retrieve(strangers(USER_VECTORS), 20)
    expected, expected_scores = exact.search(
        np.ascontiguousarray(USER_VECTORS[:, 5:]), np.ascontiguousarray(ITEM_VECTORS[:, 5:]), k=20
    )
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_a_cascade_finds_by_the_first_part_and_orders_by_the_second() -> None:
    first = TwoTowerRetriever(ITEM_VECTORS, None, ef=0, max_fetch=0)
    rows, _ = Cascade(first, first_width=5, depth=12).retrieve(strangers(USER_VECTORS), 12)
    for user, found in enumerate(rows):
        by_first = np.argsort(-ITEM_VECTORS[:, :5] @ USER_VECTORS[user, :5], kind="stable")[:12]
        by_second = sorted(by_first, key=lambda item: -ITEM_VECTORS[item, 5:] @ USER_VECTORS[user, 5:])
        assert found.tolist() == by_second


def test_a_cascade_cuts_its_list_after_the_second_model_has_ordered_it() -> None:
    first = TwoTowerRetriever(ITEM_VECTORS, None, ef=0, max_fetch=0)
    cascade = Cascade(first, first_width=5, depth=12)
    whole, short = (cascade.retrieve(strangers(USER_VECTORS), k)[0] for k in (12, 4))
    np.testing.assert_array_equal(short, whole[:, :4])
    assert len(cascade.retrieve(strangers(USER_VECTORS), 30)[0][0]) == 30


@pytest.mark.parametrize("width", [0, 8])
def test_a_cascade_of_one_part_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"first_width is {width}, expected between 1 and 7"):
        Cascade(TwoTowerRetriever(ITEM_VECTORS, None, ef=0, max_fetch=0), first_width=width, depth=5)


def test_a_cascade_orders_by_the_weights_that_are_asked_for() -> None:
    weights = np.linspace(0.5, 2.0, len(ITEM_VECTORS)).astype(np.float32)
    first = TwoTowerRetriever(ITEM_VECTORS * weights[:, None], None, ef=0, max_fetch=0, weights=weights)
    # Not the weights of the vectors but their squares.
    asked = replace(strangers(USER_VECTORS), scale=weights**2)
    rows, scores = Cascade(first, first_width=5, depth=200).retrieve(asked, 20)
    expected = (USER_VECTORS[:, 5:] @ ITEM_VECTORS[:, 5:].T) * weights**2
    assert np.array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :20])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), rtol=1e-5)


def test_the_weights_of_the_vectors_are_asked_for_by_the_index() -> None:
    weights = np.linspace(0.5, 2.0, len(ITEM_VECTORS)).astype(np.float32)
    towers = TwoTowerRetriever(ITEM_VECTORS * weights[:, None], None, ef=0, max_fetch=0, weights=weights)
    plain = strangers(USER_VECTORS)
    assert towers.factors(plain) is None
    assert towers.factors(replace(plain, scale=weights)) is None
    np.testing.assert_allclose(towers.factors(replace(plain, scale=weights**2)), weights, rtol=1e-6)
