"""Earlier positions of histories as further examples: their targets, and how batches describe these.

Position t of a row (`towers.history_positions`) has the item at place t - 1 of the row's history as its target. A
history has the last distinct items, each at its latest event: what was met again later is at its later place alone.

Shape letters: B rows of a batch, T history length, P positions, n distinct targets of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.encoding import HISTORY, HISTORY_AGE, Inputs
from training.negatives.known_positives import NO_ITEM
from training.negatives.private import described
from training.negatives.source import Descriptions

Array = npt.NDArray[np.int32] | npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TARGET_PREFIX, TARGET, TARGET_LOG_Q = "target/", "target", "target_log_q"


@dataclass(frozen=True)
class Targets:
    """What the positions of a batch are to find.

    Attributes:
        items: [n] int64 item rows, `NO_ITEM` where nothing in the span describes the item.
        rows: [n] int64, a row of the span's descriptions for each; some row where there is no item.
        place: [B, P] int32, where among these the target of each position is, -1 where there is none. Column 0 is that
            of position 1.
    """

    items: Ints
    rows: Ints
    place: npt.NDArray[np.int32]

    @classmethod
    def of(cls, history: Array, num: int, descriptions: Descriptions, rng: np.random.Generator) -> Targets:
        """The targets of the positions 1 to P.

        Args:
            history: [B, T] int32 item rows, the latest first, 0 where padded.
            num: P.
            descriptions: Of the span. As for negatives, an item is described as it was at some moment of the span.
            rng: Of the choice among its descriptions.
        """
        items, place = np.unique(history[:, :num], return_inverse=True)
        known = np.where(items < descriptions.num_item_rows, items, NO_ITEM).astype(np.int64)
        known, rows = described(known, descriptions, rng)
        found = np.where(known == NO_ITEM, -1, np.arange(len(known)))[place]
        return cls(known, rows, found.reshape(len(history), num).astype(np.int32))


def without_some(items: Array, age_days: Array, share: float, rng: np.random.Generator) -> Inputs:
    """Histories without some of their items: the others close up, as if those had never been met.

    Args:
        items: [B, T] int32 item rows, the latest first, 0 where padded.
        age_days: [B, T] float32.
        share: Of the items that are left out.
        rng: Which.

    Returns:
        The two inputs, of the same shapes, zeros at the end.
    """
    kept = (rng.random(items.shape) >= share) & (items != NO_ITEM)
    order = np.argsort(~kept, axis=1, kind="stable")
    found = {HISTORY: items, HISTORY_AGE: age_days}
    return {
        name: np.take_along_axis(np.where(kept, values, values.dtype.type(0)), order, axis=1)
        for name, values in found.items()
    }
