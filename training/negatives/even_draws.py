"""Negatives drawn evenly from the catalogue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def rounds(item_rows: Ints, *, rng: np.random.Generator) -> Ints:
    """Random order in which no item comes a second time before all have come once, and so on.

    Even draws of several days repeat items. In this order a batch's share of them holds none twice.
    """
    order = rng.permutation(len(item_rows))
    by_item = np.argsort(item_rows[order], kind="stable")
    rising = item_rows[order][by_item]
    turn = np.empty(len(order), np.int64)
    turn[by_item] = np.arange(len(order)) - np.searchsorted(rising, rising)
    return order[np.argsort(turn, kind="stable")]
