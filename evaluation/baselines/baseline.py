"""What a baseline is: a name, and what it fits to the past of a split to rank items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluation.split import Split


@dataclass(frozen=True)
class Past:
    """What a baseline may look at.

    Attributes:
        split: Users and what they did before the cut; what is relevant to them is not read.
        events: All events; those from the cut on are not read.
        item_ids: [N] object, in the order of the catalogue.
        seed: Of what is drawn.
    """

    split: Split
    events: pa.Table
    item_ids: npt.NDArray[np.object_]
    seed: int


Rank = Callable[[int, bool], npt.NDArray[np.int32]]
"""(k, new_only) -> [U, k] int32: catalogue rows, best first, -1 behind the last one.

`new_only` leaves out what the user met before the cut."""


@dataclass(frozen=True)
class Baseline:
    """A way to retrieve without a model of ours.

    Attributes:
        name: On the command line and in `BASELINES`.
        title: In tables.
        source: What it is, in words.
        fit: Fits it to the past; gives what ranks the items for each user.
    """

    name: str
    title: str
    source: str
    fit: Callable[[Past], Rank]
