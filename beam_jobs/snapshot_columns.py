"""How do the rows of a midnight become Arrow columns? In the order of the fields of the feature view.

Shape letters: E events of a shard, R rows of a midnight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from beam_jobs.item_snapshots import ItemRows
from beam_jobs.snapshot_pairs import Pairs
from beam_jobs.user_snapshots import DAY_SECONDS, Ints, UserRows
from beam_jobs.value_shares import Meetings, shares_before
from features.storage import PAIRS_SCHEMA

Names = npt.NDArray[np.object_]


@dataclass(frozen=True)
class ValueMeetings:
    """First meetings with the values of one column.

    Attributes:
        names: The values, sorted, so that equal shares come in the order of the alphabet.
        meetings: Who met them when; values by position in `names`.
    """

    names: Names
    meetings: Meetings

    @classmethod
    def of(cls, values: pa.ChunkedArray, owner: Ints, day: Ints, count: Ints | None = None) -> ValueMeetings:
        """Takes the owner, the day and the value, null where unknown, of meetings, and how many each stands for."""
        codes, names = pd.factorize(values.to_numpy(), sort=True)
        return cls(names, Meetings.of(owner, codes.astype(np.int64), day, count))

    @classmethod
    def of_coded(cls, values: pa.ChunkedArray, code: Ints, owner: Ints, day: Ints) -> ValueMeetings:
        """Takes the values of coded ones, null where unknown, and the code, the owner and the day of meetings."""
        codes, names = pd.factorize(values.to_numpy(), sort=True)
        return cls(names, Meetings.of(owner, codes.astype(np.int64)[code], day))


def user_columns(rows: UserRows, item_ids: Names) -> list[pa.Array]:
    """Statistics of users, without the moment: one array [R] for each."""
    known = rows.history >= 0
    offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    numbers = [rows.num_events, rows.num_items, rows.num_days, rows.value, rows.last_seconds]
    history = lists_of(offsets, pa.array(item_ids[rows.history[known]], pa.string()))
    return [*map(pa.array, numbers), history, lists_of(offsets, pa.array(rows.history_seconds[known]))]


def item_columns(rows: ItemRows) -> list[pa.Array]:
    """Statistics of items, without the moment: one array [R] for each."""
    totals = [rows.num_events, rows.num_buyers, rows.price]
    return [*map(pa.array, [*totals, rows.fast_rate, rows.slow_rate, rows.fast_new_rate, rows.slow_new_rate])]


def share_columns(fields: Sequence[ValueMeetings], moment: int, owners: Ints) -> list[pa.Array]:
    """Values and their shares before a midnight (Unix seconds): two arrays of lists [R] for each field."""
    made = []
    for field in fields:
        rows = shares_before(field.meetings, moment // DAY_SECONDS, owners=owners)
        made += [
            lists_of(rows.offsets, pa.array(field.names[rows.value], pa.string())),
            lists_of(rows.offsets, pa.array(rows.share, pa.float32())),
        ]
    return made


def pairs_table(met: Pairs, user_ids: Names, item_ids: Names) -> pa.Table:
    """The pairs with their external ids."""
    ids = [pa.array(user_ids[met.user], pa.string()), pa.array(item_ids[met.item], pa.string())]
    numbers = [pa.array(values) for values in (met.num_events, met.first_seconds, met.last_seconds)]
    return pa.table([*ids, *numbers], schema=PAIRS_SCHEMA)


def lists_of(offsets: Ints, values: pa.Array) -> pa.ListArray:
    """Lists that begin at the offsets, [n + 1], of their values."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
