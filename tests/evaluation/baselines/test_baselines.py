"""Baselines equal their textbook forms and never list what is masked."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import scipy.sparse as sp

from evaluation.baselines import BASELINES as REGISTERED
from evaluation.baselines import ease as ease_file
from evaluation.baselines.als import fit_als
from evaluation.baselines.baseline import Baseline, Past
from evaluation.baselines.ease import ease, gram_of, item_weights, most_items, scores_by_items, side_in_memory
from evaluation.baselines.item_knn import cosine_neighbours, item_knn
from evaluation.baselines.popularity import popularity
from evaluation.baselines.repeat_purchase import repeat_purchase
from evaluation.split import Split


def split_of(counts: npt.ArrayLike, days_since: npt.ArrayLike | None = None) -> Split:
    """A split with this history and nothing relevant."""
    history = sp.csr_array(np.asarray(counts, np.float32))
    days = history.copy().astype(np.float64)
    days.data = np.ones(history.nnz) if days_since is None else np.asarray(days_since)[history.nonzero()]
    nothing = sp.csr_array(np.zeros(history.shape, dtype=bool))
    return Split(
        user_ids=np.array([f"u{row}" for row in range(history.shape[0])], dtype=object),
        history=history,
        days_since=days,
        relevant=nothing,
        relevant_new=nothing,
        days_until=nothing.astype(np.int16),
        cut=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        window_days=7,
        num_unknown_window_pairs=0,
        num_unknown_window_items=0,
        num_unknown_history_events=0,
    )


def random_split(num_users: int, num_items: int, seed: int) -> Split:
    """About a third of all pairs bought, once to three times; the last user bought nothing."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, (num_users, num_items)) * (rng.random((num_users, num_items)) < 0.35)
    counts[-1] = 0
    return split_of(counts)


def rank_slowly(scores: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int32]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(scores, order, axis=1)), -1, order).astype(np.int32)


def test_popularity_by_hand() -> None:
    split = split_of([[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    counts = np.array([2, 7, 0, 2])
    everybody = popularity(split, 4, item_counts=counts, new_only=False)
    assert everybody.tolist() == [[1, 0, 3, -1]] * 3  # 7, then 2 and 2 by row; nobody bought item 2
    new = popularity(split, 2, item_counts=counts, new_only=True)
    assert new.tolist() == [[0, 3], [1, 0], [-1, -1]]


def test_popularity_of_new_items_equals_masking_and_sorting() -> None:
    split = random_split(20, 40, seed=3)
    counts = np.random.default_rng(5).integers(0, 9, 40)
    scores = np.where((split.history.toarray() > 0) | (counts == 0), -np.inf, counts)
    found = popularity(split, 12, item_counts=counts, new_only=True)
    np.testing.assert_array_equal(found, rank_slowly(scores, 12))


def test_popularity_needs_a_count_for_each_item() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(4,\)"):
        popularity(split_of([[1, 0, 0, 0]]), 2, item_counts=np.ones(3, np.int64), new_only=False)


def test_repeat_purchase_by_hand() -> None:
    split = split_of(
        [[3, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]],
        days_since=[[90, 0, 7, 2, 7], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    )
    # Most often first, then the latest, then the lower row; nothing is filled in.
    assert repeat_purchase(split, 4, new_only=False).tolist() == [[0, 3, 2, 4], [-1] * 4, [4, 3, 2, 1]]
    assert repeat_purchase(split, 4, new_only=True).tolist() == [[-1] * 4] * 3


def slow_cosines(
    bought: npt.NDArray[np.bool_], columns: npt.NDArray[np.int64], num_neighbours: int
) -> npt.NDArray[np.float64]:
    """Row j: the cosines of j's nearest items, by a loop over pairs."""
    num_items = bought.shape[1]
    cosines = np.zeros((num_items, num_items))
    buyers = bought.sum(axis=0)
    for j in range(num_items):
        for i in range(num_items):
            if i != j and i in columns and j in columns:
                cosines[j, i] = (bought[:, i] & bought[:, j]).sum() / np.sqrt(buyers[i] * buyers[j])
        nearest = np.lexsort((np.arange(num_items), -cosines[j].astype(np.float32)))[:num_neighbours]
        cosines[j, np.setdiff1d(np.arange(num_items), nearest)] = 0
    return cosines


def test_cosines_by_hand() -> None:
    # Buyers: item 0 has users 0 1 2 3, item 1 has 0 1 2, item 2 has 2 only.
    history = sp.csr_array(np.array([[1, 9, 0], [1, 1, 0], [2, 1, 1], [1, 0, 0]], np.float32))
    cosines = cosine_neighbours(history, num_neighbours=2).toarray()
    expected = [[0, 3 / np.sqrt(12), 1 / 2], [3 / np.sqrt(12), 0, 1 / np.sqrt(3)], [1 / 2, 1 / np.sqrt(3), 0]]
    np.testing.assert_allclose(cosines, expected, rtol=1e-6)
    only_two = cosine_neighbours(history, num_neighbours=1, columns=np.array([0, 1])).toarray()
    np.testing.assert_allclose(only_two, [[0, 3 / np.sqrt(12), 0], [3 / np.sqrt(12), 0, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("block_entries", [7, 1 << 24])
@pytest.mark.parametrize("new_only", [False, True])
def test_item_knn_equals_the_slow_twin(block_entries: int, new_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.baselines.item_knn._BLOCK_ENTRIES", block_entries)
    split = random_split(30, 14, seed=1)
    bought = split.history.toarray() > 0
    columns = np.flatnonzero(bought.sum(axis=0) >= 8)
    cosines = slow_cosines(bought, columns, 4)
    neighbours = cosine_neighbours(split.history, num_neighbours=4, columns=columns)
    np.testing.assert_allclose(neighbours.toarray(), cosines, rtol=1e-6)
    scores = bought @ cosines.T
    scores[(scores == 0) | (bought & new_only)] = -np.inf
    found, _ = item_knn(split.history, 10, neighbours=neighbours, new_only=new_only)
    listed = np.where(found >= 0, np.take_along_axis(scores, np.maximum(found, 0), axis=1), -np.inf)
    np.testing.assert_allclose(listed, -np.sort(-scores, axis=1)[:, :10], rtol=1e-5)
    assert (found[-1] == -1).all()


def test_item_knn_without_any_neighbour_lists_nothing() -> None:
    history = split_of([[1, 0, 0]]).history
    neighbours = cosine_neighbours(history, num_neighbours=2)
    assert item_knn(history, 2, neighbours=neighbours, new_only=False)[0].tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match=r"\(2, 3\), expected \[3, 3\]"):
        item_knn(history, 2, neighbours=sp.csr_array((2, 3)), new_only=False)


def textbook_weights(binary: npt.NDArray[np.float64], regularisation: float) -> npt.NDArray[np.float64]:
    """Steck, WWW 2019, algorithm 1."""
    gram = binary.T @ binary + regularisation * np.eye(binary.shape[1])
    inverse = np.linalg.inv(gram)
    weights = inverse / (-np.diag(inverse))
    weights[np.diag_indices_from(weights)] = 0
    return weights


def binary_of(bought: npt.NDArray[np.bool_]) -> sp.csr_array:
    return sp.csr_array(bought.astype(np.float32))


@pytest.mark.parametrize(("num_users", "num_items"), [(12, 30), (30, 12), (20, 20)])
@pytest.mark.parametrize("regularization", [0.5, 300.0])
def test_both_sides_of_ease_equal_the_textbook(
    num_users: int, num_items: int, regularization: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease_file, "_BLOCK", 7)
    bought = random_split(num_users, num_items, seed=2).history.toarray() > 0
    weights, some = textbook_weights(bought.astype(np.float64), regularization), np.array([0, 5, 3])
    gram = gram_of(binary_of(bought))
    before, inverse = gram.copy(), ease_file._inverse(gram, regularization)
    np.testing.assert_array_equal(gram, before)
    if num_users < num_items:
        blocks = list(scores_by_items(binary_of(bought), inverse, regularization, some))
        scores = np.hstack([block for _, block, _ in blocks])
        np.testing.assert_array_equal(np.hstack([of_block for _, _, of_block in blocks]), bought[some])
        np.testing.assert_allclose(scores, bought[some] @ weights, rtol=1e-3, atol=1e-4)
    else:
        np.testing.assert_allclose(item_weights(inverse), weights, rtol=1e-3, atol=1e-5)


def test_ease_solves_the_constrained_problem() -> None:
    bought = (random_split(25, 8, seed=4).history.toarray() > 0).astype(np.float64)
    binary = sp.csr_array(bought.astype(np.float32))
    weights = item_weights(ease_file._inverse(gram_of(binary), 3.0)).astype(np.float64)
    gradient = -bought.T @ (bought - bought @ weights) + 3.0 * weights
    np.fill_diagonal(gradient, 0)  # held by the constraint
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("new_only", [False, True])
@pytest.mark.parametrize(("num_users", "num_items"), [(12, 40), (40, 12)])
def test_ease_lists_the_highest_scores_of_all_items(num_users: int, num_items: int, new_only: bool) -> None:
    bought = random_split(num_users, num_items, seed=6).history.toarray() > 0
    scores = bought @ textbook_weights(bought.astype(np.float64), 5.0)
    scores[bought & new_only] = -np.inf
    some = np.arange(0, num_users - 1, 2)
    found, given = ease(binary_of(bought), gram_of(binary_of(bought)), 5.0)(some, 9, new_only)
    # By their scores: two items with the same buyers tie in theory, and in either order after rounding.
    listed = np.where(found >= 0, np.take_along_axis(scores[some], np.maximum(found, 0), axis=1), -np.inf)
    np.testing.assert_allclose(listed, -np.sort(-scores[some], axis=1)[:, :9], atol=1e-4)
    np.testing.assert_allclose(given, listed, atol=1e-4)


def test_ease_refuses_no_regularization() -> None:
    binary = binary_of(np.array([[True, False]]))
    with pytest.raises(ValueError, match=r"regularization is 0\.0, expected a number above 0"):
        ease(binary, gram_of(binary), 0.0)


def test_ease_uses_all_items_where_either_side_fits_into_memory() -> None:
    assert side_in_memory(float("inf")) == 18_918  # 12 bytes an entry of 4 GiB
    assert side_in_memory(2 * 12 * 100**2) == 100
    assert side_in_memory(0.0) == 1
    assert most_items(100, 100) >= 10**9
    assert most_items(101, 100) == 100


def test_without_memory_for_all_items_ease_takes_those_with_most_users_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ease_file, "_available_bytes", lambda: 2.0 * 12 * 3**2)
    split = split_of([[1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 1], [1, 1, 0, 0, 1]])
    fitted = REGISTERED["ease"].fit(past_of(split))
    assert "EASE: 3 of 4 items, those with the most users" in fitted.note
    ranked = fitted.rank(5, False)
    assert set(ranked[0, :3].tolist()) == {0, 1, 4}
    assert ranked[0, 3:].tolist() == [2, -1]  # what is popular comes behind


BASELINES: dict[str, Callable[[Split, int, bool], npt.NDArray[np.int32]]] = {
    "popularity": lambda split, k, new: popularity(
        split, k, item_counts=np.arange(split.history.shape[1]), new_only=new
    ),
    "repeat_purchase": lambda split, k, new: repeat_purchase(split, k, new_only=new),
    "item_knn": lambda split, k, new: item_knn(
        split.history, k, neighbours=cosine_neighbours(split.history, num_neighbours=5), new_only=new
    )[0],
    "als": lambda split, k, new: fit_als(split, factors=4, seed=1)(np.arange(split.history.shape[0]), k, new)[0],
}


def past_of(split: Split) -> Past:
    """A past in which everything happened on the day before the cut."""
    item_ids = np.array([f"i{row:02}" for row in range(split.history.shape[1])], dtype=object)
    users, items = split.history.nonzero()
    moments = pa.array([split.cut - dt.timedelta(days=1)] * len(users), pa.timestamp("us", "UTC"))
    columns = {"user_id": split.user_ids[users], "item_id": item_ids[items]}
    events = pa.table({name: pa.array(ids, pa.string()) for name, ids in columns.items()} | {"timestamp": moments})
    return Past(split, events, item_ids, seed=1)


def as_registered(baseline: Baseline) -> Callable[[Split, int, bool], npt.NDArray[np.int32]]:
    """A baseline of every comparison, as it is there."""
    return lambda split, k, new_only: baseline.fit(past_of(split)).rank(k, new_only)


BASELINES |= {f"{name}, as registered": as_registered(baseline) for name, baseline in REGISTERED.items()}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("k", [1, 6, 50])
def test_every_baseline_lists_distinct_items_and_pads_at_the_end(name: str, k: int) -> None:
    split = random_split(15, 20, seed=7)
    for new_only in (False, True):
        ranked = BASELINES[name](split, k, new_only)
        assert ranked.shape == (15, k)
        assert ranked.dtype == np.int32
        assert not ((ranked[:, 1:] >= 0) & (ranked[:, :-1] < 0)).any()
        for user, row in enumerate(ranked):
            listed = row[row >= 0]
            assert len(set(listed.tolist())) == len(listed)
            assert not new_only or not split.history.toarray()[user, listed].any()


@pytest.mark.parametrize("name", BASELINES)
def test_relevant_items_do_not_reach_a_baseline(name: str) -> None:
    split = random_split(15, 20, seed=8)
    everything = sp.csr_array(np.ones(split.history.shape, dtype=bool))
    leaked = dataclasses.replace(split, relevant=everything, relevant_new=everything)
    np.testing.assert_array_equal(BASELINES[name](leaked, 6, False), BASELINES[name](split, 6, False))


def test_every_baseline_takes_a_history_without_a_purchase() -> None:
    split = split_of(np.zeros((2, 3)))
    for rank in BASELINES.values():
        assert rank(split, 2, True).shape == (2, 2)
