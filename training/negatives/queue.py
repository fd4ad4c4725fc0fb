"""Queue of recent items and their vectors, which serve as negatives without gradient.

Shape letters: B rows of a batch, Q columns of the queue, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.negatives.known_positives import NO_ITEM

Ints = npt.NDArray[np.int64]


class RecentItems:
    """The last Q own items of an epoch, oldest first; places not yet filled come before them.

    Args:
        size: Q.
    """

    def __init__(self, size: int) -> None:
        """Starts empty."""
        self._items: Ints = np.full(size, NO_ITEM, np.int64)
        self._drawn: list[tuple[Ints, int]] = []

    def read(self) -> Ints:
        """[Q] int64 item rows, `NO_ITEM` where nothing is yet."""
        return self._items.copy()

    @property
    def drawn(self) -> Sequence[tuple[Ints, int]]:
        """Of each span, oldest first: examples of each item in it, and how many of its examples are here."""
        return self._drawn

    def push(self, item_rows: Ints, counts: Ints) -> None:
        """Takes [B] items in, dropping the oldest.

        Args:
            item_rows: The items.
            counts: [N] examples of each item in their span, the same array for all its batches.
        """
        self._items = np.concatenate([self._items, item_rows])[len(item_rows) :]
        if not len(self._items):
            return
        if not self._drawn or self._drawn[-1][0] is not counts:
            self._drawn.append((counts, 0))
        self._drawn[-1] = (counts, self._drawn[-1][1] + len(item_rows))
        excess = sum(num for _, num in self._drawn) - len(self._items)
        while excess > 0:
            oldest, num = self._drawn[0]
            self._drawn[:1] = [(oldest, num - excess)] if num > excess else []
            excess -= min(num, excess)


class VectorQueue(tf.Module):  # type: ignore[misc]
    """The last Q vectors, oldest first; places not yet filled hold zeros and come before them.

    The vectors are as old as the queue is long: the towers have moved on since. `RecentItems` keeps the items
    of the same places.

    Args:
        size: Q.
        dim: D.

    Raises:
        ValueError: A size or width below 1.

    Source: Wang et al., CVPR 2020, the cross-batch memory; here without its warm-up, since unfilled places are masked.
    """

    def __init__(self, size: int, dim: int) -> None:
        """Starts empty."""
        super().__init__(name="vector_queue")
        if size < 1 or dim < 1:
            raise ValueError(
                f"a queue of {size} vectors of width {dim}: expected both at least 1; without a queue make none"
            )
        self._vectors = tf.Variable(tf.zeros([size, dim]), trainable=False, name="vectors")

    def read(self) -> tf.Tensor:
        """The vectors as they are now: [Q, D] float32, without gradient."""
        return tf.stop_gradient(self._vectors.read_value())

    def push(self, vectors: tf.Tensor) -> None:
        """Takes vectors in, dropping the oldest.

        Args:
            vectors: [B, D] float32, those of the rows' own items in the order of the rows.

        Raises:
            ValueError: They are not of the queue's width.
        """
        size, dim = self._vectors.shape
        if not vectors.shape.is_compatible_with([None, dim]):
            raise ValueError(f"vectors have shape {vectors.shape}, expected [B, {dim}] as the queue's")
        joined = tf.concat([self._vectors.read_value(), tf.stop_gradient(vectors)], axis=0)
        self._vectors.assign(joined[-size:])

    def clear(self) -> None:
        """Empties it, as an epoch begins."""
        self._vectors.assign(tf.zeros_like(self._vectors))
