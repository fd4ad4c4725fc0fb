"""Which items of all the blocks seen so far does a code keep? The best of those above zero, as a table stores them.

Scores are rounded to half precision before they are ranked: what ranks is what a table stores, so that a list can be
carried on from the table alone. Equal scores go to the lower item.

Shape letters: Q codes, C items of a block, P postings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_Keys = npt.NDArray[np.uint64]

# What is above zero stays above zero.
_SMALLEST = np.float32(np.finfo(np.float16).smallest_subnormal)
# What rounds to infinity.
_OVERFLOW = np.float32(65_520)
_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(0xFFFF)
_NOTHING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Lists(NamedTuple):
    """Postings of Q codes, one code after another."""

    starts: Ints
    """[Q + 1]: where a code's postings begin."""
    items: npt.NDArray[np.int32]
    """[P], ascending within a code."""
    scores: Floats
    """[P], above zero, each a half precision number."""


class RunningLists:
    """The `cap` best items of each code.

    A posting is one integer: the bits of its score above, which order as positive halves do, and its item, inverted,
    below. So the larger integer is the better posting, ties included.

    Args:
        num_codes: Q.
        cap: Items kept for a code.
        block: Items added at a time, at most.
    """

    def __init__(self, num_codes: int, *, cap: int, block: int) -> None:
        """Starts with no item; takes 8 Q (cap + max(cap, block)) bytes."""
        self._cap = cap
        # Twice the cap, so that lists are cut when they have grown by as much and not at every block.
        self._held: _Keys = np.empty((num_codes, cap + max(cap, block)), np.uint64)
        self._filled = np.zeros(num_codes, np.int64)
        self._threshold = np.zeros(num_codes, np.float32)

    def add(self, scores: Floats, items: npt.NDArray[np.int32]) -> None:
        """Adds a block; items ascend within it and from block to block.

        Args:
            scores: [Q, C] float32; zero and below is never kept.
            items: [C] int32.

        Raises:
            ValueError: A score is not a number that half precision can hold.
        """
        # Strictly above: an equal score has a higher item and loses.
        is_better = scores > self._threshold[:, None]
        # Flat: NumPy walks a sparse one-dimensional mask many times faster than a two-dimensional one.
        place = np.flatnonzero(is_better)
        begins = np.arange(len(scores)) * len(items)
        starts = np.searchsorted(place, begins)
        counts = np.diff(starts, append=len(place))
        width = self._held.shape[1]
        self._cut(np.flatnonzero(self._filled + counts > width))
        slots = np.arange(len(scores)) * width + self._filled - starts
        held = self._held.reshape(-1)
        found = _encode(scores.reshape(-1)[place], items[place - np.repeat(begins, counts)])
        held[np.arange(len(place)) + np.repeat(slots, counts)] = found
        self._filled += counts

    def _cut(self, rows: Ints) -> None:
        """Leaves the best `cap` of some lists, all of them longer, in any order."""
        if not len(rows):
            return
        width = self._held.shape[1]
        held = np.where(np.arange(width) < self._filled[rows, None], self._held[rows], np.uint64(0))
        held.partition(width - self._cap, axis=1)
        self._held[rows, : self._cap] = held[:, width - self._cap :]
        self._filled[rows] = self._cap
        self._threshold[rows] = _scores(held[:, width - self._cap])

    def result(self) -> Lists:
        """The lists so far."""
        self._cut(np.flatnonzero(self._filled > self._cap))
        held = self._held[:, : int(self._filled.max(initial=0))]
        here = np.arange(held.shape[1]) < self._filled[:, None]
        # By item now, with what is empty behind everything.
        by_item = np.where(here, ((_LOW - (held & _LOW)) << np.uint64(16)) | (held >> np.uint64(32)), _NOTHING)
        by_item.sort(axis=1)
        found = by_item[here]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._filled)])
        scores = (found & _HALF).astype(np.uint16).view(np.float16).astype(np.float32)
        return Lists(starts, (found >> np.uint64(16)).astype(np.int32), scores)


def _encode(scores: Floats, items: npt.NDArray[np.int32]) -> _Keys:
    if len(scores) and scores.max() >= _OVERFLOW:
        worst = int(np.argmax(scores))
        raise ValueError(
            f"item {items[worst]} has the score {scores[worst]}, expected below {_OVERFLOW}, which half precision can "
            "hold; look at the training of the scorer"
        )
    halves = np.maximum(scores, _SMALLEST).astype(np.float16)
    return (halves.view(np.uint16).astype(np.uint64) << np.uint64(32)) | (_LOW - items.astype(np.uint64))


def _scores(keys: _Keys) -> Floats:
    return (keys >> np.uint64(32)).astype(np.uint16).view(np.float16).astype(np.float32)
