"""What a baseline is: a name, and what it fits to the past of a split to rank items.

U users, N items of the catalogue, R users who are ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluation.split import Split

DEFAULT_K = 100


@dataclass(frozen=True)
class Past:
    """What a baseline may look at.

    Attributes:
        split: Users and what they did before the cut; what is relevant to them is not read.
        events: All events; those from the cut on are not read.
        item_ids: [N] object, in the order of the catalogue.
        seed: Of what is drawn.
        k: Length of the lists by whose recall, on the days before the cut, a baseline chooses its settings.
    """

    split: Split
    events: pa.Table
    item_ids: npt.NDArray[np.object_]
    seed: int
    k: int = DEFAULT_K


Rank = Callable[[int, bool], npt.NDArray[np.int32]]
"""(k, new_only) -> [U, k] int32: catalogue rows, best first, -1 behind the last one.

`new_only` leaves out what the user met before the cut."""

Ranked = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Catalogue rows [R, k] int32, best first, and their scores [R, k] float32; -1 and -inf behind the last one."""

RankSome = Callable[[npt.NDArray[np.int64], int, bool], Ranked]
"""(rows of users [R], k, new_only) -> as `Rank`, for some of the users, with the scores."""


@dataclass(frozen=True)
class Fitted:
    """A baseline that is fitted to a past.

    Attributes:
        rank: Ranks the items for each user.
        note: What was chosen on the days before the cut, and which items were left out: a sentence of the report; empty
            for a baseline that has nothing to choose.
    """

    rank: Rank
    note: str = ""


@dataclass(frozen=True)
class Baseline:
    """A way to retrieve without a model of ours.

    Attributes:
        name: On the command line and in `BASELINES`.
        title: In tables.
        source: What it is, in words.
        fit: Fits it to the past.
    """

    name: str
    title: str
    source: str
    fit: Callable[[Past], Fitted]
