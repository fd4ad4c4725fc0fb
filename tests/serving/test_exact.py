"""Exact search finds what sorting everything finds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import exact
from serving.exact import RunningTopK, search, top_k


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
    return int(request.param)


def integer_vectors(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Small integers: products are exact in float32, so ties are ties in whatever order they are summed."""
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


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and candidate_embeddings \(5, 4\)"):
        search(np.zeros((2, 3), np.float32), np.zeros((5, 4), np.float32), k=1)
    with pytest.raises(ValueError, match=r"exclude is \(5, 2\), expected \(2, 5\)"):
        search(np.zeros((2, 3), np.float32), np.zeros((5, 3), np.float32), k=1, exclude=sp.csr_array((5, 2)))


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.zeros((1, 2), np.float32), 0)


def test_nan_is_refused_with_its_place() -> None:
    candidates = np.ones((5, 2), np.float32)
    candidates[3, 1] = np.nan
    with pytest.raises(ValueError, match="2 scores are not finite, the first of query 0 and candidate 3"):
        search(np.ones((2, 2), np.float32), candidates, k=1)
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        top_k(np.array([[np.nan, 1.0]], np.float32), 1)
