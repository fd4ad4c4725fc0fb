"""Which dated facts are true of the items of a shard at a midnight, and which items get others then.

Shape letters: F facts of a shard, N items of the shard, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.snapshot_state import shard_of
from beam_jobs.user_snapshots import Ints
from features import columns
from features.tables import DATED_FILE


@dataclass(frozen=True)
class DatedFacts:
    """The facts of a shard's items, by the day on which they begin, then in the order of the source.

    Attributes:
        item: [F] int64, position of the item in the shard.
        first, last: [F] int64, day numbers of the first and the last day of which each is true.
        values: F rows of the declared columns.
        num_items: N.
    """

    item: Ints
    first: Ints
    last: Ints
    values: pa.Table
    num_items: int

    def at(self, items: Ints, day: int) -> list[pa.ChunkedArray]:
        """Values of items at the midnight that begins a day, null where none is true; one array [R] a column.

        Of several facts of an item that which began last counts, of those the last one of the source.
        """
        latest = np.full(self.num_items, -1)
        valid = np.flatnonzero((self.first <= day) & (day <= self.last))
        np.maximum.at(latest, self.item[valid], valid)
        rows = latest[items]
        return list(self.values.take(pa.array(rows, mask=rows < 0)).columns)

    def changed(self, day: int) -> Ints:
        """The items of which something begins to be true at the midnight that begins a day, or ends: any order."""
        return np.unique(self.item[(self.first == day) | (self.last == day - 1)])


def read_facts(
    tables: Path, shard: int, *, num_shards: int, item_ids: pa.Array, names: list[str], first_day: int, end_day: int
) -> DatedFacts:
    """Reads the facts of a shard's items that are true on some days, or on the one before them.

    Args:
        tables: Folder of the canonical tables.
        shard: Which.
        num_shards: Of all.
        item_ids: [N] string, the items of the shard; facts of others are left out.
        names: The declared columns; without any, nothing is read.
        first_day: Day number of the first of the days.
        end_day: Of the last.
    """
    none = np.zeros(0, np.int64)
    if not names:
        return DatedFacts(none, none, none, pa.table({}), len(item_ids))
    begin, end = columns.day_of(first_day - 1), columns.day_of(end_day)
    overlap = (pc.field(columns.LAST_DAY) >= begin) & (pc.field(columns.FIRST_DAY) <= end)
    found = pq.read_table(tables / DATED_FILE, filters=overlap)
    found = found.filter(pa.array(shard_of(found.column(columns.ITEM_ID), num_shards) == shard))
    item = pc.index_in(found.column(columns.ITEM_ID), value_set=item_ids)
    here = item.is_valid()
    found, item = found.filter(here), item.filter(here).to_numpy().astype(np.int64)
    validity = (columns.FIRST_DAY, columns.LAST_DAY)
    first, last = (found.column(name).cast(pa.int32()).to_numpy().astype(np.int64) for name in validity)
    order = np.argsort(first, kind="stable")
    return DatedFacts(item[order], first[order], last[order], found.select(names).take(order), len(item_ids))
