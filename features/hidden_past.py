"""Items whose past is hidden, so that they look like new ones: how well new items are found, measured on many of them.

Shape letters: n rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.columns import seconds_of
from features.ids import stable_number

_LARGEST = 2.0**63


@dataclass(frozen=True)
class HiddenPast:
    """A share of all items, drawn by their ids: what happened to them before a day is not read.

    Attributes:
        share: Of the items.
        before: The first day, UTC, whose events are read.
        seed: Of the draw.
    """

    share: float
    before: dt.date
    seed: int = 0

    def are_hidden(self, item_ids: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Whether the past of items is hidden: [n] bool, the same for an item in every process and on every day."""
        drawn = stable_number(f"{self.seed} {item_id}" for item_id in item_ids) / _LARGEST
        return np.asarray(drawn < self.share)

    def hides(self, item_ids: pa.Array, moments: pa.Array) -> npt.NDArray[np.bool_]:
        """Whether events are hidden.

        Args:
            item_ids: [n] string; null is not hidden.
            moments: [n] int64, microseconds since 1970; null is not hidden.

        Returns:
            [n] bool.
        """
        items = item_ids.unique().drop_null()
        hidden = items.filter(pa.array(self.are_hidden(items.to_pylist()), pa.bool_()))
        early = pc.less(moments, seconds_of(self.before) * 1_000_000)
        found: npt.NDArray[np.bool_] = pc.fill_null(
            pc.and_(pc.is_in(item_ids, value_set=hidden), early), False
        ).to_numpy(zero_copy_only=False)
        return found
