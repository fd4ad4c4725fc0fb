"""Running top-k: the k largest of the scores that come block by block, for each query.

B queries, C columns of a block, P scores that may still be among the best.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_EMPTY = np.iinfo(np.int64).min
_LOWEST = np.finfo(np.float32).min
_MAGNITUDE = np.int32(0x7FFF_FFFF)
# Less than a block has columns, and as small as NumPy takes it: see `_at_least`.
_BUFFER_SIZE = 512


class RunningTopK:
    """The k best of everything added so far, for each of B queries; equal scores go to the lower row.

    A candidate is one integer: its score in the upper half, in an order-preserving form, and its row, inverted, in the
    lower half. So the larger integer is the better candidate, ties included, and any partition or sort will do.

    What reaches a query's k-th best score waits until there are about k for each query, and is then sorted in for all
    of them at once: a block late in the catalogue has too few to be worth the calls.

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
        self._keys = np.full((num_queries, k), _EMPTY)
        # At most the k-th best score: what is below cannot be among the k best. It keeps -inf out from the start.
        self._threshold = np.full(num_queries, _LOWEST, dtype=np.float32)
        self._is_new = True
        self._waiting: list[tuple[Ints, Ints, Scores]] = []
        self._num_waiting = 0

    def add(self, scores: Scores, first_row: int, step: int = 1) -> None:
        """Adds the block of items first_row, first_row + step, ...; no row comes twice, blocks come in any order.

        Args:
            scores: [B, C] float32; -inf means never returned.
            first_row: Catalogue row of column 0.
            step: From the row of a column to that of the next.
        """
        if not scores.size:
            return
        width = scores.shape[1]
        if self._is_new and width > self._k:
            self._threshold = np.maximum(_below_kth_largest(scores, self._k), _LOWEST)
        self._is_new = False
        places = _true_places(_at_least(scores, self._threshold))
        if not len(places):
            return
        queries = places // width
        found = scores.reshape(-1)[places]
        counts = np.bincount(queries, minlength=len(scores))
        if counts.max() > 2 * self._k:
            kept = self._without_late_ties(queries, found, counts)
            places, queries, found = places[kept], queries[kept], found[kept]
        self._waiting.append((queries, (places - queries * width) * step + first_row, found))
        self._num_waiting += len(places)
        if self._num_waiting >= len(scores) * self._k:
            self._settle()

    def result(self) -> tuple[npt.NDArray[np.int32], Scores]:
        """Rows [B, k] int32 and scores [B, k] float32, best first; -1 and -inf behind the last one."""
        self._settle()
        return _decode(np.ascontiguousarray(np.sort(self._keys, axis=1)[:, ::-1]))

    def _without_late_ties(self, queries: Ints, scores: Scores, counts: Ints) -> npt.NDArray[np.bool_]:
        """Where all scores are equal, a block has C that reach the threshold, and only its first k can win."""
        ties = scores == self._threshold[queries]
        so_far = np.cumsum(ties)
        starts = np.cumsum(counts) - counts
        before = np.append(so_far, 0)[starts - 1] * (starts > 0)
        kept: npt.NDArray[np.bool_] = ~ties | (so_far - before[queries] <= self._k)
        return kept

    def _settle(self) -> None:
        """Sorts in what waits."""
        if not self._waiting:
            return
        queries, rows, scores = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        counts = np.bincount(queries, minlength=len(self._keys))
        # As narrow as they fit: such integers are sorted many times faster.
        order = np.argsort(queries.astype(np.min_scalar_type(len(counts))), kind="stable")
        queries = queries[order]
        slots = np.arange(len(queries)) - (np.cumsum(counts) - counts)[queries]
        most = int(counts.max())
        pool = np.full((len(counts), most + self._k), _EMPTY)
        pool[:, most:] = self._keys
        pool[queries, slots] = _encode(scores[order], rows[order])
        pool.partition(most, axis=1)
        self._keys = pool[:, most:].copy()
        self._threshold = np.maximum(self._threshold, _decode(self._keys[:, 0].copy())[1])


def _at_least(scores: Scores, threshold: Scores) -> npt.NDArray[np.bool_]:
    """Which scores reach the threshold [B] of their query: [B, C]."""
    # NumPy would copy the thresholds into a buffer of 8,192, each as often as a row has columns, and read them from
    # there, which takes four times as long; with a buffer shorter than a row it keeps to one number a row.
    with np.errstate():
        np.setbufsize(_BUFFER_SIZE)
        return np.greater_equal(scores, threshold[:, None])


def _true_places(mask: npt.NDArray[np.bool_]) -> Ints:
    """`flatnonzero` of a mask with few of them: looks at eight at a time."""
    flat = mask.reshape(-1)
    if flat.size % 8:
        return flat.nonzero()[0]
    words = (flat.view(np.uint64) != 0).nonzero()[0]
    within = flat.reshape(-1, 8).take(words, axis=0).reshape(-1).nonzero()[0]
    places: Ints = words[within >> 3] * 8 + (within & 7)
    return places


def _below_kth_largest(scores: Scores, k: int) -> Scores:
    """A number that k scores of each row reach, and few more: [B]; C > k."""
    # Of the largest of several groups k reach the k-th, each in a group of its own: a bound at a fraction of the cost.
    size = max(scores.shape[1] // (8 * k), 1)
    if size > 1:
        whole = scores[:, : scores.shape[1] // size * size]
        scores = whole.reshape(len(scores), size, -1).max(axis=1)
    place = scores.shape[1] - k
    return np.asarray(np.partition(scores, place, axis=1)[:, place])


def _encode(scores: Scores, rows: Ints) -> Ints:
    # Adding zero turns -0.0 into 0.0: they are equal scores, but not equal bits.
    bits = (scores + np.float32(0)).view(np.int32)
    # Among negative numbers, larger bits are smaller scores.
    ordered = (bits ^ ((bits >> 31) & _MAGNITUDE)).astype(np.int64)
    return (ordered << 32) | (~rows & 0xFFFF_FFFF)


def _decode(keys: Ints) -> tuple[npt.NDArray[np.int32], Scores]:
    ordered = (keys >> 32).astype(np.int32)
    scores = (ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)
    rows = (~keys & 0xFFFF_FFFF).astype(np.int32)
    empty = keys == _EMPTY
    return np.where(empty, np.int32(-1), rows), np.where(empty, np.float32(-np.inf), scores)
