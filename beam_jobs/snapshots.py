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
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import WriteToParquetBatched
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import item_snapshots, user_snapshots
from beam_jobs.user_snapshots import Events, Ints
from features import columns
from features.days import number_of
from features.schema import ENTITY_KEY, TOWERS, Schema, Tower
from features.storage import MOMENT, PAIRS_SCHEMA, snapshot_schema


def stable_number(ids: Iterable[str]) -> Ints:
    """A number for each id that is the same in every process and on every day: [n] int64, not negative."""
    hashed = pd.util.hash_array(np.asarray(list(ids), dtype=object), categorize=False)
    return (hashed >> np.uint64(1)).astype(np.int64)


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
    """(shard, events) -> snapshot rows; tagged `meetings`: (item shard, events); tagged `pairs`: pairs."""

    tower: Tower = "user"

    def __init__(self, table: str, schema: Schema, *, history_length: int, **shared: object) -> None:
        """Takes what the shards share and the history length."""
        super().__init__(table, schema, **shared)  # type: ignore[arg-type]
        self._history_length = history_length

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[object]:
        """Computes one shard."""
        shard, batches = element
        members, ids, refresh = self._members(shard)
        table = _in_time_order(batches)
        item_code, item_ids = pd.factorize(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False), sort=True)
        events = _events(table, ids.get_indexer(table.column(columns.USER_ID).to_pylist()), item_code)
        yield from self._meetings(table, user_snapshots.occurrence(events))
        yield beam.pvalue.TaggedOutput("pairs", _pairs(events, ids, item_ids))
        rows_of_days = user_snapshots.snapshots(
            events,
            len(ids),
            first_day=self._days[0],
            end_day=self._days[1],
            history_length=self._history_length,
            refresh=refresh,
            refresh_days=self._refresh_days,
        )
        tables = []
        for number, rows in enumerate(rows_of_days):
            written = self._arrow(members, rows.user, rows.moment, _user_statistics(rows, item_ids))
            tables.append(written if number else self._newcomers(written))
        yield pa.concat_tables(tables)

    def _meetings(self, table: pa.Table, nth: Ints) -> Iterator[object]:
        first = pa.array((nth == 1).astype(np.int64))
        table = table.drop_columns([columns.USER_ID]).append_column("first", first)
        for part in split_by_shard(table, columns.ITEM_ID, self._num_shards):
            yield beam.pvalue.TaggedOutput("meetings", part)


class ItemShard(_SnapshotShard):
    """(shard, events with their `first` mark) -> snapshot rows."""

    tower: Tower = "item"

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[pa.Table]:
        """Computes one shard."""
        shard, batches = element
        members, ids, refresh = self._members(shard)
        table = _in_time_order(batches)
        item = ids.get_indexer(table.column(columns.ITEM_ID).to_pylist())
        events = _events(table, np.zeros(len(item), np.int64), item)
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
            statistics = [rows.num_events, rows.num_buyers, rows.price]
            statistics += [rows.fast_rate, rows.slow_rate, rows.fast_new_rate, rows.slow_new_rate]
            written = self._arrow(members, rows.item, rows.moment, [pa.array(values) for values in statistics])
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
            str(tables / "users.parquet"), schema, history_length=history_length, known=known_users,
            refresh_days=user_refresh_days, **shared,
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


def _in_time_order(batches: Iterable[pa.Table | None]) -> pa.Table:
    """One table out of a shard's batches, ordered by all columns so that the order of arrival leaves no trace."""
    tables = [batch for batch in batches if batch is not None]
    if not tables:
        kinds = [(name, pa.string()) for name in (columns.USER_ID, columns.ITEM_ID)]
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


def _pairs(events: Events, user_ids: pd.Index, item_ids: Ints) -> pa.Table:
    met = user_snapshots.pairs(events)
    ids = [pa.array(user_ids.to_numpy()[met.user], pa.string()), pa.array(item_ids[met.item], pa.string())]
    numbers = [pa.array(values) for values in (met.num_events, met.first_seconds, met.last_seconds)]
    return pa.table([*ids, *numbers], schema=PAIRS_SCHEMA)


def _user_statistics(rows: user_snapshots.UserRows, item_ids: Ints) -> list[pa.Array]:
    known = rows.history >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(known.sum(axis=1))]), pa.int32())
    lists = [item_ids[rows.history[known]], rows.history_seconds[known]]
    kinds = [pa.string(), pa.int64()]
    numbers = [rows.num_events, rows.num_items, rows.num_days, rows.value, rows.last_seconds]
    return [
        *(pa.array(values) for values in numbers),
        *(pa.ListArray.from_arrays(offsets, pa.array(values, kind)) for values, kind in zip(lists, kinds, strict=True)),
    ]
