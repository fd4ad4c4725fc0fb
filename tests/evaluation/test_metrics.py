"""Metrics equal the fractions worked out by hand and a loop over users."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import (
    coverage_at_k,
    distinct_groups_at_k,
    find_hits,
    hit_rate_at_k,
    index_recall_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    recall_curve,
    reciprocal_rank,
    value_weighted_recall_at_k,
)

# Four users, six items. The third has nothing relevant, the fourth got an empty list.
RANKED = np.array([[2, 0, 5, 1], [3, 4, -1, -1], [0, 1, 2, 3], [-1, -1, -1, -1]], np.int32)
RELEVANT = sp.csr_array(
    np.array([[1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=bool)
)


def test_distinct_groups_count_items_without_a_group_one_by_one() -> None:
    groups = np.array([0, 0, 1, -1, -1])
    ranked = np.array([[0, 1, 2, 3, 4], [0, 1, -1, -1, -1], [-1, -1, -1, -1, -1]])
    assert distinct_groups_at_k(ranked, groups, 5).tolist() == [4, 1, 0]
    assert distinct_groups_at_k(ranked, groups, 3).tolist() == [2, 1, 0]


def test_recall_divides_by_all_that_is_relevant() -> None:
    hits = find_hits(RANKED, RELEVANT)
    # User 0: item 0 in place 2 and item 5 in place 3, of the three relevant ones; user 1: its one item in place 2.
    np.testing.assert_allclose(recall_at_k(hits, 1), [0, 0, np.nan, 0])
    np.testing.assert_allclose(recall_at_k(hits, 2), [1 / 3, 1, np.nan, 0])
    np.testing.assert_allclose(recall_at_k(hits, 4), [2 / 3, 1, np.nan, 0])


def test_precision_divides_by_k_however_short_the_list_is() -> None:
    hits = find_hits(RANKED, RELEVANT)
    np.testing.assert_allclose(precision_at_k(hits, 3), [2 / 3, 1 / 3, np.nan, 0])
    np.testing.assert_allclose(precision_at_k(hits, 4), [2 / 4, 1 / 4, np.nan, 0])


def test_value_weighted_recall_counts_the_values_of_items() -> None:
    hits = find_hits(RANKED, RELEVANT)
    # User 0 finds item 0 (worth 1) in place 2 and item 5 (3) in place 3, and misses item 3 (4).
    values = np.array([1.0, 0, 9, 4, 2, 3])
    np.testing.assert_allclose(value_weighted_recall_at_k(hits, RANKED, RELEVANT, values, 2), [1 / 8, 1, np.nan, 0])
    np.testing.assert_allclose(value_weighted_recall_at_k(hits, RANKED, RELEVANT, values, 3), [4 / 8, 1, np.nan, 0])
    # Item 4, all that user 1 wants, is worth nothing now.
    values[4] = 0
    np.testing.assert_allclose(value_weighted_recall_at_k(hits, RANKED, RELEVANT, values, 3)[1], np.nan)


def test_values_that_cannot_be_added_up_are_refused() -> None:
    hits = find_hits(RANKED, RELEVANT)
    with pytest.raises(ValueError, match=r"values have shape \(5,\), expected \(6,\)"):
        value_weighted_recall_at_k(hits, RANKED, RELEVANT, np.ones(5), 2)
    for bad in (-1.0, np.nan, np.inf):
        values = np.array([1, 1, bad, 1, bad, 1])
        with pytest.raises(ValueError, match=f"2 values are below 0 or not finite; row 2 has {bad}"):
            value_weighted_recall_at_k(hits, RANKED, RELEVANT, values, 2)


def test_ndcg_is_relative_to_a_list_of_at_most_k() -> None:
    hits = find_hits(RANKED, RELEVANT)
    gain = [1 / math.log2(place + 1) for place in range(1, 5)]
    # At k = 2 user 0's best list has two hits although three items are relevant.
    expected = [gain[1] / (gain[0] + gain[1]), gain[1] / gain[0], np.nan, 0]
    np.testing.assert_allclose(ndcg_at_k(hits, 2), expected)
    expected = [(gain[1] + gain[2]) / (gain[0] + gain[1] + gain[2]), gain[1] / gain[0], np.nan, 0]
    np.testing.assert_allclose(ndcg_at_k(hits, 4), expected)


def test_reciprocal_rank_and_hit_rate() -> None:
    hits = find_hits(RANKED, RELEVANT)
    np.testing.assert_allclose(reciprocal_rank(hits), [1 / 2, 1 / 2, np.nan, 0])
    np.testing.assert_allclose(hit_rate_at_k(hits, 1), [0, 0, np.nan, 0])
    np.testing.assert_allclose(hit_rate_at_k(hits, 3), [1, 1, np.nan, 0])


def test_coverage_counts_distinct_items_and_no_padding() -> None:
    assert coverage_at_k(RANKED, 6, k=1) == 3 / 6  # 2, 3, 0
    assert coverage_at_k(RANKED, 6, k=4) == 6 / 6
    assert coverage_at_k(RANKED[3:], 6, k=4) == 0


def test_index_recall_is_relative_to_the_exact_list() -> None:
    exact = np.array([[0, 1, 2, 3], [4, 3, -1, -1], [5, 4, 3, 2], [-1, -1, -1, -1]], np.int32)
    np.testing.assert_allclose(index_recall_at_k(RANKED, exact, k=3), [2 / 3, 1, 0, np.nan])


def slow_figures(ranked: npt.NDArray[np.int32], relevant: npt.NDArray[np.bool_], k: int) -> list[list[float]]:
    """A loop over users and places: recall, ndcg, hit rate, reciprocal rank, precision, recall by value (row % 3)."""
    figures = []
    for places, wanted in zip(ranked, relevant, strict=True):
        if not wanted.any():
            figures.append([math.nan] * 6)
            continue
        hits = [row >= 0 and bool(wanted[row]) for row in places]
        gain = sum(1 / math.log2(place + 2) for place in range(k) if hits[place])
        best = sum(1 / math.log2(place + 2) for place in range(min(k, int(wanted.sum()))))
        first = 1 / (hits.index(True) + 1) if True in hits else 0.0
        figures.append([sum(hits[:k]) / int(wanted.sum()), gain / best, float(any(hits[:k])), first, sum(hits[:k]) / k])
        worth = sum(int(row) % 3 for row in np.flatnonzero(wanted))
        found = sum(int(row) % 3 for row, hit in zip(places[:k], hits, strict=False) if hit)
        figures[-1].append(found / worth if worth else math.nan)
    return figures


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    ranked = np.array([rng.permutation(num_items) for _ in range(num_users)], np.int32)
    ends = rng.integers(0, num_items + 1, (num_users, 1))
    ranked = np.where(np.arange(num_items) < ends, ranked, -1).astype(np.int32)
    return ranked, rng.random((num_users, num_items)) < draw(st.floats(0, 1)), draw(st.integers(1, num_items))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_metrics_equal_the_slow_twin(case: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int]) -> None:
    ranked, relevant, k = case
    hits = find_hits(ranked, sp.csr_array(relevant))
    values = np.arange(relevant.shape[1]) % 3.0
    found = [metric(hits, k) for metric in (recall_at_k, ndcg_at_k, hit_rate_at_k)]
    found += [reciprocal_rank(hits), precision_at_k(hits, k)]
    found.append(value_weighted_recall_at_k(hits, ranked, sp.csr_array(relevant), values, k))
    np.testing.assert_allclose(np.column_stack(found), np.array(slow_figures(ranked, relevant, k)))


@settings(max_examples=25, deadline=None)
@given(cases())
def test_items_worth_the_same_make_the_recall(case: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int]) -> None:
    ranked, dense, k = case
    relevant = sp.csr_array(dense)
    hits = find_hits(ranked, relevant)
    weighted = value_weighted_recall_at_k(hits, ranked, relevant, np.full(dense.shape[1], 2.5), k)
    np.testing.assert_allclose(weighted, recall_at_k(hits, k))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_metrics_lie_in_0_to_1_and_longer_lists_find_no_less(
    case: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int],
) -> None:
    ranked, relevant, k = case
    hits = find_hits(ranked, sp.csr_array(relevant))
    users = hits.num_relevant > 0
    at_k = [metric(hits, k) for metric in (recall_at_k, ndcg_at_k, hit_rate_at_k, precision_at_k)]
    for values in (*at_k, reciprocal_rank(hits)):
        np.testing.assert_array_equal(np.isnan(values), ~users)
        assert ((values[users] >= 0) & (values[users] <= 1 + 1e-12)).all()
    curve = recall_curve(hits)
    if users.any():
        assert (np.diff(curve) >= 0).all()
        assert curve[k - 1] == pytest.approx(np.nanmean(recall_at_k(hits, k)))
    else:
        assert np.isnan(curve).all()


@settings(max_examples=25, deadline=None)
@given(cases())
def test_permuting_users_permutes_the_metrics(
    case: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], int],
) -> None:
    ranked, relevant, k = case
    order = np.arange(len(ranked))[::-1]
    there = ndcg_at_k(find_hits(ranked, sp.csr_array(relevant)), k)[order]
    np.testing.assert_allclose(ndcg_at_k(find_hits(ranked[order], sp.csr_array(relevant[order])), k), there, rtol=1e-12)


def test_the_best_list_has_ndcg_1() -> None:
    hits = find_hits(np.array([[3, 0, 5, 1]], np.int32), RELEVANT[[0]])
    np.testing.assert_allclose([ndcg_at_k(hits, k)[0] for k in (1, 2, 3, 4)], 1)


def test_lists_shorter_than_k_are_refused() -> None:
    hits = find_hits(RANKED, RELEVANT)
    for metric in (recall_at_k, ndcg_at_k, hit_rate_at_k, precision_at_k):
        with pytest.raises(ValueError, match="k is 5 and the lists have 4 places"):
            metric(hits, 5)
    with pytest.raises(ValueError, match="k is 0"):
        coverage_at_k(RANKED, 6, k=0)
    with pytest.raises(ValueError, match="num_items is 0"):
        coverage_at_k(RANKED, 0, k=1)
    with pytest.raises(ValueError, match="k is 4 and the lists have 2 places"):
        index_recall_at_k(RANKED, RANKED[:, :2], k=4)


def test_malformed_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="user row 1 holds an item twice"):
        find_hits(np.array([[0, 1], [2, 2], [-1, -1], [0, 1]]), RELEVANT)
    with pytest.raises(ValueError, match="user row 2 goes on behind a -1"):
        find_hits(np.array([[0, 1], [2, 3], [-1, 4], [0, 1]]), RELEVANT)
    with pytest.raises(ValueError, match="runs from 0 to 6, expected -1 to 5"):
        find_hits(np.array([[0], [6], [1], [1]]), RELEVANT)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected integers \[4, K\]"):
        find_hits(np.array([[0, 1]]), RELEVANT)
    with pytest.raises(ValueError, match="ranked is float64"):
        find_hits(np.zeros((4, 1)), RELEVANT)  # type: ignore[arg-type]
