"""What lists hold equals the fractions worked out by hand and loops over pairs."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import gini_at_k, head_share_at_k, intra_list_diversity_at_k, novelty_at_k

RANKED = np.array([[2, 0, 5, 1], [3, 4, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]], np.int32)


def lists(rng: np.random.Generator, num_items: int) -> npt.NDArray[np.int32]:
    """Five lists of up to six places; the last one is empty."""
    ranked = np.array([rng.permutation(num_items)[:6] for _ in range(5)], np.int32)
    ends = np.append(rng.integers(0, 7, 4), 0)
    return np.where(np.arange(6) < ends[:, None], ranked, -1).astype(np.int32)


def test_novelty_is_the_bits_that_items_bring() -> None:
    # With one added, counts are 8, 4, 2, 1, 1, 16 of 32: items bring 2, 3, 4, 5, 5 and 1 bits.
    found = novelty_at_k(RANKED, np.array([7, 3, 1, 0, 0, 15]), 3)
    np.testing.assert_allclose(found, [(4 + 2 + 1) / 3, 5, 3, np.nan])


def test_head_share_is_of_listed_items() -> None:
    is_head = np.array([True, True, False, False, True, False])
    np.testing.assert_allclose(head_share_at_k(RANKED, is_head, 4), [2 / 4, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(head_share_at_k(RANKED, is_head, 1), [0, 0, 1, np.nan])


def test_diversity_is_the_share_of_pairs_of_different_groups() -> None:
    # Groups of the first list: b, a, a, a; of its six pairs the three among the a are alike. Two items without a
    # group, as in the second list, differ. One item makes no pair.
    groups = np.array([0, 0, 1, -1, -1, 0])
    np.testing.assert_allclose(intra_list_diversity_at_k(RANKED, groups, 4), [3 / 6, 1, np.nan, np.nan])
    np.testing.assert_allclose(intra_list_diversity_at_k(RANKED, groups, 2), [1, 1, np.nan, np.nan])
    np.testing.assert_allclose(intra_list_diversity_at_k(RANKED, np.zeros(6, np.int64), 4)[:2], [0, 0])
    np.testing.assert_allclose(intra_list_diversity_at_k(RANKED, np.full(6, -1), 4)[:2], [1, 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_diversity_equals_a_loop_over_pairs(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    groups, ranked = rng.integers(-1, 3, 9), lists(rng, 9)
    expected = []
    for row in ranked[:, :k]:
        labels = [int(groups[item]) for item in row if item >= 0]
        pairs = [one != other or one < 0 for one, other in combinations(labels, 2)]
        expected.append(sum(pairs) / len(pairs) if pairs else math.nan)
    np.testing.assert_allclose(intra_list_diversity_at_k(ranked, groups, k), expected)


def test_gini_is_0_for_equal_shares_and_nearly_1_for_one_item() -> None:
    assert gini_at_k(np.array([[0, 1], [2, 3]]), 4, 2) == 0
    assert gini_at_k(np.array([[3], [3], [3]]), 4, 1) == 3 / 4
    # Numbers of lists 0, 0, 1, 3: (-3 * 0 - 1 * 0 + 1 * 1 + 3 * 3) / (4 * 4).
    assert gini_at_k(np.array([[3, -1], [3, 1], [3, -1]]), 4, 2) == 10 / 16
    assert math.isnan(gini_at_k(RANKED[3:], 6, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_gini_is_half_the_relative_mean_difference(seed: int, k: int) -> None:
    ranked = lists(np.random.default_rng(seed), 8)
    ranked[0, 0] = 2
    counts = np.bincount(ranked[:, :k][ranked[:, :k] >= 0], minlength=8)
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert gini_at_k(ranked, 8, k) == pytest.approx(expected)


def test_lists_beyond_the_catalogue_and_faulty_counts_are_refused() -> None:
    for figure in (
        lambda k: novelty_at_k(RANKED, np.ones(5, np.int64), k),
        lambda k: head_share_at_k(RANKED, np.ones(5, bool), k),
        lambda k: intra_list_diversity_at_k(RANKED, np.ones(5, np.int64), k),
        lambda k: gini_at_k(RANKED, 5, k),
    ):
        with pytest.raises(ValueError, match="lists run from -1 to 5, expected -1 to 4"):
            figure(4)
        with pytest.raises(ValueError, match="k is 5 and the lists have 4 places"):
            figure(5)
    with pytest.raises(ValueError, match="item_counts start at -2"):
        novelty_at_k(RANKED, np.array([7, 3, 1, 0, 0, -2]), 3)
