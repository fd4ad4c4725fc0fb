"""Which k items have the largest inner product, exactly? The oracle of every index, and its stand-in.

B rows of queries, C columns of a block, N items of the catalogue, D vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

ITEM_BLOCK = 8192
"""Columns scored at a time; measured the fastest for catalogues of 40k to 1M items."""
QUERY_BLOCK = 512
"""Queries scored at a time: 16 MiB of scores."""

# A gathered row costs three to four rows of one product over everything.
GATHER_BELOW = 3

_NO_RESULT = np.uint64(0)
_SIGN = np.uint32(0x8000_0000)
_ALL = np.uint32(0xFFFF_FFFF)


class RunningTopK:
    """The k best of everything added so far, for each of B queries; equal scores go to the lower row.

    A candidate is one integer: its score in the upper half, in an order-preserving form, and its row, inverted, in the
    lower half. So the larger integer is the better candidate, ties included, and any partition or sort will do.

    Args:
        num_queries: B.
        k: Candidates kept for each query, at least 1.

    Raises:
        ValueError: `k` < 1.
    """

    def __init__(self, num_queries: int, k: int) -> None:
        """Starts with no candidate."""
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least 1")
        self._k = k
        self._keys = np.full((num_queries, k), _NO_RESULT)
        self._threshold = np.full(num_queries, -np.inf, dtype=np.float32)

    def add(self, scores: npt.NDArray[np.float32], first_row: int) -> None:
        """Adds the block of items first_row .. first_row + C - 1. Blocks come in ascending order of rows.

        Args:
            scores: [B, C] float32; -inf means never returned.
            first_row: Catalogue row of column 0.
        """
        if not scores.size:
            return
        # Strictly above: an equal score in a later block has the higher row and loses.
        alive = scores > self._threshold[:, None]
        if scores.shape[1] > self._k and np.isneginf(self._threshold).any():
            alive &= scores >= _kth_largest(scores, self._k)[:, None]
        num_alive = np.count_nonzero(alive, axis=1)
        most = int(num_alive.max(initial=0))
        if not most:
            return
        # Flat: NumPy walks a sparse one-dimensional mask many times faster than a two-dimensional one.
        queries, columns = np.divmod(np.flatnonzero(alive), scores.shape[1])
        starts = np.cumsum(num_alive) - num_alive
        slots = np.arange(len(queries)) - starts[queries]
        pool = np.full((len(scores), most + self._k), _NO_RESULT)
        pool[:, most:] = self._keys
        pool[queries, slots] = _encode(scores[queries, columns], columns + first_row)
        pool.partition(most, axis=1)
        self._keys = pool[:, most:]
        self._threshold = _decode(self._keys[:, 0])[1]

    def result(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Rows [B, k] int32 and scores [B, k] float32, best first; -1 and -inf behind the last one."""
        return _decode(np.sort(self._keys, axis=1)[:, ::-1])


def top_k(scores: npt.NDArray[np.float32], k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The k largest of each row; equal scores go to the lower column.

    Args:
        scores: [B, N] float32; -inf means never returned.
        k: At least 1.

    Returns:
        rows [B, k] int32 and scores [B, k] float32, best first; -1 and -inf behind the last one.

    Raises:
        ValueError: `k` < 1, or a score is not a number.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are nan; expected numbers or -inf")
    running = RunningTopK(len(scores), k)
    for start in range(0, scores.shape[1], ITEM_BLOCK):
        running.add(scores[:, start : start + ITEM_BLOCK], start)
    return running.result()


def search(
    query_embeddings: npt.NDArray[np.float32],
    candidate_embeddings: npt.NDArray[np.float32],
    *,
    k: int,
    exclude: sp.csr_array | None = None,
    offered: npt.NDArray[np.bool_] | None = None,
    scale: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The k candidates with the largest inner product, for each query.

        score_ij = scale_j <query_i, candidate_j>

    Queries and candidates are taken in blocks, and of a block only what beats a query's running k-th score is kept.

    Args:
        query_embeddings: [B, D] float32.
        candidate_embeddings: [N, D] float32.
        k: Candidates wanted, at least 1.
        exclude: [B, N] CSR; every stored entry is a candidate that this query must not get. None excludes nothing.
        offered: [N] the candidates that any query may get; None offers all. A small share of them is gathered first,
            so that the rest costs nothing.
        scale: [N] float32 factors of the scores; None has none.

    Returns:
        rows [B, k] int32 and scores [B, k] float32, best first, equal scores by the lower row; -1 and -inf where
        fewer than k candidates are left.

    Raises:
        ValueError: Shapes do not fit, `k` < 1, or an embedding holds nan or infinity.
    """
    _check(query_embeddings, candidate_embeddings, exclude)
    if offered is not None and GATHER_BELOW * np.count_nonzero(offered) <= len(offered):
        return _search_gathered(query_embeddings, candidate_embeddings, k, exclude, np.flatnonzero(offered), scale)
    parts = [
        _search_block(
            query_embeddings[start : start + QUERY_BLOCK],
            candidate_embeddings,
            k,
            None if exclude is None else exclude[start : start + QUERY_BLOCK],
            offered,
            scale,
        )
        for start in range(0, max(len(query_embeddings), 1), QUERY_BLOCK)
    ]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def _search_gathered(
    queries: npt.NDArray[np.float32],
    candidates: npt.NDArray[np.float32],
    k: int,
    exclude: sp.csr_array | None,
    chosen: npt.NDArray[np.int64],
    scale: npt.NDArray[np.float32] | None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The same over some rows alone, which ascend, so that ties are broken alike."""
    rows, scores = search(
        queries,
        candidates[chosen],
        k=k,
        exclude=None if exclude is None else exclude[:, chosen],
        scale=None if scale is None else scale[chosen],
    )
    found = np.append(chosen, -1).astype(np.int32)
    return found[rows], scores


def _search_block(
    queries: npt.NDArray[np.float32],
    candidates: npt.NDArray[np.float32],
    k: int,
    exclude: sp.csr_array | None,
    offered: npt.NDArray[np.bool_] | None,
    scale: npt.NDArray[np.float32] | None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    running = RunningTopK(len(queries), k)
    edges = np.arange(0, len(candidates) + ITEM_BLOCK, ITEM_BLOCK)
    excluded_rows, excluded_columns, bounds = excluded_by_block(exclude, edges)
    for block, start in enumerate(edges[:-1]):
        scores = queries @ candidates[start : start + ITEM_BLOCK].T
        _check_finite(scores, int(start))
        if scale is not None:
            scores *= scale[start : start + ITEM_BLOCK]
        if offered is not None:
            scores[:, ~offered[start : start + ITEM_BLOCK]] = -np.inf
        here = slice(bounds[block], bounds[block + 1])
        scores[excluded_rows[here], excluded_columns[here] - start] = -np.inf
        running.add(scores, int(start))
    return running.result()


def excluded_by_block(
    exclude: sp.csr_array | None, edges: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What is excluded, block of columns by block.

    Args:
        exclude: [B, N] CSR; None excludes nothing.
        edges: [blocks + 1] first column of each block, and the end.

    Returns:
        Rows [E] and columns [E] of the stored entries in the order of the columns, and bounds [blocks + 1] int64: those
        of block b lie at bounds[b] to bounds[b + 1].
    """
    if exclude is None:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, np.zeros(len(edges), dtype=np.int64)
    rows = np.repeat(np.arange(exclude.shape[0]), np.diff(exclude.indptr))
    order = np.argsort(exclude.indices, kind="stable")
    columns = exclude.indices[order].astype(np.int64)
    return rows[order], columns, np.searchsorted(columns, edges)


def _kth_largest(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
    place = scores.shape[1] - k
    return np.asarray(np.partition(scores, place, axis=1)[:, place])


def _encode(scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    # Adding zero turns -0.0 into 0.0: they are equal scores, but not equal bits.
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    ordered = np.where(bits & _SIGN, bits ^ _ALL, bits ^ _SIGN).astype(np.uint64)
    return (ordered << np.uint64(32)) | (_ALL - rows.astype(np.uint32)).astype(np.uint64)


def _decode(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    scores = np.where(ordered & _SIGN, ordered ^ _SIGN, ordered ^ _ALL).view(np.float32)
    rows = (_ALL - keys.astype(np.uint32)).astype(np.int32)
    empty = keys == _NO_RESULT
    return np.where(empty, np.int32(-1), rows), np.where(empty, np.float32(-np.inf), scores)


def _check(queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32], exclude: sp.csr_array | None) -> None:
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"query_embeddings are {queries.shape} and candidate_embeddings {candidates.shape}, "
            "expected [B, D] and [N, D]"
        )
    expected = (len(queries), len(candidates))
    if exclude is not None and exclude.shape != expected:
        raise ValueError(f"exclude is {exclude.shape}, expected {expected}: a row a query, a column a candidate")


def _check_finite(scores: npt.NDArray[np.float32], first_row: int) -> None:
    # One nan or infinity makes the sum one too, at a fraction of the cost of looking at each number.
    if scores.size and not np.isfinite(scores.sum()):
        bad = np.argwhere(~np.isfinite(scores))
        raise ValueError(
            f"{len(bad)} scores are not finite, the first of query {bad[0, 0]} and candidate {bad[0, 1] + first_row}; "
            "look for nan or infinity in either embedding"
        )
