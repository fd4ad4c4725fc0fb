"""Item-based nearest neighbours: what buyers of the user's items also buy.

U users, N items of the catalogue, n items that are used, R users who are ranked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Ranked, RankSome
from evaluation.baselines.tuning import Settings, Tunable, most_used
from evaluation.split import Split
from serving.retrieval.exact import top_k

_BLOCK_ENTRIES = 1 << 24
"""Entries of a dense block: 64 MiB of float32."""
_MOST_ITEMS, _TUNING_ITEMS = 30_000, 10_000
"""Most items that are used in the end, and while the number of neighbours is chosen."""


def cosine_neighbours(
    history: sp.csr_array, *, num_neighbours: int, columns: npt.NDArray[np.int64] | None = None
) -> sp.csr_array:
    """Each item's nearest items by who bought them.

        cos_ij = |buyers_i and buyers_j| / sqrt(|buyers_i| |buyers_j|)

    Args:
        history: [U, N] CSR; every stored entry is a purchase, its count does not matter.
        num_neighbours: Neighbours kept for each item, at least 1; ties go to the lower row.
        columns: [n] int64, the items that have neighbours and are some; None takes all that somebody bought.

    Returns:
        [N, N] CSR float32: row j holds the cosines of j's neighbours, j itself left out.

    Source: Sarwar et al., WWW 2001, section 3, on binary data.
    """
    num_items = history.shape[1]
    buyers = np.bincount(history.indices, minlength=num_items)
    if columns is None:
        columns = np.flatnonzero(buyers)
    unit = _binary_columns(history, columns)
    unit.data = (1.0 / np.sqrt(buyers[columns]))[unit.indices].astype(np.float32)
    by_item = unit.T.tocsr()
    block = max(1, _BLOCK_ENTRIES // max(len(columns), 1))
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    parts = [
        _nearest(by_item[start : start + block] @ unit, start, num_neighbours)
        for start in range(0, len(columns), block)
    ]
    rows, neighbours, cosines = (np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True))
    return sp.csr_array((cosines, (columns[rows], columns[neighbours])), shape=(num_items, num_items))


def item_knn(history: sp.csr_array, k: int, *, neighbours: sp.csr_array, new_only: bool) -> Ranked:
    """The items whose neighbours the user bought.

        score_uj = sum of cos_ij over the items i that u bought and that are neighbours of j

    Args:
        history: [R, N] CSR of the users who are ranked.
        k: Length of a list.
        neighbours: [N, N] CSR, from `cosine_neighbours` of all users' history.
        new_only: Leave out what the user bought before the cut.

    Returns:
        Rows [R, k] int32, best first, and their scores [R, k] float32; -1 and -inf where no further item has a
        neighbour among the user's.

    Raises:
        ValueError: `neighbours` is not [N, N].

    Source: Deshpande and Karypis, TOIS 2004. The neighbours are those of the candidate; taking those of the history
        item found a tenth less in the week before the cut.
    """
    if neighbours.shape != (history.shape[1], history.shape[1]):
        raise ValueError(f"neighbours are {neighbours.shape}, expected [{history.shape[1]}, {history.shape[1]}]")
    columns = np.flatnonzero(np.diff(neighbours.indptr))
    ranked = np.full((history.shape[0], k), -1, dtype=np.int32)
    best = np.full(ranked.shape, -np.inf, dtype=np.float32)
    if not len(columns):
        return ranked, best
    bought = _binary_columns(history, columns)
    weights = neighbours[columns][:, columns].T.tocsr()
    block = max(1, _BLOCK_ENTRIES // len(columns))
    for start in range(0, history.shape[0], block):
        here = bought[start : start + block]
        scores = (here @ weights).toarray()
        scores[scores <= 0] = -np.inf
        if new_only:
            scores[here.nonzero()] = -np.inf
        found, best[start : start + block] = top_k(scores, k)
        ranked[start : start + block] = np.where(found >= 0, columns[found], -1)
    return ranked, best


def _binary_columns(history: sp.csr_array, columns: npt.NDArray[np.int64]) -> sp.csr_array:
    chosen = history[:, columns].tocsr()
    chosen.data = np.ones(len(chosen.data), dtype=np.float32)
    return chosen


def _nearest(
    cosines: sp.csr_array, first_row: int, num_neighbours: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    dense = cosines.toarray()
    dense[np.arange(len(dense)), np.arange(first_row, first_row + len(dense))] = 0
    dense[dense <= 0] = -np.inf
    found, values = top_k(dense, num_neighbours)
    rows, places = np.nonzero(found >= 0)
    return rows + first_row, found[rows, places], values[rows, places]


def _prepare(split: Split, is_final: bool) -> tuple[Callable[[Settings], RankSome], str]:
    """What ranks by a number of neighbours."""
    columns, left_out = most_used(split, _MOST_ITEMS if is_final else _TUNING_ITEMS)

    def fit(settings: Settings) -> RankSome:
        neighbours = cosine_neighbours(split.history, num_neighbours=int(settings["neighbours"]), columns=columns)
        return lambda users, k, new_only: item_knn(
            sp.csr_array(split.history[users]), k, neighbours=neighbours, new_only=new_only
        )

    return fit, left_out


def _seconds(split: Split, settings: Settings) -> float:
    """Of all cosines, and of the sums over neighbours."""
    num_items = min(split.history.shape[1], _TUNING_ITEMS)
    return float(num_items**2 / 3e7 + split.history.nnz * settings["neighbours"] / 5e7)


TUNABLE_ITEM_KNN = Tunable("item-kNN", {"neighbours": (50.0, 200.0, 1000.0)}, {"neighbours": 200.0}, _prepare, _seconds)
ITEM_KNN = Baseline("item-knn", "item-kNN", "cosine of items", TUNABLE_ITEM_KNN.fit)
