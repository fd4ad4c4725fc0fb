"""Reciprocal rank fusion of several lists."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval.retrievers import reciprocal_rank_fusion


def test_shares_of_all_lists_add_up() -> None:
    first = np.array([[7, 3, 5]], np.int32)
    second = np.array([[5, 7, -1]], np.int32)
    rows, scores = reciprocal_rank_fusion([first, second], [1.0, 2.0], rank_constant=1, k=4)
    # Item 7: 1/2 + 2/3 = 7/6; item 5: 1/4 + 2/2 = 5/4; item 3: 1/3.
    assert rows.tolist() == [[5, 7, 3, -1]]
    expected = [float(Fraction(5, 4)), float(Fraction(7, 6)), float(Fraction(1, 3))]
    np.testing.assert_allclose(scores[0, :3], expected, rtol=1e-6)
    assert scores[0, 3] == -np.inf


def test_equal_scores_are_ordered_by_row() -> None:
    lists = [np.array([[9, 1]], np.int32), np.array([[4, 1]], np.int32)]
    rows, _ = reciprocal_rank_fusion(lists, [1.0, 1.0], rank_constant=0, k=3)
    # 9 and 4: 1/1; 1: 1/2 + 1/2.
    assert rows.tolist() == [[1, 4, 9]]


def test_a_user_with_empty_lists_gets_an_empty_one() -> None:
    lists = [np.array([[-1, -1], [3, -1]], np.int32)]
    rows, _ = reciprocal_rank_fusion(lists, [1.0], rank_constant=60, k=2)
    assert rows.tolist() == [[-1, -1], [3, -1]]
    empty, _ = reciprocal_rank_fusion([np.full((2, 2), -1, np.int32)], [1.0], rank_constant=60, k=2)
    assert empty.tolist() == [[-1, -1], [-1, -1]]


def slow_fusion(lists: list[list[int]], weights: list[float], rank_constant: float, k: int) -> list[int]:
    scores: dict[int, float] = {}
    for rows, weight in zip(lists, weights, strict=True):
        for rank, row in enumerate(rows, start=1):
            scores[row] = scores.get(row, 0.0) + weight / (rank_constant + rank)
    return sorted(scores, key=lambda row: (-scores[row], row))[:k]


@settings(deadline=None)
@given(st.lists(st.permutations(range(6)), min_size=1, max_size=3), st.data())
def test_one_user_agrees_with_the_slow_twin(lists: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(lists), max_size=len(lists)))
    arrays = [np.array([rows, rows[::-1]], np.int32) for rows in lists]
    found, scores = reciprocal_rank_fusion(arrays, weights, rank_constant=1, k=4)
    assert found[0].tolist() == slow_fusion(lists, weights, 1, 4)
    assert found[1].tolist() == slow_fusion([rows[::-1] for rows in lists], weights, 1, 4)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("weights", "rank_constant", "message"),
    [
        ([1.0, 2.0], 60.0, "1 lists and 2 weights"),
        ([-1.0], 60.0, r"weights \[-1.0\]"),
        ([1.0], -2.0, "rank_constant -2"),
    ],
)
def test_invalid_arguments_are_refused(weights: list[float], rank_constant: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reciprocal_rank_fusion([np.zeros((1, 1), np.int32)], weights, rank_constant=rank_constant, k=1)
