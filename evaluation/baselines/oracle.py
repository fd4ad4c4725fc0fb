"""The oracle as an arm of a comparison: on a world, what no method can find more than."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Fitted, Past
from evaluation.report import ORACLE
from evaluation.worlds.content import item_ids, number_of, user_ids
from evaluation.worlds.draws import Ints
from evaluation.worlds.truth import Truth


def oracle_of(world: Path) -> Baseline:
    """The oracle of a world.

    Args:
        world: Folder of the world.
    """
    return Baseline(
        ORACLE,
        ORACLE,
        "the truth of the world: what users are expected to take in the window",
        lambda past: _fit(world, past),
    )


def _fit(world: Path, past: Past) -> Fitted:
    """Ranks items by the truth.

    Raises:
        ValueError: The events are of other users or items than the world has.
    """
    truth = Truth.open(world)
    split = past.split
    users = _numbers(split.user_ids, truth.world.users, user_ids, world, "user")
    order = np.argsort(truth.items.number)
    listed = _numbers(past.item_ids, len(order), item_ids, world, "item")
    # Row of the world -> row of the catalogue, and back.
    to_world = order[listed]
    to_catalogue = np.full(len(order), -1, dtype=np.int32)
    to_catalogue[to_world] = np.arange(len(to_world), dtype=np.int32)
    days = truth.days_from(split.cut.date(), split.window_days)

    def rank(k: int, new_only: bool) -> npt.NDArray[np.int32]:
        known = None
        if new_only:
            pairs = split.history.tocoo()
            shape = (len(users), len(order))
            known = sp.csr_array((np.ones(pairs.nnz, dtype=bool), (pairs.row, to_world[pairs.col])), shape=shape)
        rows = truth.oracle(users, days, min(k, len(order)), known=known)
        found = np.full((len(users), k), -1, dtype=np.int32)
        found[:, : rows.shape[1]] = np.where(rows >= 0, to_catalogue[rows], -1)
        return found

    return Fitted(rank)


def _numbers(
    found: npt.NDArray[np.object_], below: int, spell: Callable[[Ints], pa.Array], world: Path, what: str
) -> Ints:
    """[n] int64: the numbers that ids were made of.

    Raises:
        ValueError: An id is none of the world.
    """
    numbers = np.array([number_of(some_id) for some_id in found], dtype=np.int64)
    is_own = (numbers >= 0) & (numbers < below)
    is_own &= spell(np.where(is_own, numbers, 0)).to_numpy(zero_copy_only=False) == found
    if not is_own.all():
        raise ValueError(
            f"{world}: the world has no {what} {found[~is_own][0]!r}, which the events have; set evaluation.world to "
            "the folder that the events come from, or to null"
        )
    return numbers
