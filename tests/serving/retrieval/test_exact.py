"""Exact search finds what sorting everything finds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval import exact, running_top_k
from serving.retrieval.exact import search, top_k
from serving.retrieval.running_top_k import RunningTopK


def slow_top_k(scores: npt.NDArray[np.float32], k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """One sort a row: by falling score, then by rising column."""
    rows = np.full((len(scores), k), -1, np.int32)
    values = np.full((len(scores), k), -np.inf, np.float32)
    for query, row in enumerate(scores):
        order = [column for column in np.lexsort((np.arange(len(row)), -row)) if row[column] > -np.inf][:k]
        rows[query, : len(order)] = order
        values[query, : len(order)] = row[order]
    return rows, values


@pytest.fixture(params=[3, 7, 8192])
def item_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(exact, "ITEM_BLOCK", request.param)
    monkeypatch.setattr(exact, "QUERY_BLOCK", 2)
    monkeypatch.setattr(exact, "QUERY_GROUP", 4)
    return int(request.param)


def integer_vectors(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Small integers: products are exact in float32, so ties are ties in any order of summation."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def test_worked_by_hand() -> None:
    scores = np.array([[0.5, 2.0, 2.0, -1.0], [-np.inf, 1.0, -np.inf, -np.inf]], np.float32)
    rows, values = top_k(scores, 3)
    assert rows.tolist() == [[1, 2, 0], [1, -1, -1]]
    assert values.tolist() == [[2.0, 2.0, 0.5], [1.0, -np.inf, -np.inf]]
    assert rows.dtype == np.int32
    assert values.dtype == np.float32


def test_zero_and_minus_zero_are_a_tie() -> None:
    assert top_k(np.array([[-0.0, 0.0, -0.0]], np.float32), 3)[0].tolist() == [[0, 1, 2]]


@pytest.mark.usefixtures("item_block")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 4, 30])
def test_search_equals_sorting_everything(seed: int, k: int) -> None:
    queries, candidates = integer_vectors(seed, 5, 4), integer_vectors(seed + 100, 23, 4)
    excluded = np.random.default_rng(seed).random((5, 23)) < 0.4
    scores = queries @ candidates.T
    for mask in (None, excluded):
        found = search(queries, candidates, k=k, exclude=None if mask is None else sp.csr_array(mask))
        expected = slow_top_k(scores if mask is None else np.where(mask, -np.inf, scores), k)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.usefixtures("item_block")
def test_all_scores_equal_gives_the_first_rows() -> None:
    rows, _ = search(np.zeros((3, 2), np.float32), np.ones((20, 2), np.float32), k=5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.usefixtures("item_block")
def test_one_query_alone_is_the_same_row_in_a_batch() -> None:
    queries, candidates = integer_vectors(1, 6, 4), integer_vectors(2, 50, 4)
    batch, _ = search(queries, candidates, k=9)
    for row in range(6):
        np.testing.assert_array_equal(search(queries[row : row + 1], candidates, k=9)[0][0], batch[row])


@pytest.mark.usefixtures("item_block")
def test_everything_excluded_leaves_nothing() -> None:
    everything = sp.csr_array(np.ones((2, 10), dtype=bool))
    rows, scores = search(integer_vectors(1, 2, 3), integer_vectors(2, 10, 3), k=4, exclude=everything)
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


@pytest.mark.parametrize(("num_queries", "num_items"), [(0, 5), (3, 0)])
def test_no_queries_or_no_items_keep_the_shape(num_queries: int, num_items: int) -> None:
    rows, scores = search(np.zeros((num_queries, 2), np.float32), np.zeros((num_items, 2), np.float32), k=4)
    assert rows.shape == scores.shape == (num_queries, 4)
    assert (rows == -1).all()


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=12, max_size=12), min_size=1, max_size=4),
    k=st.integers(1, 15),
    width=st.integers(1, 12),
)
def test_blocks_of_any_width_give_the_sorted_scores(scores: list[list[float]], k: int, width: int) -> None:
    block = np.array(scores, np.float32)
    running = RunningTopK(len(block), k)
    for start in range(0, 12, width):
        running.add(block[:, start : start + width], start)
    expected = slow_top_k(block, k)
    np.testing.assert_array_equal(running.result()[0], expected[0])
    np.testing.assert_array_equal(running.result()[1], expected[1])


@pytest.mark.parametrize("num_queries", [1, 40, 300])
@pytest.mark.parametrize("width", [1, 3, 9])
def test_search_in_its_own_blocks_equals_sorting_everything(num_queries: int, width: int) -> None:
    # With 300 queries every block takes items from everywhere. A width of 1 has five scores for 9,000 items, among
    # them users with zeros, for whom all are equal; the popular ones are last.
    queries, candidates = integer_vectors(1, num_queries, width), np.sort(integer_vectors(2, 9_000, width), axis=0)
    excluded = sp.random_array((num_queries, 9_000), density=0.01, format="csr", rng=np.random.default_rng(3))
    scores = queries @ candidates.T
    offered = np.random.default_rng(4).random(9_000) < 0.7
    scale = np.where(np.arange(9_000) % 2, np.float32(2), np.float32(0.5))
    filtered = np.where(offered, scores * scale, np.float32(-np.inf))
    filtered[excluded.nonzero()] = -np.inf
    for expected, found in (
        (scores, search(queries, candidates, k=50)),
        (filtered, search(queries, candidates, k=50, exclude=excluded, offered=offered, scale=scale)),
    ):
        order = np.argsort(-expected, axis=1, kind="stable")[:, :50]
        np.testing.assert_array_equal(found[0], order)
        np.testing.assert_array_equal(found[1], np.take_along_axis(expected, order, axis=1))


def test_blocks_of_rows_from_everywhere_in_any_order_give_the_same() -> None:
    scores = integer_vectors(5, 6, 60)
    running = RunningTopK(6, 4)
    for start in (2, 0, 1):
        running.add(scores[:, start::3], start, 3)
    expected = slow_top_k(scores, 4)
    np.testing.assert_array_equal(running.result()[0], expected[0])
    np.testing.assert_array_equal(running.result()[1], expected[1])


def test_the_bound_of_a_wide_block_is_reached_by_k_and_few_more() -> None:
    scores = np.random.default_rng(6).normal(size=(20, 8000)).astype(np.float32)
    bound = running_top_k._below_kth_largest(scores, 100)
    num_above = (scores >= bound[:, None]).sum(axis=1)
    assert num_above.min() >= 100
    # 100 fall into 800 groups of ten: some 6 share one with a better.
    assert num_above.max() <= 130


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and candidate_embeddings \(5, 4\)"):
        search(np.zeros((2, 3), np.float32), np.zeros((5, 4), np.float32), k=1)
    with pytest.raises(ValueError, match=r"exclude is \(5, 2\), expected \(2, 5\)"):
        search(np.zeros((2, 3), np.float32), np.zeros((5, 3), np.float32), k=1, exclude=sp.csr_array((5, 2)))


def test_finite_vectors_whose_products_are_not_are_refused() -> None:
    large = np.full((300, 2), 1e30, np.float32)
    candidates = np.ones((9000, 2), np.float32)
    assert search(large, candidates, k=1)[1][0, 0] == np.float32(2e30)
    candidates[8999] = 1e30
    # Every query of the first block, of 256.
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="256 scores are not finite, the first of query 0 and candidate 8999"),
    ):
        search(large, candidates, k=1)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        search(np.zeros((0, 2), np.float32), np.zeros((3, 2), np.float32), k=0)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.zeros((1, 2), np.float32), 0)


def test_nan_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = np.ones((5, 2), np.float32)
    candidates[3, 1] = np.nan
    with pytest.raises(ValueError, match="2 scores are not finite, the first of query 0 and candidate 3"):
        search(np.ones((2, 2), np.float32), candidates, k=1)
    many = np.ones((300, 2), np.float32)
    many[299] = np.inf
    monkeypatch.setattr(exact, "QUERY_GROUP", 280)
    with pytest.raises(ValueError, match="5 scores are not finite, the first of query 299 and candidate 0"):
        search(many, np.ones((5, 2), np.float32), k=1)
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        top_k(np.array([[np.nan, 1.0]], np.float32), 1)
