"""What one shard of users or items adds at each midnight: Arrow in, Arrow out, around the arithmetic.

Users come first, because only they know which event is a user's first meeting with an item; items take that from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs import item_snapshots, user_snapshots
from beam_jobs.snapshot_columns import (
    Pairs,
    ValueMeetings,
    item_columns,
    pairs,
    pairs_table,
    share_columns,
    user_columns,
)
from beam_jobs.snapshot_state import (
    SavedState,
    item_state,
    item_table,
    known_pairs,
    read_shard,
    shard_of,
    state_schema,
    user_state,
    user_table,
)
from beam_jobs.user_snapshots import Events, Ints
from features import columns, computed
from features.ids import stable_number
from features.schema import ENTITY_KEY, MOMENT, Schema, Tower, snapshot_schema

NUM_BEFORE = "num_before"


def split_by_shard(batch: pa.Table, key: str, num_shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table into the shards that its key column falls into; empty shards are left out."""
    shard = shard_of(batch.column(key), num_shards)
    for number in np.unique(shard):
        yield int(number), batch.filter(pa.array(shard == number))


class _SnapshotShard(beam.DoFn):  # type: ignore[misc]
    """What user and item shards share: the catalogue of their side and the way a row becomes Arrow."""

    tower: Tower

    def __init__(
        self,
        table: str,
        schema: Schema,
        *,
        saved: SavedState | None,
        num_shards: int,
        days: tuple[int, int],
        rows_from: int,
        refresh_days: int,
    ) -> None:
        self._path = table
        self._saved = saved
        self._schema = schema
        self._num_shards = num_shards
        self._days = days
        self._rows_from = rows_from
        self._refresh_days = refresh_days

    def setup(self) -> None:
        """Loads the side's table, once a worker."""
        self._table = pq.read_table(self._path)
        self._shard_of = shard_of(self._table.column(ENTITY_KEY[self.tower]), self._num_shards)

    def _members(self, shard: int) -> tuple[pa.Table, pa.Array, dict[str, Any]]:
        """The shard's rows of the table, their ids, and which rows are wanted, as `snapshots` takes it."""
        members = self._table.filter(pa.array(self._shard_of == shard))
        ids = members.column(ENTITY_KEY[self.tower]).combine_chunks()
        known = self._read(self.tower, shard).column(0)
        wanted = {
            "first_day": self._days[0],
            "end_day": self._days[1],
            "rows_from": self._rows_from,
            "is_new": pc.invert(pc.is_in(ids, value_set=known)).to_numpy(zero_copy_only=False),
            # Not a matter of shards: their number may change from one day to the next, the turns must continue.
            "refresh": stable_number(ids.to_pylist()),
            "refresh_days": self._refresh_days,
        }
        return members, ids, wanted

    def _computed(self) -> dict[str, computed.ComputedFeature]:
        """The computed features of the side, by name."""
        return {name: computed.COMPUTED[name] for name in self._schema.computed_of(self.tower)}

    def _read(self, part: str, shard: int) -> pa.Table:
        """The shard's part of the saved state; empty where there is none."""
        if self._saved is None:
            return state_schema(self._schema, part).empty_table()
        return read_shard(getattr(self._saved, part), shard, self._num_shards)

    def _arrow(self, members: pa.Table, position: Ints, moment: int, statistics: list[pa.Array]) -> pa.Table:
        schema = snapshot_schema(self._schema, self.tower)
        chosen = members.take(pa.array(position))
        moments = pa.array(np.full(len(position), moment * 1_000_000), pa.int64()).cast(MOMENT)
        seconds = pa.array(np.full(len(position), moment))
        columns_of = list(self._schema.columns_of(self.tower))
        arrays = [
            chosen.column(0),
            moments,
            moments,
            seconds,
            *statistics,
            *(chosen.column(name) for name in columns_of),
        ]
        return pa.table([_cast(array, field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


class UserShard(_SnapshotShard):
    """(shard, events) -> (shard, snapshot rows), and tagged `state` and `pairs` what the next run starts from.

    Tagged `meetings` are tables for item shards. These do not know users: a first meeting carries the user's values of
    the columns that items count, and so does the number of first meetings before the events at hand.
    """

    tower: Tower = "user"

    def __init__(self, table: str, schema: Schema, *, items: str, history_length: int, **shared: object) -> None:
        """Takes what the shards share, the table of all items and the history length."""
        super().__init__(table, schema, **shared)  # type: ignore[arg-type]
        self._items_path = items
        self._history_length = history_length

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[object]:
        """Computes one shard."""
        shard, batches = element
        members, ids, wanted = self._members(shard)
        table = _in_time_order(batches, self._schema)
        saved, saved_pairs = self._read("user", shard), self._read("pairs", shard)
        item_ids = _sorted_ids(table.column(columns.ITEM_ID), saved_pairs.column(columns.ITEM_ID))
        codes = [
            pc.index_in(table.column(name), value_set=names)
            for name, names in ((columns.USER_ID, ids), (columns.ITEM_ID, item_ids))
        ]
        events = _events(table, *(code.to_numpy() for code in codes))
        known = known_pairs(saved_pairs, ids, item_ids)
        met = pairs(events, known)
        first = met.first_meeting(len(events.user))
        yield from self._meetings(table, members, events.user, first)
        yield from self._meetings_before(members, known, item_ids)
        item_names = item_ids.to_numpy(zero_copy_only=False)
        yield beam.pvalue.TaggedOutput(
            "pairs", (shard, pairs_table(met, ids.to_numpy(zero_copy_only=False), item_names))
        )
        shares = self._shares(item_ids, met)
        state = user_state(saved, ids, item_ids, self._history_length, self._computed())
        rows = [snapshot_schema(self._schema, self.tower).empty_table()]
        for found in user_snapshots.snapshots(state, events, first, **wanted):
            statistics = user_columns(found, item_names) + share_columns(shares, found.moment, found.user)
            rows.append(self._arrow(members, found.user, found.moment, statistics))
        yield shard, pa.concat_tables(rows)
        yield beam.pvalue.TaggedOutput("state", (shard, user_table(state, ids, item_names)))

    def _meetings(self, table: pa.Table, members: pa.Table, user: Ints, first: Ints) -> Iterator[object]:
        table = table.drop_columns([columns.USER_ID]).append_column("first", pa.array(first))
        for field in self._schema.shares_of("item"):
            values = members.column(field.column).take(pa.array(user))
            table = table.append_column(field.values, _if_first(values, first))
        yield from self._to_items(table)

    def _meetings_before(self, members: pa.Table, known: Pairs, item_ids: pa.Array) -> Iterator[object]:
        """How often each item had met each value: counted again each time, for a user's value may have changed."""
        for field in self._schema.shares_of("item"):
            values = members.column(field.column).take(pa.array(known.user)).cast(pa.string())
            table = pa.table({columns.ITEM_ID: item_ids.take(pa.array(known.item)), field.values: values})
            # With threads the order would be another one each time.
            counts = table.group_by(table.column_names, use_threads=False).aggregate([([], "count_all")])
            yield from self._to_items(counts.rename_columns([*table.column_names, NUM_BEFORE]))

    def _to_items(self, table: pa.Table) -> Iterator[object]:
        for part in split_by_shard(table, columns.ITEM_ID, self._num_shards):
            yield beam.pvalue.TaggedOutput("meetings", part)

    def _shares(self, item_ids: pa.Array, met: Pairs) -> list[ValueMeetings]:
        counted = [field.column for field in self._schema.shares_of("user")]
        if not counted:
            return []
        items = pq.read_table(self._items_path, columns=[columns.ITEM_ID, *counted])
        values = items.take(pc.index_in(item_ids, value_set=items.column(columns.ITEM_ID).combine_chunks()))
        day = met.first_seconds // user_snapshots.DAY_SECONDS
        # Of each item, not of each pair, until they are numbers.
        return [ValueMeetings.of_coded(values.column(name), met.item, met.user, day) for name in counted]


class ItemShard(_SnapshotShard):
    """(shard, events with their `first` mark and their users' values) -> (shard, snapshot rows), and tagged `state`."""

    tower: Tower = "item"

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[object]:
        """Computes one shard."""
        shard, arrived = element
        members, ids, wanted = self._members(shard)
        batches = [batch for batch in arrived if batch is not None]
        before = [batch for batch in batches if NUM_BEFORE in batch.column_names]
        table = _in_time_order([batch for batch in batches if NUM_BEFORE not in batch.column_names], self._schema)
        item = pc.index_in(table.column(columns.ITEM_ID), value_set=ids).to_numpy()
        events = _events(table, np.zeros(len(item), np.int64), item)
        shares = [self._shares(field.values, table, events, before, ids) for field in self._schema.shares_of("item")]
        state = item_state(self._read("item", shard), ids, self._computed())
        rows = [snapshot_schema(self._schema, self.tower).empty_table()]
        for found in item_snapshots.snapshots(state, events, table.column("first").to_numpy(), **wanted):
            statistics = item_columns(found) + share_columns(shares, found.moment, found.item)
            rows.append(self._arrow(members, found.item, found.moment, statistics))
        yield shard, pa.concat_tables(rows)
        yield beam.pvalue.TaggedOutput("state", (shard, item_table(state, ids)))

    def _shares(
        self, name: str, table: pa.Table, events: Events, before: Sequence[pa.Table], ids: pa.Array
    ) -> ValueMeetings:
        """First meetings at hand, one each, behind the numbers of those before, on the day before the first."""
        empty = pa.table({columns.ITEM_ID: pa.array([], pa.string()), name: pa.array([], pa.string()),
                          NUM_BEFORE: pa.array([], pa.int64())})  # fmt: skip
        earlier = pa.concat_tables([empty, *(part for part in before if name in part.column_names)])
        item = pc.index_in(earlier.column(columns.ITEM_ID), value_set=ids).to_numpy().astype(np.int64)
        return ValueMeetings.of(
            pa.chunked_array([*earlier.column(name).chunks, *table.column(name).chunks], pa.string()),
            np.concatenate([item, events.item]),
            np.concatenate([np.full(len(item), self._days[0] - 1), events.day]),
            np.concatenate([earlier.column(NUM_BEFORE).to_numpy(), np.ones(len(events.item), np.int64)]),
        )


def _cast(array: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return (array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])).cast(kind)


def _if_first(values: pa.ChunkedArray, first: Ints) -> pa.ChunkedArray:
    """Strings where a user meets an item for the first time, null elsewhere: each pair counts once."""
    return pc.if_else(pa.array(first == 1), values.cast(pa.string()), pa.scalar(None, pa.string()))


def _sorted_ids(*ids: pa.ChunkedArray) -> pa.Array:
    """The distinct ids of some columns, by code point."""
    distinct = pc.unique(pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string()))
    return distinct.take(pc.sort_indices(distinct))


def _in_time_order(batches: Iterable[pa.Table | None], schema: Schema) -> pa.Table:
    """One table out of a shard's batches, ordered by all columns so that the order of arrival leaves no trace."""
    tables = [batch for batch in batches if batch is not None]
    if not tables:
        names = [columns.USER_ID, columns.ITEM_ID, *(field.values for field in schema.shares_of("item"))]
        kinds = [(name, pa.string()) for name in names]
        return pa.schema(
            [*kinds, (columns.TIMESTAMP, MOMENT), (columns.VALUE, pa.float64()), ("first", pa.int64())]
        ).empty_table()
    table = pa.concat_tables(tables)
    rest = [name for name in table.column_names if name != columns.TIMESTAMP]
    return table.sort_by([(name, "ascending") for name in [columns.TIMESTAMP, *rest]])


def _events(table: pa.Table, user: Ints, item: Ints) -> Events:
    seconds = table.column(columns.TIMESTAMP).cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64())
    value = np.nan_to_num(table.column(columns.VALUE).to_numpy())
    return Events(user.astype(np.int64), item.astype(np.int64), seconds.to_numpy(), value)
