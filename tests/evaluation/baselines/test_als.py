"""ALS minimises its objective, finds a block of tastes, and is repeatable for a seed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from evaluation.baselines import als as als_file
from evaluation.baselines.als import fit_als
from evaluation.split import Split


def split_of(counts: npt.ArrayLike) -> Split:
    """A split with this history and nothing relevant."""
    history = sp.csr_array(np.asarray(counts, np.float32))
    nothing = sp.csr_array(history.shape, dtype=bool)
    return Split(
        user_ids=np.array([f"u{row}" for row in range(history.shape[0])], dtype=object),
        history=history,
        days_since=history.astype(np.float64),
        relevant=nothing,
        relevant_new=nothing,
        days_until=nothing.astype(np.int16),
        cut=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        window_days=7,
        num_unknown_window_pairs=0,
        num_unknown_window_items=0,
        num_unknown_history_events=0,
    )


def ranked_for_all(split: Split, k: int, new_only: bool, **settings: Any) -> npt.NDArray[np.int32]:
    return fit_als(split, **settings)(np.arange(split.history.shape[0]), k, new_only)[0]


def random_counts(num_users: int, num_items: int, seed: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(1, 4, (num_users, num_items)) * (rng.random((num_users, num_items)) < 0.3))


def solved(
    counts: npt.NDArray[np.int64], others: npt.NDArray[np.float32], regularization: float, alpha: float
) -> npt.NDArray[np.float64]:
    """Each row's factors in closed form, by the others': (Y' C Y + lambda I)^-1 Y' C p."""
    rows = []
    for row in counts:
        confidence = np.diag(1 + alpha * row)
        gram = others.T @ confidence @ others + regularization * np.eye(others.shape[1])
        rows.append(np.linalg.solve(gram, others.T @ confidence @ (row > 0)))
    return np.array(rows)


def test_the_factors_are_each_others_least_squares() -> None:
    counts = random_counts(12, 9, seed=1)
    users, items = als_file._fit(sp.csr_array(counts.astype(np.float32)), 3, 2.0, 3.0, 30, seed=4)
    np.testing.assert_allclose(users, solved(counts, items, 2.0, 3.0), atol=1e-3)
    np.testing.assert_allclose(items, solved(counts.T, users, 2.0, 3.0), atol=1e-3)


def two_tastes() -> npt.NDArray[np.int64]:
    """Ten users buy of items 0 to 4, ten of items 5 to 9, all but one each: user u lacks item u % 5 of the block."""
    counts = np.zeros((20, 10), np.int64)
    for user in range(20):
        counts[user, [5 * (user // 10) + at for at in range(5) if at != user % 5]] = 1
    return counts


def test_the_item_that_everybody_of_the_same_taste_bought_comes_first() -> None:
    found = ranked_for_all(split_of(two_tastes()), 1, True, factors=2, regularization=0.1, seed=1)
    assert found[:, 0].tolist() == [5 * (user // 10) + user % 5 for user in range(20)]


def test_lists_follow_the_scores_of_the_factors() -> None:
    counts = random_counts(15, 30, seed=2)
    counts[3], counts[:, 7] = 0, 0
    columns = np.flatnonzero(counts.any(axis=0))
    users, items = als_file._fit(sp.csr_array(counts[:, columns].astype(np.float32)), 4, 10.0, 1.0, 15, seed=6)
    for new_only in (False, True):
        scores = np.full(counts.shape, -np.inf, np.float32)
        scores[:, columns] = users @ items.T
        scores[(counts > 0) & new_only] = -np.inf
        scores[3] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :8]
        expected = np.where(np.isneginf(np.take_along_axis(scores, order, axis=1)), -1, order)
        found = ranked_for_all(split_of(counts), 8, new_only, factors=4, seed=6)
        np.testing.assert_array_equal(found, expected)


def test_items_without_buyers_are_never_listed() -> None:
    counts = random_counts(6, 12, seed=3)
    counts[:, ::2] = 0
    found = ranked_for_all(split_of(counts), 12, False, factors=2, seed=1)
    assert ((found < 0) | (found % 2 == 1)).all()
    assert ((found >= 0).sum(axis=1) == np.where(counts.any(axis=1), counts.any(axis=0).sum(), 0)).all()


def test_the_same_seed_gives_the_same_lists() -> None:
    # Large enough that rows are spread over all cores.
    split = split_of(random_counts(300, 400, seed=5))
    once, again, other = (ranked_for_all(split, 20, True, factors=16, iterations=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"factors": 0}, "factors is 0, iterations 15"),
        ({"iterations": 0}, "iterations 0, regularization"),
        ({"regularization": 0.0}, r"regularization 0\.0 and alpha"),
        ({"alpha": float("nan")}, "alpha nan; expected at least 1"),
    ],
)
def test_faulty_arguments_are_refused(argument: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranked_for_all(split_of(two_tastes()), 1, False, seed=1, **argument)
