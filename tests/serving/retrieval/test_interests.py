"""Several interests of a user: exact and index search against the largest score by brute force, and what is asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from serving.retrieval import exact
from serving.retrieval.distinct import build_index
from serving.retrieval.eligible import EligibleItems, everything_but
from serving.retrieval.index_recall import ExactLists, measure_recall
from serving.retrieval.interests import (
    by_interest,
    distinct_interests,
    first_coordinates,
    interest_of,
    search_index,
)
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import UserQueries
from serving.retrieval.vector_search import Cascade, TwoTowerRetriever

B, K, D, N = 30, 4, 8, 400
RNG = np.random.default_rng(11)


def unit(*shape: int) -> Scores:
    vectors = RNG.normal(size=(*shape, D))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


ITEMS, USERS = unit(N), unit(B, K).reshape(B, K * D)
INDEX = build_index("ip", ITEMS, m=16, ef_construction=200, seed=1)


def best_scores(users: Scores = USERS, items: Scores = ITEMS) -> npt.NDArray[np.float64]:
    """By brute force: the largest of all inner products of a user's vectors with an item."""
    found = np.empty((len(users), len(items)))
    for user, flat in enumerate(users):
        heads = [flat[begin : begin + D].astype(float) for begin in range(0, len(flat), D)]
        found[user] = np.max([items.astype(float) @ head for head in heads], axis=0)
    return found


def best_rows(scores: npt.NDArray[np.float64], k: int) -> Rows:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)


def purchases_of(matrix: sp.csr_array) -> Purchases:
    counts = np.ones(matrix.nnz, np.int32)
    return Purchases(matrix.indptr.astype(np.int64), matrix.indices, counts, np.zeros(matrix.nnz, np.int64), N)


def known_items() -> sp.csr_array:
    """The best forty of each user's items, and some more."""
    mask = RNG.random((B, N)) < 0.05
    np.put_along_axis(mask, best_rows(best_scores(), 40), True, axis=1)
    matrix: sp.csr_array = sp.csr_array(mask.astype(np.float32))
    matrix.sort_indices()
    return matrix


@pytest.mark.parametrize("num_users", [3, B, 600])
def test_exact_search_finds_the_largest_of_all_scores(num_users: int) -> None:
    users = unit(num_users, K).reshape(num_users, K * D)
    rows, scores = exact.search(users, ITEMS, k=20)
    np.testing.assert_array_equal(rows, best_rows(best_scores(users), 20))
    np.testing.assert_allclose(scores, -np.sort(-best_scores(users), axis=1)[:, :20], rtol=1e-5)


def test_an_index_that_finds_everything_finds_the_same_with_each_item_once() -> None:
    rows, scores = search_index(INDEX, USERS, width=D, k=20, ef=N)
    np.testing.assert_array_equal(rows, best_rows(best_scores(), 20))
    np.testing.assert_allclose(scores, -np.sort(-best_scores(), axis=1)[:, :20], atol=1e-5)
    assert all(len(set(row)) == 20 for row in rows.tolist())


def test_one_vector_asks_as_before_and_a_vector_given_twice_changes_nothing() -> None:
    first = np.ascontiguousarray(USERS[:, :D])
    asked = INDEX.search(first, k=15, ef=N)
    for users in (first, np.hstack([first, first])):
        for found, expected in zip(search_index(INDEX, users, width=D, k=15, ef=N), asked, strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(exact.search(users, ITEMS, k=15)[0], exact.search(first, ITEMS, k=15)[0])


class Counting:
    """An index that counts how many vectors it is asked, and how often."""

    left_out = INDEX.left_out

    def __init__(self) -> None:
        self.asked: list[int] = []

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        self.asked.append(len(query_embeddings))
        return INDEX.search(query_embeddings, k=k, ef=ef)

    def save(self, path: object) -> None:
        raise NotImplementedError


def test_all_interests_ask_in_one_call_and_near_equal_ones_do_not_ask() -> None:
    index = Counting()
    users = unit(2, K)
    users[0, 1:] = users[0, :1]
    # A cosine of .999 with the first, and one of .9.
    axis = np.eye(D, dtype=np.float32)
    users[1, 0], users[1, 1] = axis[0], [0.999, np.sqrt(1 - 0.999**2), *[0] * (D - 2)]
    users[1, 2], users[1, 3] = [0.9, 0, np.sqrt(1 - 0.81), *[0] * (D - 3)], axis[3]
    np.testing.assert_array_equal(distinct_interests(users), [[1, 0, 0, 0], [1, 0, 1, 1]])
    rows, _ = search_index(index, users.reshape(2, K * D), width=D, k=10, ef=N)  # type: ignore[arg-type]
    assert index.asked == [4]
    np.testing.assert_array_equal(rows, best_rows(best_scores(users[:, [0, 2, 3]].reshape(2, 3 * D)), 10))


def test_an_interest_near_one_that_is_dropped_is_asked_all_the_same() -> None:
    # 0 and 1, and 1 and 2 are 7 degrees apart: 1 is dropped for 0, and 2, 14 degrees from it, is not.
    angles = np.deg2rad([0, 7, 14])
    interests = np.stack([np.cos(angles), np.sin(angles)], axis=1)[None].astype(np.float32)
    np.testing.assert_array_equal(distinct_interests(interests), [[True, False, True]])


@pytest.mark.parametrize("index", [None, INDEX])
@pytest.mark.parametrize("filtered", [False, True])
def test_lists_have_k_items_whatever_is_kept_out(index: object, filtered: bool) -> None:
    known = known_items()
    eligible: EligibleItems | None = None
    allowed = np.ones(N, bool)
    if filtered:
        allowed = RNG.random(N) < 0.5
        eligible = everything_but(np.flatnonzero(~allowed).astype(np.int32), num_items=N)
    retriever = TwoTowerRetriever(ITEMS, index, ef=N, max_fetch=N, beam_cost=0.0)  # type: ignore[arg-type]
    users = UserQueries(purchases_of(known), np.zeros(B, np.int64), USERS, exclude_known=True, eligible=eligible)
    rows, scores = retriever.retrieve(users, 50)
    expected = best_scores()
    expected[:, ~allowed] = -np.inf
    expected[known.toarray() > 0] = -np.inf
    np.testing.assert_array_equal(rows, best_rows(expected, 50))
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_list_does_not_depend_on_who_else_asks() -> None:
    together = search_index(INDEX, USERS, width=D, k=10, ef=40)[0]
    alone = [search_index(INDEX, USERS[user : user + 1], width=D, k=10, ef=40)[0][0] for user in range(B)]
    np.testing.assert_array_equal(together, alone)


def test_the_recall_of_an_index_is_that_of_merged_lists() -> None:
    assert measure_recall(INDEX, ITEMS, query_embeddings=USERS, k=20, ef=N) == 1.0
    lists = ExactLists.of(ITEMS, query_embeddings=USERS, k=20)
    np.testing.assert_allclose(lists.lowest, -np.sort(-best_scores(), axis=1)[:, 19], atol=1e-5)

    class Half(Counting):
        def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
            rows, scores = INDEX.search(query_embeddings, k=k, ef=ef)
            rows, scores = rows.copy(), scores.copy()
            rows[:, k // 2 :], scores[:, k // 2 :] = -1, -np.inf
            return rows, scores

    # Of the items that each vector finds, the better half is kept: enough for the upper places of the merged list.
    assert 0.5 < lists.shares(Half(), ef=N).mean() < 1.0


def test_a_cascade_takes_the_best_interest_of_either_part() -> None:
    first = TwoTowerRetriever(ITEMS, None, ef=0, max_fetch=0)
    users = UserQueries(purchases_of(sp.csr_array((B, N), dtype=np.float32)), np.zeros(B, np.int64), USERS)
    rows, scores = Cascade(first, first_width=5, depth=40).retrieve(users, 10)
    heads = USERS.reshape(B, K, D)
    found = best_rows(np.einsum("bkd,nd->bkn", heads[..., :5], ITEMS[:, :5]).max(axis=1), 40)
    second = np.einsum("bkd,nd->bkn", heads[..., 5:], ITEMS[:, 5:]).max(axis=1)
    for user in range(B):
        order = sorted(found[user].tolist(), key=lambda row: -second[user, row])[:10]
        np.testing.assert_array_equal(rows[user], order)
    np.testing.assert_allclose(scores, np.take_along_axis(second, rows, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(first_coordinates(USERS, 5, width=D).reshape(B, K, D)[..., 5:], 0)


def test_an_item_is_found_by_its_best_interest_among_those_that_ask() -> None:
    interests = unit(K)
    interests[1] = interests[0]
    found = interest_of(interests, ITEMS)
    np.testing.assert_array_equal(found, (ITEMS @ interests[[0, 2, 3]].T).argmax(axis=1) + (found > 0))
    assert set(found.tolist()) == {0, 2, 3}


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"user vectors are \(30, 32\) and item vectors have width 5"):
        by_interest(USERS, width=5)
    with pytest.raises(ValueError, match=r"query_embeddings are \(30, 32\) and candidate_embeddings \(400, 5\)"):
        exact.search(USERS, ITEMS[:, :5], k=3)
