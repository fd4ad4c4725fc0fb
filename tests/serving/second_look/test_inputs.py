"""What the second look knows of candidates, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.ids import IdMap
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import UserQueries
from serving.second_look.inputs import (
    NEVER_DAYS,
    STATISTICS,
    Candidates,
    Inputs,
    ItemFacts,
    input_names,
    inputs_of,
    read_statistics,
)

DAY = 86_400
NOW = 1000 * DAY
VECTORS = np.array([[1, 0, 1], [0, 1, 1], [0, 2, 0], [0, 0, 3]], np.float32)
"""Two parts: two numbers and one."""
GROUPS = np.array([0, 0, 1, -1], np.int32)


@pytest.fixture
def users() -> UserQueries:
    """User 0 met item 0 three times, ten days ago, and item 2 once, two days ago; user 1 met nothing."""
    own = Purchases.from_events(
        np.array([1, 1, 1, 1]),
        np.array([0, 0, 0, 2]),
        seconds=np.array([NOW - 20 * DAY, NOW - 15 * DAY, NOW - 10 * DAY, NOW - 2 * DAY]),
        num_users=3,
        num_items=4,
    ).of(np.array([1, 2]))
    return UserQueries(own, np.full(2, NOW), np.array([[1, 2, 3], [0, 0, 1]], np.float32))


@pytest.fixture
def candidates() -> Candidates:
    near = np.array([[1, 0], [3, -1]], np.int32), np.array([[5, 4], [3, -np.inf]], np.float32)
    popular = np.array([[0, 2], [0, 2]], np.int32), np.array([[9, 8], [9, 8]], np.float32)
    return Candidates.of({"near": near, "popular": popular})


def facts() -> ItemFacts:
    return ItemFacts(VECTORS, (2, 1), np.arange(28, dtype=np.float32).reshape(4, 7), GROUPS)


def by_name(inputs: Inputs, name: str) -> list[float]:
    found: list[float] = inputs.values[:, input_names(["near", "popular"], 2).index(name)].tolist()
    return found


def test_an_item_is_one_candidate_of_a_user_with_its_place_in_each_list(candidates: Candidates) -> None:
    assert candidates.owners.tolist() == [0, 0, 0, 1, 1, 1]
    assert candidates.items.tolist() == [0, 1, 2, 0, 2, 3]
    assert candidates.places["near"].tolist() == [1, 0, np.inf, np.inf, np.inf, 0]
    # What is missing from a list has its lowest score.
    assert candidates.scores["near"].tolist() == [4, 5, 4, 3, 3, 3]
    assert candidates.places["popular"].tolist() == [0, np.inf, 1, 0, 1, np.inf]
    assert candidates.scores["popular"].tolist() == [9, 8, 8, 9, 8, 8]


def test_the_inputs_are_lists_vectors_past_item_and_user(users: UserQueries, candidates: Candidates) -> None:
    inputs = inputs_of(users, candidates, facts(), depth=7, history=3)
    assert inputs.values.shape == (6, len(input_names(["near", "popular"], 2)))
    assert inputs.values.dtype == np.float32
    expected = {
        "near_place": np.log1p([1, 0, 7, 7, 7, 0]),
        "near_first_places": [1 / 2, 1, 0, 0, 0, 1],
        "near_is_there": [1, 1, 0, 0, 0, 1],
        "near_score": np.log1p([4, 5, 4, 3, 3, 3]),
        "vectors_1": [1, 2, 4, 0, 0, 0],
        "vectors_2": [3, 3, 0, 1, 0, 3],
        "times_met": np.log1p([3, 0, 1, 0, 0, 0]),
        "share_of_events": [3 / 4, 0, 1 / 4, 0, 0, 0],
        "days_since_met": np.log1p([10, NEVER_DAYS, 2, *[NEVER_DAYS] * 3]),
        # Items 0 and 1 are of one category, and item 3 of none.
        "category_share": [3 / 4, 3 / 4, 1 / 4, 0, 0, 0],
        "days_since_category": np.log1p([10, 10, 2, *[NEVER_DAYS] * 3]),
        "item_price": [6, 13, 20, 6, 20, 27],
        "user_num_events": np.log1p([4, 4, 4, 0, 0, 0]),
        "user_num_items": np.log1p([2, 2, 2, 0, 0, 0]),
        "user_new_share": [1 / 2, 1 / 2, 1 / 2, 0, 0, 0],
        "days_since_any": np.log1p([2, 2, 2, *[NEVER_DAYS] * 3]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(by_name(inputs, name), values, rtol=1e-6, err_msg=name)


def test_a_candidate_meets_the_latest_items_of_the_history_but_itself(
    users: UserQueries, candidates: Candidates
) -> None:
    inputs = inputs_of(users, candidates, facts(), depth=7, history=3)
    # The latest first: item 2, then item 0.
    assert inputs.is_met.tolist() == [
        [True, False, False],
        [True, True, False],
        [False, True, False],
        *[[False] * 3] * 3,
    ]
    of_one = inputs.pairs[1]
    np.testing.assert_allclose(of_one[0], [1, 0, np.log1p(2), np.log1p(1), 0], rtol=1e-6)
    np.testing.assert_allclose(of_one[1], [0, 1, np.log1p(10), np.log1p(3), 1], rtol=1e-6)
    assert not inputs.pairs[~inputs.is_met].any()


def test_the_inputs_of_a_user_are_the_same_in_any_batch(users: UserQueries, candidates: Candidates) -> None:
    together = inputs_of(users, candidates, facts(), depth=7, history=3)
    for user in (0, 1):
        own = candidates.owners == user
        alone = Candidates(
            np.zeros(own.sum(), np.int64),
            candidates.items[own],
            {name: values[own] for name, values in candidates.places.items()},
            {name: values[own] for name, values in candidates.scores.items()},
        )
        found = inputs_of(users.of(np.array([user])), alone, facts(), depth=7, history=3)
        np.testing.assert_array_equal(found.values, together.values[own])
        np.testing.assert_array_equal(found.pairs, together.pairs[own])


def test_an_added_item_is_one_without_events(users: UserQueries) -> None:
    lists = {"near": (np.array([[4, 3], [4, 2]], np.int32), np.ones((2, 2), np.float32))}
    inputs = inputs_of(users, Candidates.of(lists), facts(), depth=7, history=3)
    added = inputs.values[[1, 3]]
    names = input_names(["near"], 2)
    for name in ("times_met", "category_share", "vectors_1", *STATISTICS):
        assert added[:, names.index(name)].tolist() == [0, 0], name
    assert not inputs.is_met[[1, 3]].any()


def test_of_several_vectors_the_one_that_finds_an_item_counts(users: UserQueries, candidates: Candidates) -> None:
    two = UserQueries(users.purchases, users.as_of_seconds, np.array([[1, 0, 0, 0, 1, 0]] * 2, np.float32))
    inputs = inputs_of(two, candidates, facts(), depth=7, history=3)
    assert by_name(inputs, "vectors_1")[:3] == [1, 1, 2]


def test_statistics_are_logarithms_by_row_of_the_catalogue(tmp_path: Path) -> None:
    values = {"item_id": ["b", "a"], **{name: [None, 3.0] for name in STATISTICS}}
    pq.write_table(pa.table(values), tmp_path / "items.parquet")
    found = read_statistics(tmp_path / "items.parquet", IdMap(["a", "b", "c"]))
    np.testing.assert_allclose(found[0], np.log1p([3 * scale for scale in STATISTICS.values()]), rtol=1e-6)
    assert not found[1:].any()
