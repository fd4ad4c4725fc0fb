"""Recall of an index is counted by score, over what is offered, for each user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from serving.retrieval.eligible import NO_ITEMS
from serving.retrieval.index import HnswIndex
from serving.retrieval.index_recall import ExactLists, measure_recall
from serving.retrieval.ranking import Rows, Scores

LEFT_OUT = np.sort(np.random.default_rng(9).permutation(500)[:60]).astype(np.int32)


class Given:
    """Answers with given rows."""

    left_out = NO_ITEMS

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = np.array(rows, np.int32)

    def save(self, path: object) -> None:
        raise NotImplementedError

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        return self._rows[:, :k], np.zeros(self._rows.shape, np.float32)


def test_another_item_with_the_same_score_is_no_loss_and_one_found_twice_counts_once() -> None:
    # Scores of the one query (1, 0): 1, .5, .5, .5, 0. Its list of two ends among the equal ones.
    vectors = np.array([[1, 0], [0.5, 1], [0.5, -1], [0.5, 2], [0, 1]], np.float32)
    lists = ExactLists.of(vectors, query_embeddings=np.array([[1, 0]], np.float32), k=2)
    for rows, share in (([0, 1], 1), ([0, 3], 1), ([2, 3], 1), ([0, 4], 0.5), ([0, 0], 0.5), ([4, -1], 0)):
        assert lists.shares(Given([rows]), ef=1).tolist() == [share], rows


def test_each_user_has_a_share_of_their_own() -> None:
    vectors = np.eye(4, dtype=np.float32)
    asked = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], np.float32)
    lists = ExactLists.of(vectors, query_embeddings=asked, k=2)
    assert lists.shares(Given([[0, 1], [0, 1]]), ef=1).tolist() == [1, 0]


def test_long_queries_and_vectors_have_ties_of_their_own_scale() -> None:
    vectors = np.array([[3000, 0], [2999, 0], [2998.999, 0]], np.float32)
    lists = ExactLists.of(vectors, query_embeddings=np.array([[700, 0]], np.float32), k=2)
    # The two scores differ by .7 of 2,100,000, which float32 hardly has.
    assert lists.shares(Given([[0, 2]]), ef=1).tolist() == [1]


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    drawn = np.random.default_rng(1).normal(size=(500, 16))
    unit: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_recall_needs_a_query(vectors: npt.NDArray[np.float32]) -> None:
    index = HnswIndex.build(vectors, m=8, ef_construction=100, seed=3)
    with pytest.raises(ValueError, match="no query"):
        measure_recall(index, vectors, query_embeddings=vectors[:0], k=5, ef=10)


def test_recall_is_over_offered_items(vectors: npt.NDArray[np.float32]) -> None:
    queries = np.random.default_rng(2).normal(size=(20, 16)).astype(np.float32)
    without = HnswIndex.build(vectors, m=8, ef_construction=100, seed=3, left_out=LEFT_OUT)
    assert measure_recall(without, vectors, query_embeddings=queries, k=30, ef=500) == 1.0
    assert measure_recall(without, vectors, query_embeddings=queries, k=1000, ef=500) == 1.0
    products = queries @ vectors.T
    products[:, LEFT_OUT] = -np.inf
    wanted = np.argsort(-products, axis=1, kind="stable")[:, :5]
    rows, _ = without.search(queries, k=5, ef=5)
    hits = [len(np.intersect1d(*lists)) for lists in zip(rows, wanted, strict=True)]
    narrow = measure_recall(without, vectors, query_embeddings=queries, k=5, ef=5)
    assert narrow == pytest.approx(sum(hits) / 100)
    assert narrow < 1
