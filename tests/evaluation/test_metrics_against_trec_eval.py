"""The metrics are those of trec_eval, by way of `ir_measures`, on lists of all lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from ir_measures import RR, P, R, Success, nDCG

from evaluation.metrics import (
    Hits,
    find_hits,
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)

OURS: Mapping[str, tuple[Callable[[int], object], Callable[[Hits, int], npt.NDArray[np.float64]]]] = {
    "precision": (lambda k: P @ k, precision_at_k),
    "recall": (lambda k: R @ k, recall_at_k),
    "ndcg": (lambda k: nDCG @ k, ndcg_at_k),
    "hit rate": (lambda k: Success @ k, hit_rate_at_k),
    # Ours is cut at the length of the lists, and so are the lists that trec_eval gets.
    "reciprocal rank": (lambda _: RR, lambda hits, _: reciprocal_rank(hits)),
}


def random_lists(seed: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Twenty users with lists of 0 to 12 places; some have nothing relevant, some more than a list holds."""
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(40)[:12] for _ in range(20)], np.int32)
    ends = rng.integers(0, 13, (20, 1))
    relevant = rng.random((20, 40)) < rng.choice([0.0, 0.05, 0.2, 0.6], (20, 1))
    return np.where(np.arange(12) < ends, ranked, -1).astype(np.int32), relevant


def by_trec_eval(
    measure: object, ranked: npt.NDArray[np.int32], relevant: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """One figure per user: trec_eval skips those without a relevant item, which are nan, or without a list: 0."""
    wanted = {str(user): {str(item): 1 for item in np.flatnonzero(row)} for user, row in enumerate(relevant)}
    # Ties would be broken by the item's name: scores fall with the place.
    lists = {
        str(user): {str(item): float(len(row) - place) for place, item in enumerate(row) if item >= 0}
        for user, row in enumerate(ranked)
    }
    wanted = {user: items for user, items in wanted.items() if items}
    found = np.where(relevant.any(axis=1), 0.0, np.nan)
    for figure in ir_measures.pytrec_eval.iter_calc([measure], wanted, lists):
        found[int(figure.query_id)] = figure.value
    return found


@pytest.mark.parametrize("name", OURS)
def test_metrics_equal_those_of_trec_eval(name: str) -> None:
    theirs, ours = OURS[name]
    for seed in range(8):
        ranked, relevant = random_lists(seed)
        hits = find_hits(ranked, sp.csr_array(relevant))
        for k in (1, 3, 12):
            np.testing.assert_allclose(ours(hits, k), by_trec_eval(theirs(k), ranked, relevant), rtol=1e-9)
