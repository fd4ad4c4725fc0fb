"""The diagnosis of a collapsed model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from evaluation.diagnosis import Diagnosis, diagnose

NUM_USERS, NUM_ITEMS, K = 60, 200, 10
Rows = npt.NDArray[np.int32]


def unit_vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, 16))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def top(scores: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> Rows:
    return np.argsort(-np.where(known, -np.inf, scores), axis=1, kind="stable")[:, :K].astype(np.int32)


@pytest.fixture(scope="module")
def known() -> npt.NDArray[np.bool_]:
    """What users have bought: the first items are the popular ones, and households know many of them."""
    return np.random.default_rng(1).random((NUM_USERS, NUM_ITEMS)) < 0.8 / np.sqrt(np.arange(1, NUM_ITEMS + 1))


@pytest.fixture(scope="module")
def popular(known: npt.NDArray[np.bool_]) -> Rows:
    return top(np.broadcast_to(known.sum(axis=0).astype(float), known.shape), known)


def test_figures_by_hand() -> None:
    lists = np.array([[0, 1, 2], [0, 1, 3], [0, 4, -1]], np.int32)
    popular = np.array([[0, 1, 3], [3, 4, 0], [1, 2, 3]], np.int32)
    vectors = np.array([[1, 0], [0, 1]] * 3, np.float32)
    found = diagnose(lists, popular, vectors[:1].repeat(3, axis=0), vectors)
    assert (found.distinct_items, found.num_lists) == (5, 3)
    # Of 8 places, item 0's three are each met in 2 of 2 other lists, item 1's two in 1 of 2, the others in none.
    assert found.common_share == pytest.approx((3 * 2 + 2 * 1) / (8 * 2))
    # Hits: 0 and 1 of [0, 1, 2]; 0 and 3 of [0, 1, 3]; none of [0, 4].
    assert found.popular_share == pytest.approx(4 / 8)
    assert found.chance_share == 3 / 6
    # Half the items point east, half north: their mean is (1/2, 1/2), at a squared distance of 1/2 from each.
    assert (found.item_variance, found.user_variance) == (0.5, 0)


def test_a_healthy_model_gives_no_warning_although_popular_items_take_most_places(
    known: npt.NDArray[np.bool_], popular: Rows
) -> None:
    users, items = unit_vectors(NUM_USERS, 1), unit_vectors(NUM_ITEMS, 2)
    lists = top(users @ items.T + 2.0 * (np.arange(NUM_ITEMS) < 40), known)
    assert (lists < 40).mean() > 0.9
    found = diagnose(lists, popular, users, items)
    assert found.warnings() == []
    assert found.popular_share < 0.7


def test_equal_item_vectors_give_everybody_the_same_list() -> None:
    users, items = unit_vectors(NUM_USERS, 1), unit_vectors(1, 2).repeat(NUM_ITEMS, axis=0)
    nothing = np.zeros((NUM_USERS, NUM_ITEMS), bool)
    found = diagnose(top(np.zeros((NUM_USERS, NUM_ITEMS)), nothing), top(users @ items.T, nothing), users, items)
    assert (found.common_share, found.distinct_items) == (1, K)
    same_list, *_, variance = found.warnings()
    assert "two users have 100% of their top lists in common, 10 items serve all 60" in same_list
    assert "raise training.negatives.num_uniform or lower towers.temperature" in same_list
    assert "the item vectors have variance 0.0000 of at most 1" in variance
    assert "Lower training.learning_rate" in variance


def test_popular_lists_are_noticed_although_known_items_make_them_differ(
    known: npt.NDArray[np.bool_], popular: Rows
) -> None:
    users, items = unit_vectors(NUM_USERS, 1), unit_vectors(NUM_ITEMS, 2)
    by_popularity = known.sum(axis=0) + 0.1 * (users @ items.T)
    found = diagnose(top(by_popularity, known), popular, users, items)
    assert found.popular_share > 0.9
    assert found.common_share < 0.8
    (warning,) = found.warnings()
    assert "of the places go to what popularity alone would show the same user" in warning
    assert "training.log_q: yi2019" in warning


def test_a_catalogue_hardly_longer_than_the_lists_is_no_collapse() -> None:
    users, items = unit_vectors(NUM_USERS, 1), unit_vectors(K + 1, 2)
    nothing = np.zeros((NUM_USERS, K + 1), bool)
    lists = top(users @ items.T, nothing)
    popular = top(np.broadcast_to(np.arange(K + 1.0), nothing.shape), nothing)
    assert diagnose(lists, popular, users, items).warnings() == []
    shorter = diagnose(lists[:, :0], popular[:, :0], users, items)
    assert (shorter.common_share, shorter.popular_share) == (0, 0)


def test_a_single_user_shares_no_list_with_others() -> None:
    lists = np.arange(K, dtype=np.int32)[None, :]
    found = diagnose(lists, lists + K, unit_vectors(1, 1), unit_vectors(NUM_ITEMS, 2))
    assert found.common_share == 0
    assert [warning for warning in found.warnings() if "list" in warning] == []


def test_variances_that_are_not_finite_give_a_warning() -> None:
    found = Diagnosis(50, 50, 0.1, 0.1, 0.05, item_variance=float("nan"), user_variance=0.5)
    assert ["item vectors have variance nan" in warning for warning in found.warnings()] == [True]
