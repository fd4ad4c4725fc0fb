"""Agreement of lists equals fractions worked out by hand, and the infinite sum that it is defined by."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.agreement import overlap_at_k, rank_biased_overlap


def test_overlap_is_of_the_longer_list() -> None:
    a = np.array([[0, 1, 2], [0, 1, -1], [3, -1, -1], [-1, -1, -1], [-1, -1, -1]])
    b = np.array([[2, 0, 4], [1, 5, 0], [4, -1, -1], [0, -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(overlap_at_k(a, b, 3), [2 / 3, 2 / 3, 0, 0, np.nan])
    np.testing.assert_allclose(overlap_at_k(a, b, 2), [1 / 2, 1 / 2, 0, 0, np.nan])
    np.testing.assert_allclose(overlap_at_k(b, a, 2), overlap_at_k(a, b, 2))


def test_rank_biased_overlap_by_hand() -> None:
    # In common by depth: [0, 1] and [1, 0] none, then both. With p = 1/2, (1-p)/p = 1:
    # 0/1 * 1/2 + 2/2 * 1/4 + 2/2 * 1/4, the last one for all that lies behind.
    assert rank_biased_overlap(np.array([[0, 1]]), np.array([[1, 0]]), 0.5)[0] == pytest.approx(1 / 2)
    # [0, 2] and [0, 3]: one at each depth. 1/1 * 1/2 + 1/2 * 1/4 + 1/2 * 1/4.
    assert rank_biased_overlap(np.array([[0, 2]]), np.array([[0, 3]]), 0.5)[0] == pytest.approx(3 / 4)
    # [0] and [0, 3, 4]: s = 1, l = 3, one in common at each depth. The sums are 1/2 + 1/2 * 1/4 + 1/3 * 1/8 and, for
    # the end of the shorter list, (1/2) * 1/4 + (2/3) * 1/8; behind both ((1 - 1)/3 + 1/1) * 1/8. That is 1.
    assert rank_biased_overlap(np.array([[0, -1, -1]]), np.array([[0, 3, 4]]), 0.5)[0] == pytest.approx(1)
    # [5] and [0, 5, 4]: nothing at depth 1, the whole of the shorter one; then one.
    # 0 + 1/2 * 1/4 + 1/3 * 1/8, and behind both (1 - 0)/3 * 1/8.
    found = rank_biased_overlap(np.array([[5, -1, -1]]), np.array([[0, 5, 4]]), 0.5)[0]
    assert found == pytest.approx(1 / 8 + 1 / 24 + 1 / 24)


def test_an_empty_list_agrees_with_none_and_two_of_them_are_undefined() -> None:
    a, b = np.array([[0, 1], [-1, -1], [-1, -1]]), np.array([[-1, -1], [-1, -1], [3, -1]])
    np.testing.assert_array_equal(rank_biased_overlap(a, b), [0, np.nan, 0])


def slow_overlap(a: list[int], b: list[int], p: float) -> float:
    """The infinite sum, cut where p^d is nothing: both lists continue as RBO_ext assumes."""
    shorter, longer = sorted((a, b), key=len)
    if not longer:
        return math.nan
    if not shorter:
        return 0.0
    end = len(shorter)
    at_end = len(set(shorter) & set(longer[:end]))
    total = agreement = 0.0
    for depth in range(1, 400):
        if depth <= len(longer):
            common = len(set(shorter[:depth]) & set(longer[:depth])) + max(depth - end, 0) * at_end / end
            agreement = common / depth
        total += (1 - p) * p ** (depth - 1) * agreement
    return total


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.8, 0.9]))
def test_rank_biased_overlap_is_the_infinite_sum(seed: int, p: float) -> None:
    rng = np.random.default_rng(seed)

    def lists(num_places: int) -> npt.NDArray[np.int32]:
        ranked = np.array([rng.permutation(9)[:num_places] for _ in range(4)], np.int32)
        return np.where(np.arange(num_places) < rng.integers(0, num_places + 1, (4, 1)), ranked, -1).astype(np.int32)

    a, b = lists(6), lists(int(rng.integers(4, 9)))
    expected = [
        slow_overlap(one[one >= 0].tolist(), other[other >= 0].tolist(), p) for one, other in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(rank_biased_overlap(a, b, p), expected, atol=1e-12)
    np.testing.assert_allclose(rank_biased_overlap(b, a, p), expected, atol=1e-12)
    same = rank_biased_overlap(a, a, p)
    np.testing.assert_allclose(same, np.where((a >= 0).any(axis=1), 1, np.nan))


def test_a_swap_near_the_top_weighs_more() -> None:
    a = np.tile(np.arange(10), (2, 1))
    b = np.array([[1, 0, *range(2, 10)], [*range(8), 9, 8]])
    top, bottom = rank_biased_overlap(a, b)
    assert top < bottom < 1
    np.testing.assert_array_equal(overlap_at_k(a, b, 10), [1, 1])


def test_lists_that_do_not_pair_are_refused() -> None:
    a, b = np.array([[0, 1]]), np.array([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="lists of 1 users and of 2; pair the same users"):
        overlap_at_k(a, b, 1)
    with pytest.raises(ValueError, match="lists of 2 users and of 1"):
        rank_biased_overlap(b, a)
    with pytest.raises(ValueError, match="k is 3 and the lists have 2 places"):
        overlap_at_k(a, a, 3)
    with pytest.raises(ValueError, match="user row 0 holds an item twice"):
        overlap_at_k(a, np.array([[4, 4]]), 1)
    with pytest.raises(ValueError, match=r"persistence is 1\.0, expected a probability between 0 and 1"):
        rank_biased_overlap(a, a, 1.0)
