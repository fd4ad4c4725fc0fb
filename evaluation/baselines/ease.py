"""EASE: the linear item-to-item model that rebuilds the histories best, in closed form.

U users, N items of the catalogue, n items with enough buyers, X [U, n] the binary history.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline
from evaluation.split import Split
from serving.retrieval.exact import top_k
from serving.retrieval.running_top_k import RunningTopK

_BLOCK = 2048
"""Items (by users) or users (by items) scored at a time: 20 MiB of float32 at 2,500 users."""


def ease(
    split: Split, k: int, *, new_only: bool, regularisation: float = 300.0, min_buyers: int = 10
) -> npt.NDArray[np.int32]:
    """The items that EASE gives the highest scores.

        B = argmin ||X - X B||^2 + lambda ||B||^2  subject to diag(B) = 0
          = I - P / diag(P) by columns,  P = (X'X + lambda I)^-1;  score = X B

    Args:
        split: Users and their history; all users are fitted, whether they have something relevant or not.
        k: Length of a list.
        new_only: Leave out what the user bought before the cut.
        regularisation: lambda, above 0.
        min_buyers: Items with fewer buyers are neither used nor listed.

    Returns:
        [U, k] int32, best first; -1 behind the last one, and throughout for a user without a usable history.

    Raises:
        ValueError: `regularisation` is not above 0.

    Source: Steck, WWW 2019. Fewer users than items: solved on the users' side, see `scores_by_items`.
    """
    if not regularisation > 0:
        raise ValueError(f"regularisation is {regularisation}, expected a number above 0")
    history = split.history
    columns = np.flatnonzero(np.bincount(history.indices, minlength=history.shape[1]) >= max(min_buyers, 1))
    binary = history[:, columns].tocsr()
    binary.data = np.ones(len(binary.data), dtype=np.float32)
    rank = _rank_by_items if binary.shape[0] < binary.shape[1] else _rank_by_users
    found = rank(binary, k, regularisation, new_only)
    found[np.diff(binary.indptr) == 0] = -1
    return np.where(found >= 0, np.append(columns, -1)[found], -1).astype(np.int32)


def item_weights(binary: sp.csr_array, regularisation: float) -> npt.NDArray[np.float32]:
    """B as in `ease`, by the inverse of an n x n matrix.

    Args:
        binary: [U, n] CSR float32 of ones.
        regularisation: lambda.

    Returns:
        [n, n] float32, zero on the diagonal.
    """
    gram = (binary.T @ binary).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = np.linalg.inv(gram)
    weights: npt.NDArray[np.float32] = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def scores_by_items(
    binary: sp.csr_array, regularisation: float
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """All users' scores, a block of items at a time, by the inverse of a U x U matrix.

    Woodbury's identity turns P into (I - X'KX) / lambda with K = (X X' + lambda I)^-1. The users are those that were
    fitted, so X P = K X, and with p_j = (1 - x_j' K x_j) / lambda, the diagonal of P:

        score_uj = x_uj - (K X)_uj / p_j

    Args:
        binary: [U, n] CSR float32 of ones.
        regularisation: lambda.

    Yields:
        The first column of the block, scores [U, C] float32 and the history there [U, C] bool.
    """
    gram = (binary @ binary.T).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    kernel = np.linalg.inv(gram).astype(np.float32)
    by_item = binary.T.tocsr()
    for start in range(0, binary.shape[1], _BLOCK):
        sparse = by_item[start : start + _BLOCK]
        projected = np.asarray(sparse @ kernel)
        bought = sparse.toarray()
        diagonal = (1.0 - (bought * projected).sum(axis=1)) / np.float32(regularisation)
        scores = np.ascontiguousarray((bought - projected / diagonal[:, None]).T)
        yield start, scores, bought.T > 0


def _rank_by_items(binary: sp.csr_array, k: int, regularisation: float, new_only: bool) -> npt.NDArray[np.int32]:
    running = RunningTopK(binary.shape[0], k)
    for start, scores, bought in scores_by_items(binary, regularisation):
        if new_only:
            scores[bought] = -np.inf
        running.add(scores, start)
    return running.result()[0]


def _rank_by_users(binary: sp.csr_array, k: int, regularisation: float, new_only: bool) -> npt.NDArray[np.int32]:
    weights = item_weights(binary, regularisation)
    ranked = np.full((binary.shape[0], k), -1, dtype=np.int32)
    for start in range(0, binary.shape[0], _BLOCK):
        here = binary[start : start + _BLOCK]
        scores = np.asarray(here @ weights)
        if new_only:
            scores[here.nonzero()] = -np.inf
        ranked[start : start + _BLOCK] = top_k(scores, k)[0]
    return ranked


EASE = Baseline(
    "ease",
    "EASE",
    "items by items in closed form",
    lambda past: lambda k, new_only: ease(past.split, k, new_only=new_only),
)
