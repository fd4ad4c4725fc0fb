"""Which items stand in the queue's columns? Those of the last rows, as `training.queue.VectorQueue` has their vectors.

Shape letters: B rows of a batch, Q columns of the queue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.negatives import NO_ITEM

Ints = npt.NDArray[np.int64]


class RecentItems:
    """The last Q own items of an epoch, oldest first; places not yet filled come before them.

    Args:
        size: Q.
    """

    def __init__(self, size: int) -> None:
        """Starts empty."""
        self._items: Ints = np.full(size, NO_ITEM, np.int64)
        self._num_pushed = 0

    def read(self) -> Ints:
        """[Q] int64 item rows, `NO_ITEM` where nothing is yet."""
        return self._items.copy()

    @property
    def num_filled(self) -> int:
        """Places that hold a row's item, known to the tables or not."""
        return min(self._num_pushed, len(self._items))

    def push(self, item_rows: Ints) -> None:
        """Takes [B] items in, dropping the oldest."""
        self._items = np.concatenate([self._items, item_rows])[len(item_rows) :]
        self._num_pushed += len(item_rows)
