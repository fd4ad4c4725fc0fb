"""Which snapshot rows does each midnight add? The Beam job over all users and items.

One element is a shard's worth of events as an Arrow batch: never a row. Users come first, because only they know which
event is a user's first meeting with an item; items take that from them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.parquetio import WriteToParquetBatched
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import item_snapshots, user_snapshots
from beam_jobs.snapshot_columns import ValueMeetings, item_columns, pairs_table, share_columns, user_columns
from beam_jobs.user_snapshots import Events, Ints
from features import columns
from features.days import number_of
from features.ids import stable_number
from features.schema import ENTITY_KEY, TOWERS, Schema, Tower
from features.storage import MOMENT, PAIRS_SCHEMA, snapshot_schema


def split_by_shard(batch: pa.Table, key: str, num_shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table into the shards that its key column falls into; empty shards are left out."""
    shard = stable_number(batch.column(key).to_pylist()) % num_shards
    for number in np.unique(shard):
        yield int(number), batch.filter(pa.array(shard == number))


class ReadDay(beam.DoFn):  # type: ignore[misc]
    """Path of a day's events -> (user shard, events)."""

    def __init__(self, num_shards: int) -> None:
        """Takes the number of shards."""
        self._num_shards = num_shards

    def process(self, path: str) -> Iterator[tuple[int, pa.Table]]:
        """Reads one file."""
        wanted = [columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP, columns.VALUE]
        yield from split_by_shard(pq.read_table(path, columns=wanted), columns.USER_ID, self._num_shards)


class _SnapshotShard(beam.DoFn):  # type: ignore[misc]
    """What user and item shards share: the catalogue of their side and the way a row becomes Arrow."""

    tower: Tower

    def __init__(
        self,
        table: str,
        schema: Schema,
        *,
        known: str | None,
        num_shards: int,
        days: tuple[int, int],
        refresh_days: int,
    ) -> None:
        self._path = table
        self._known_path = known
        self._schema = schema
        self._num_shards = num_shards
        self._days = days
        self._refresh_days = refresh_days

    def setup(self) -> None:
        """Loads the side's table, once a worker."""
        self._table = pq.read_table(self._path)
        self._shard_of = stable_number(self._table.column(ENTITY_KEY[self.tower]).to_pylist()) % self._num_shards
        known = [] if self._known_path is None else pq.read_table(self._known_path).column(0).to_pylist()
        self._known = pd.Index(known, dtype=object)

    def _members(self, shard: int) -> tuple[pa.Table, pd.Index, Ints]:
        """The shard's rows of the table, their ids and their refresh numbers."""
        members = self._table.filter(pa.array(self._shard_of == shard))
        ids = pd.Index(members.column(ENTITY_KEY[self.tower]).to_pylist(), dtype=object)
        # Not a matter of shards: their number may change from one day to the next, the turns must go on.
        return members, ids, stable_number(ids)

    def _newcomers(self, rows: pa.Table) -> pa.Table:
        """Rows of the first midnight that nobody has written yet: of those who were not known before."""
        ids = pd.Index(rows.column(ENTITY_KEY[self.tower]).to_pylist(), dtype=object)
        return rows.filter(pa.array(~ids.isin(self._known)))

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
    """(shard, events) -> snapshot rows; tagged `meetings`: (item shard, events); tagged `pairs`: pairs.

    An item shard does not know users: a first meeting carries the user's values of the columns that items count.
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
        members, ids, refresh = self._members(shard)
        table = _in_time_order(batches, self._schema)
        item_code, item_ids = pd.factorize(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False), sort=True)
        events = _events(table, ids.get_indexer(table.column(columns.USER_ID).to_pylist()), item_code)
        met = user_snapshots.pairs(events)
        first = met.first_meeting()
        yield from self._meetings(table, members, events.user, first)
        yield beam.pvalue.TaggedOutput("pairs", pairs_table(met, ids.to_numpy(), item_ids))
        shares = self._shares(item_ids, events, first)
        rows_of_days = user_snapshots.snapshots(
            events,
            first,
            len(ids),
            first_day=self._days[0],
            end_day=self._days[1],
            history_length=self._history_length,
            refresh=refresh,
            refresh_days=self._refresh_days,
        )
        tables = []
        for number, rows in enumerate(rows_of_days):
            statistics = user_columns(rows, item_ids) + share_columns(shares, rows.moment, rows.user)
            written = self._arrow(members, rows.user, rows.moment, statistics)
            tables.append(written if number else self._newcomers(written))
        yield pa.concat_tables(tables)

    def _meetings(self, table: pa.Table, members: pa.Table, user: Ints, first: Ints) -> Iterator[object]:
        table = table.drop_columns([columns.USER_ID]).append_column("first", pa.array(first))
        for field in self._schema.shares_of("item"):
            values = members.column(field.column).take(pa.array(user))
            table = table.append_column(field.values, _if_first(values, first))
        for part in split_by_shard(table, columns.ITEM_ID, self._num_shards):
            yield beam.pvalue.TaggedOutput("meetings", part)

    def _shares(self, item_ids: npt.NDArray[np.object_], events: Events, first: Ints) -> list[ValueMeetings]:
        counted = [field.column for field in self._schema.shares_of("user")]
        if not counted:
            return []
        items = pq.read_table(self._items_path, columns=[columns.ITEM_ID, *counted])
        row = pc.index_in(pa.array(item_ids, pa.string()), value_set=items.column(columns.ITEM_ID))
        met = items.take(row.take(pa.array(events.item)))
        return [ValueMeetings.of(_if_first(met.column(name), first), events.user, events.day) for name in counted]


class ItemShard(_SnapshotShard):
    """(shard, events with their `first` mark and their users' values) -> snapshot rows."""

    tower: Tower = "item"

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[pa.Table]:
        """Computes one shard."""
        shard, batches = element
        members, ids, refresh = self._members(shard)
        table = _in_time_order(batches, self._schema)
        item = ids.get_indexer(table.column(columns.ITEM_ID).to_pylist())
        events = _events(table, np.zeros(len(item), np.int64), item)
        shares = [
            ValueMeetings.of(table.column(field.values), events.item, events.day)
            for field in self._schema.shares_of("item")
        ]
        rows_of_days = item_snapshots.snapshots(
            events,
            table.column("first").to_numpy(),
            len(ids),
            first_day=self._days[0],
            end_day=self._days[1],
            refresh=refresh,
            refresh_days=self._refresh_days,
        )
        for number, rows in enumerate(rows_of_days):
            statistics = item_columns(rows) + share_columns(shares, rows.moment, rows.item)
            written = self._arrow(members, rows.item, rows.moment, statistics)
            yield written if number else self._newcomers(written)


class DailySnapshots(beam.PTransform):  # type: ignore[misc]
    """Paths of event files -> {"user", "item", "pairs"}: collections of Arrow tables.

    Every midnight from the start of `days[0]` to the start of `days[1]` is computed from all events before it. Of the
    first one, only the rows of those who are not `known` yet are written: with nobody known that is everybody, the base
    that later days build on.
    """

    def __init__(
        self, tables: Path, schema: Schema, *, days: tuple[dt.date, dt.date], num_shards: int, history_length: int,
        user_refresh_days: int, item_refresh_days: int, known: Path | None,
    ) -> None:  # fmt: skip
        """Takes the folder of the canonical tables, what the shards need, and the folder of those who have rows."""
        super().__init__()
        shared: dict[str, Any] = {"num_shards": num_shards, "days": (number_of(days[0]), number_of(days[1]))}
        self._num_shards = num_shards
        known_users, known_items = (None if known is None else str(known / f"{side}s.parquet") for side in TOWERS)
        self._users = UserShard(
            str(tables / "users.parquet"), schema, items=str(tables / "items.parquet"), history_length=history_length,
            known=known_users, refresh_days=user_refresh_days, **shared,
        )  # fmt: skip
        self._items = ItemShard(
            str(tables / "items.parquet"), schema, known=known_items, refresh_days=item_refresh_days, **shared
        )

    def expand(self, paths: beam.PCollection) -> dict[str, beam.PCollection]:
        """Builds the graph."""
        # A shard without events still has members whose rows are due.
        everywhere = paths.pipeline | "all shards" >> beam.Create([(shard, None) for shard in range(self._num_shards)])
        by_user = (paths | "read" >> beam.ParDo(ReadDay(self._num_shards)), everywhere)
        users = (
            by_user
            | "users" >> beam.Flatten()
            | "by user" >> beam.GroupByKey()
            | "user rows" >> beam.ParDo(self._users).with_outputs("meetings", "pairs", main="rows")
        )
        items = (
            (users.meetings, everywhere)
            | "items" >> beam.Flatten()
            | "by item" >> beam.GroupByKey()
            | "item rows" >> beam.ParDo(self._items)
        )
        return {"user": users.rows, "item": items, "pairs": users.pairs}


def run(
    transform: DailySnapshots, paths: list[str], *, out: Path, name: str, schema: Schema, options: PipelineOptions
) -> None:
    """Runs the job; writes `user/`, `item/` and `pairs/` below `out`, one file each, called after `name`."""
    schemas = {
        "user": snapshot_schema(schema, "user"),
        "item": snapshot_schema(schema, "item"),
        "pairs": PAIRS_SCHEMA,
    }
    with beam.Pipeline(options=options) as pipeline:
        outputs = pipeline | "events" >> beam.Create(paths) | "snapshots" >> transform
        for part, arrow_schema in schemas.items():
            outputs[part] | f"write {part}" >> WriteToParquetBatched(
                str(out / part / name), schema=arrow_schema, codec="zstd", num_shards=1, file_name_suffix=".parquet"
            )


def _cast(array: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return (array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])).cast(kind)


def _if_first(values: pa.ChunkedArray, first: Ints) -> pa.ChunkedArray:
    """Strings where a user meets an item for the first time, null elsewhere: each pair counts once."""
    return pc.if_else(pa.array(first == 1), values.cast(pa.string()), pa.scalar(None, pa.string()))


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
