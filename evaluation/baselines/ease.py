"""EASE: the linear item-to-item model that rebuilds the histories best, in closed form.

U users, N items of the catalogue, n items that are used, m the smaller of U and n, X [U, n] the binary history, R users
who are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Ranked, RankSome
from evaluation.baselines.tuning import Settings, Tunable, most_used
from evaluation.split import Split
from serving.retrieval.exact import top_k
from serving.retrieval.running_top_k import RunningTopK

Floats = npt.NDArray[np.float32]
_BLOCK = 2048
"""Items (by users) or users (by items) scored at a time: 20 MiB of float32 at 2,500 users."""
_BYTES = 12
"""Bytes for each entry of the m x m matrix: it, its inverse, and room to work."""
_MOST_BYTES = 4 << 30
_TUNING_SIDE = 10_000
"""Most that m may be while lambda is chosen: an inverse takes some ten seconds on two cores."""


def ease(binary: sp.csr_array, gram: Floats, regularization: float) -> RankSome:
    """Fits EASE, and ranks items by their scores.

        B = argmin ||X - X B||^2 + lambda ||B||^2  subject to diag(B) = 0
          = I - P / diag(P) by columns,  P = (X'X + lambda I)^-1;  score = X B

    Args:
        binary: [U, n] CSR float32 of ones: X.
        gram: [m, m] float32, from `gram_of`; it is copied.
        regularization: lambda, above 0.

    Returns:
        What ranks the n items for some users.

    Raises:
        ValueError: `regularization` is not above 0.

    Source: Steck, WWW 2019. Fewer users than items: solved on the users' side, see `scores_by_items`.
    """
    if not regularization > 0:
        raise ValueError(f"regularization is {regularization}, expected a number above 0")
    inverse = _inverse(gram, regularization)
    if binary.shape[0] < binary.shape[1]:
        return lambda users, k, new_only: _rank_by_items(binary, inverse, regularization, users, k, new_only)
    weights = item_weights(inverse)
    return lambda users, k, new_only: _rank_by_users(sp.csr_array(binary[users]), weights, k, new_only)


def gram_of(binary: sp.csr_array) -> Floats:
    """X'X [n, n] float32, or X X' [U, U] if there are fewer users than items, a block of rows at a time."""
    by_row = binary if binary.shape[0] < binary.shape[1] else binary.T.tocsr()
    by_column = by_row.T.tocsr()
    gram = np.empty((by_row.shape[0], by_row.shape[0]), dtype=np.float32)
    for start in range(0, len(gram), _BLOCK):
        gram[start : start + _BLOCK] = (by_row[start : start + _BLOCK] @ by_column).toarray()
    return gram


def item_weights(inverse: Floats) -> Floats:
    """B as in `ease`, in the memory of P [n, n] float32: zero on the diagonal."""
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0.0)
    return inverse


def scores_by_items(
    binary: sp.csr_array, inverse: Floats, regularization: float, users: npt.NDArray[np.int64]
) -> Iterator[tuple[int, Floats, npt.NDArray[np.bool_]]]:
    """Scores of some users, a block of items at a time, by the inverse of a U x U matrix.

    Woodbury's identity turns P into (I - X'KX) / lambda with K = (X X' + lambda I)^-1. The users are those that were
    fitted, so X P = K X, and with p_j = (1 - x_j' K x_j) / lambda, the diagonal of P:

        score_uj = x_uj - (K X)_uj / p_j

    Args:
        binary: [U, n] CSR float32 of ones.
        inverse: [U, U] float32: K.
        regularization: lambda.
        users: [R] rows of the users.

    Yields:
        The first column of the block, scores [R, C] float32 and the history there [R, C] bool.
    """
    by_item = binary.T.tocsr()
    for start in range(0, binary.shape[1], _BLOCK):
        sparse = by_item[start : start + _BLOCK]
        projected = np.asarray(sparse @ inverse)
        bought = sparse.toarray()
        diagonal = (1.0 - (bought * projected).sum(axis=1)) / np.float32(regularization)
        scores = np.ascontiguousarray((bought[:, users] - projected[:, users] / diagonal[:, None]).T)
        yield start, scores, bought[:, users].T > 0


def most_items(num_users: int, side: int) -> int:
    """How many items can be used: all if there are so few users that their side fits, otherwise as many as fit.

    Args:
        num_users: U.
        side: Most that m may be, at least 1.
    """
    return int(np.iinfo(np.int32).max) if num_users <= side else side


def side_in_memory(available_bytes: float) -> int:
    """Most that m may be: half of the memory that is available, and at most 4 GiB, at 12 bytes an entry of m x m."""
    return max(math.isqrt(int(min(available_bytes / 2, _MOST_BYTES)) // _BYTES), 1)


def _available_bytes() -> float:
    """Memory that is available now, to the machine and to its control group; infinite where neither is known."""
    found = [math.inf]
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        sizes = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(1024.0 * int(sizes["MemAvailable"].split()[0]))
    if (group / "memory.max").exists() and (most := (group / "memory.max").read_text().strip()).isdecimal():
        found.append(float(int(most) - int((group / "memory.current").read_text())))
    return max(min(found), 0.0)


def _inverse(gram: Floats, regularization: float) -> Floats:
    """(gram + lambda I)^-1 by Cholesky, float32."""
    from scipy.linalg import lapack

    # A symmetric matrix is the same by rows and by columns, which LAPACK takes in place.
    matrix = gram.copy().T
    matrix[np.diag_indices_from(matrix)] += np.float32(regularization)
    factor, failed = lapack.spotrf(matrix, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise ValueError(
            f"lambda is {regularization}, and the matrix of {len(gram):,} rows is not positive definite in float32; "
            "give a larger lambda"
        )
    matrix, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    # Of the result only the lower half is there.
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        square = np.tril(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = square + np.tril(square, -1).T
    inverse: Floats = matrix.T
    return inverse


def _rank_by_items(
    binary: sp.csr_array, inverse: Floats, regularization: float, users: npt.NDArray[np.int64], k: int, new_only: bool
) -> Ranked:
    running = RunningTopK(len(users), k)
    for start, scores, bought in scores_by_items(binary, inverse, regularization, users):
        if new_only:
            scores[bought] = -np.inf
        running.add(scores, start)
    return running.result()


def _rank_by_users(binary: sp.csr_array, weights: Floats, k: int, new_only: bool) -> Ranked:
    ranked = np.full((binary.shape[0], k), -1, dtype=np.int32)
    best = np.full(ranked.shape, -np.inf, dtype=np.float32)
    for start in range(0, binary.shape[0], _BLOCK):
        here = binary[start : start + _BLOCK]
        scores = np.asarray(here @ weights)
        if new_only:
            scores[here.nonzero()] = -np.inf
        ranked[start : start + _BLOCK], best[start : start + _BLOCK] = top_k(scores, k)
    return ranked, best


def _prepare(split: Split, is_final: bool) -> tuple[Callable[[Settings], RankSome], str]:
    """What fits EASE to a history with a lambda; what all lambdas share is made once."""
    side = side_in_memory(_available_bytes())
    columns, left_out = most_used(split, most_items(split.history.shape[0], side if is_final else _TUNING_SIDE))
    binary = split.history[:, columns].tocsr()
    binary.data = np.ones(len(binary.data), dtype=np.float32)
    gram = gram_of(binary)
    rows = np.append(columns, -1)

    def fit(settings: Settings) -> RankSome:
        rank = ease(binary, gram, settings["lambda"])

        def ranked(users: npt.NDArray[np.int64], k: int, new_only: bool) -> Ranked:
            found, scores = rank(users, k, new_only)
            nothing = np.diff(binary.indptr)[users] == 0
            found[nothing], scores[nothing] = -1, -np.inf
            return rows[found].astype(np.int32), scores

        return ranked

    return fit, left_out


def _seconds(split: Split, settings: Settings) -> float:
    """Of an inverse, and of the scores that are made with it."""
    num_users, num_items = split.history.shape
    num_items = min(num_items, most_items(num_users, _TUNING_SIDE))
    side = min(num_users, num_items)
    return float(side**3 / 1e11 + (split.history.nnz * side + num_users * num_items) / 8e8)


TUNABLE_EASE = Tunable(
    "EASE",
    {"lambda": (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)},
    {"lambda": 300.0},
    _prepare,
    _seconds,
)
EASE = Baseline("ease", "EASE", "items by items in closed form", TUNABLE_EASE.fit)
