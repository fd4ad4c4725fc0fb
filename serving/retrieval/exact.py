"""Exact top-k search by inner product: the oracle of every index, and its replacement where k is large.

B rows of queries, C columns of a block, N items of the catalogue, D vector width, K vectors of a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from serving.retrieval.running_top_k import RunningTopK

QUERY_BLOCK = 256
"""Queries scored at a time."""
ITEM_BLOCK = 1024
"""Items scored at a time; with the queries 1 MiB of scores, which a processor's second cache holds."""
QUERY_GROUP = 4096
"""Queries between two passes over the items."""
WIDE = 8
"""Blocks' width of the first of many, or of all where there are few queries, in `ITEM_BLOCK`."""

# A gathered row costs three to four rows of one product over everything.
GATHER_BELOW = 3
# Far enough below the largest float32 for sums rounded upwards.
_SAFE = 1e38


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

        score_ij = scale_j max_k <query_ik, candidate_j>

    Queries and candidates are taken in blocks, and of a block only what reaches a query's running k-th score is kept.
    Many queries take candidates from all over the catalogue for each block, so that their order does not matter: were
    the best ones last, every block would raise every query's k-th score.

    Args:
        query_embeddings: [B, D] float32, or [B, K D], K vectors of each query side by side.
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
    _check(query_embeddings, candidate_embeddings, k, exclude)
    if offered is not None and GATHER_BELOW * np.count_nonzero(offered) <= len(offered):
        return _search_gathered(query_embeddings, candidate_embeddings, k, exclude, np.flatnonzero(offered), scale)
    # The largest numbers bound all scores at once; a few queries are asked for sooner than those are found.
    are_bounded = len(query_embeddings) >= QUERY_BLOCK and _are_bounded(query_embeddings, candidate_embeddings)
    num_queries = len(query_embeddings)
    rows, scores = np.empty((num_queries, k), dtype=np.int32), np.empty((num_queries, k), dtype=np.float32)
    for start in range(0, num_queries, QUERY_GROUP):
        group = range(start, min(start + QUERY_GROUP, num_queries))
        rows[group.start : group.stop], scores[group.start : group.stop] = _search_group(
            group, query_embeddings, candidate_embeddings, k, exclude, offered, scale, are_bounded
        )
    return rows, scores


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


def _search_group(
    group: range,
    queries: npt.NDArray[np.float32],
    candidates: npt.NDArray[np.float32],
    k: int,
    exclude: sp.csr_array | None,
    offered: npt.NDArray[np.bool_] | None,
    scale: npt.NDArray[np.float32] | None,
    are_bounded: bool,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    parts = [slice(start, min(start + QUERY_BLOCK, group.stop)) for start in group[::QUERY_BLOCK]]
    blocks = _blocks(len(candidates), len(group))
    edges = np.cumsum([0, *(len(range(block.start, block.stop, block.step)) for block in blocks)])
    runnings = [RunningTopK(part.stop - part.start, k) for part in parts]
    excluded = [excluded_by_block(part, edges) for part in _excluded(exclude, parts, blocks, edges)]
    width = candidates.shape[1]
    room = np.empty(min(QUERY_BLOCK, len(group)) * int(np.diff(edges).max(initial=0)), dtype=np.float32)
    for number, block in enumerate(blocks):
        items = np.ascontiguousarray(candidates[block])
        for part, running, (rows, places, bounds) in zip(parts, runnings, excluded, strict=True):
            asked = queries[part]
            # Into the same memory each time, which is then near the processor.
            scores = room[: len(asked) * len(items)].reshape(len(asked), len(items))
            np.matmul(asked[:, :width], items.T, out=scores)
            for begin in range(width, asked.shape[1], width):
                np.maximum(scores, asked[:, begin : begin + width] @ items.T, out=scores)
            if not are_bounded:
                _check_finite(scores, block, part.start)
            if scale is not None:
                scores *= scale[block]
            if offered is not None:
                scores[:, ~offered[block]] = -np.inf
            here = slice(bounds[number], bounds[number + 1])
            scores[rows[here], places[here] - edges[number]] = -np.inf
            running.add(scores, block.start, block.step)
    results = [running.result() for running in runnings]
    return np.concatenate([rows for rows, _ in results]), np.concatenate([scores for _, scores in results])


def _blocks(num_items: int, num_queries: int) -> list[slice]:
    """Rows of each block: every item is in one."""
    if num_queries < QUERY_BLOCK:
        # In place, which avoids a copy.
        width = ITEM_BLOCK * min(max(QUERY_BLOCK // num_queries, 1), WIDE)
        return [slice(start, min(start + width, num_items), 1) for start in range(0, num_items, width)]
    apart = max(-(-num_items // (WIDE * ITEM_BLOCK)), 1)
    num_blocks = WIDE * apart
    # The first is wide: the k-th score of many leaves few of the others.
    others = (slice(start, num_items, num_blocks) for start in range(min(num_blocks, num_items)) if start % apart)
    return [slice(0, num_items, apart), *others]


def _excluded(
    exclude: sp.csr_array | None, parts: Sequence[slice], blocks: Sequence[slice], edges: npt.NDArray[np.int64]
) -> Iterator[sp.csr_array | None]:
    """What each part of the queries must not get, with items in the order in which blocks take them."""
    if exclude is None:
        yield from [None] * len(parts)
        return
    places = np.empty(exclude.shape[1], dtype=np.int32)
    for number, block in enumerate(blocks):
        places[block] = np.arange(edges[number], edges[number + 1])
    for part in parts:
        rows = exclude[part]
        yield sp.csr_array((rows.data, places[rows.indices], rows.indptr), shape=rows.shape)


def excluded_by_block(
    exclude: sp.csr_array | None, edges: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What is excluded, block of columns by block.

    Args:
        exclude: [B, N] CSR; None excludes nothing.
        edges: [blocks + 1] first column of each block, and the end.

    Returns:
        Rows [E] and columns [E] of the stored entries in the order of the blocks, and bounds [blocks + 1] int64: those
        of block b are at bounds[b] to bounds[b + 1].
    """
    if exclude is None:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, np.zeros(len(edges), dtype=np.int64)
    rows = np.repeat(np.arange(exclude.shape[0]), np.diff(exclude.indptr))
    # As narrow as they fit: such integers are sorted many times faster.
    blocks = (np.searchsorted(edges, exclude.indices, side="right") - 1).astype(np.min_scalar_type(len(edges)))
    order = np.argsort(blocks, kind="stable")
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(blocks, minlength=len(edges) - 1))])
    return rows[order], exclude.indices[order].astype(np.int64), bounds


def _check(
    queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32], k: int, exclude: sp.csr_array | None
) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1")
    if queries.ndim != 2 or candidates.ndim != 2 or not is_multiple(queries.shape[1], candidates.shape[1]):
        raise ValueError(
            f"query_embeddings are {queries.shape} and candidate_embeddings {candidates.shape}, "
            "expected [B, D] and [N, D], or [B, K D] for several vectors of a query"
        )
    expected = (len(queries), len(candidates))
    if exclude is not None and exclude.shape != expected:
        raise ValueError(f"exclude is {exclude.shape}, expected {expected}: a row a query, a column a candidate")


def is_multiple(width: int, of: int) -> bool:
    """Whether vectors of a width are one or more of another, side by side."""
    return width == of or (0 < of < width and width % of == 0)


def _check_finite(scores: npt.NDArray[np.float32], block: slice, first_query: int) -> None:
    # One nan or infinity makes the sum one too, at a fraction of the cost of looking at each number.
    if scores.size and not np.isfinite(scores.sum()):
        bad = np.argwhere(~np.isfinite(scores))
        raise ValueError(
            f"{len(bad)} scores are not finite, the first of query {bad[0, 0] + first_query} and candidate "
            f"{block.start + bad[0, 1] * block.step}; look for nan or infinity in either embedding"
        )


def _are_bounded(queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32]) -> bool:
    """Whether no product can be other than finite: |score| <= D max|query| max|candidate|."""
    # A nan is the largest and the smallest of all, and no comparison with it holds.
    largest = [max(float(vectors.max(initial=0)), -float(vectors.min(initial=0))) for vectors in (queries, candidates)]
    return bool(queries.shape[1] * largest[0] * largest[1] < _SAFE)
