"""The Beam job that computes the snapshot rows which each midnight adds, over all users and items.

It starts from what was known at an earlier midnight, so that it reads the events since then and no others. One element
is a shard's worth of events as an Arrow batch: never a row. Users come first, because only they know which event is a
user's first meeting with an item; items take that from them.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import dated_facts, embed, item_snapshots, snapshot_state, user_snapshots
from features import columns, computed, event_kinds, ids, lists
from features.schema import ENTITY_KEY, MOMENT, PAIRS_SCHEMA, Schema, Tower, snapshot_schema

NUM_BEFORE = "num_before"
PARTS = ("user", "item", "pairs", "user_state", "item_state")


def split_by_shard(batch: pa.Table, key: str, num_shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table into the shards that its key column falls into; empty shards are left out."""
    shard = snapshot_state.shard_of(batch.column(key), num_shards)
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
        saved: snapshot_state.SavedState | None,
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
        self._shard_of = snapshot_state.shard_of(self._table.column(ENTITY_KEY[self.tower]), self._num_shards)

    def _members(self, shard: int) -> tuple[pa.Table, pa.Array, dict[str, Any]]:
        """The shard's rows of the table, their ids, and which rows are wanted, as `snapshots` takes it."""
        members = self._table.filter(pa.array(self._shard_of == shard))
        entity_ids = members.column(ENTITY_KEY[self.tower]).combine_chunks()
        known = self._read(self.tower, shard).column(0)
        wanted = {
            "first_day": self._days[0],
            "end_day": self._days[1],
            "rows_from": self._rows_from,
            "is_new": pc.invert(pc.is_in(entity_ids, value_set=known)).to_numpy(zero_copy_only=False),
            # Not a matter of shards: their number may change from one day to the next, the turns must continue.
            "refresh": ids.stable_number(entity_ids.to_pylist()),
            "refresh_days": self._refresh_days,
        }
        return members, entity_ids, wanted

    def _computed(self) -> dict[str, computed.ComputedFeature]:
        """The computed features of the side, by name."""
        return {name: computed.COMPUTED[name] for name in self._schema.computed_of(self.tower)}

    def _read(self, part: str, shard: int) -> pa.Table:
        """The shard's part of the saved state; empty where there is none."""
        if self._saved is None:
            return snapshot_state.state_schema(self._schema, part).empty_table()
        return snapshot_state.read_shard(getattr(self._saved, part), shard, self._num_shards)

    def _arrow(
        self,
        members: pa.Table,
        position: user_snapshots.Ints,
        moment: int,
        statistics: list[pa.Array],
        dated: Sequence[pa.ChunkedArray] = (),
    ) -> pa.Table:
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
            *dated,
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
        members, entity_ids, wanted = self._members(shard)
        table = _in_time_order(batches, self._schema)
        saved, saved_pairs = self._read("user", shard), self._read("pairs", shard)
        item_ids = _sorted_ids(table.column(columns.ITEM_ID), saved_pairs.column(columns.ITEM_ID))
        codes = [
            pc.index_in(table.column(name), value_set=names)
            for name, names in ((columns.USER_ID, entity_ids), (columns.ITEM_ID, item_ids))
        ]
        events = _events(table, *(code.to_numpy() for code in codes))
        known = snapshot_state.known_pairs(saved_pairs, entity_ids, item_ids)
        positive = self._positives(table)
        met = snapshot_state.pairs(events.at(positive), known)
        first = np.zeros(len(events.user), np.int64)
        first[positive] = met.first_meeting(len(positive))
        yield from self._meetings(table.take(pa.array(positive)), members, events.user[positive], first[positive])
        yield from self._meetings_before(members, known, item_ids)
        item_names = item_ids.to_numpy(zero_copy_only=False)
        yield beam.pvalue.TaggedOutput(
            "pairs", (shard, snapshot_state.pairs_table(met, entity_ids.to_numpy(zero_copy_only=False), item_names))
        )
        shares = self._shares(item_ids, met)
        state = snapshot_state.user_state(saved, entity_ids, item_ids, self._history_length, self._computed())
        rows = [snapshot_schema(self._schema, self.tower).empty_table()]
        for found in user_snapshots.snapshots(state, events, first, **wanted):
            statistics = snapshot_state.user_columns(found, item_names) + snapshot_state.share_columns(
                shares, found.moment, found.user
            )
            rows.append(self._arrow(members, found.user, found.moment, statistics))
        yield shard, pa.concat_tables(rows)
        yield beam.pvalue.TaggedOutput("state", (shard, snapshot_state.user_table(state, entity_ids, item_names)))

    def _positives(self, table: pa.Table) -> user_snapshots.Ints:
        """Positions of the events with which a user meets an item: [P] int64."""
        kinds = self._schema.kinds_of_events()
        if kinds is None or columns.KIND not in table.column_names:
            return np.arange(table.num_rows)
        return np.flatnonzero(event_kinds.are_of_kinds(table, kinds.positives).to_numpy())

    def _meetings(
        self, table: pa.Table, members: pa.Table, user: user_snapshots.Ints, first: user_snapshots.Ints
    ) -> Iterator[object]:
        table = table.drop_columns([columns.USER_ID]).append_column("first", pa.array(first))
        for field in self._schema.shares_of("item"):
            values = lists.as_text(members.column(field.column)).take(pa.array(user))
            table = table.append_column(field.values, _if_first(values, first))
        yield from self._to_items(table)

    def _meetings_before(self, members: pa.Table, known: snapshot_state.Pairs, item_ids: pa.Array) -> Iterator[object]:
        """How often each item had met each value: counted again each time, for a user's value may have changed."""
        for field in self._schema.shares_of("item"):
            values = lists.as_text(members.column(field.column)).take(pa.array(known.user)).cast(pa.string())
            table = pa.table({columns.ITEM_ID: item_ids.take(pa.array(known.item)), field.values: values})
            # With threads the order would be another one each time.
            counts = table.group_by(table.column_names, use_threads=False).aggregate([([], "count_all")])
            yield from self._to_items(counts.rename_columns([*table.column_names, NUM_BEFORE]))

    def _to_items(self, table: pa.Table) -> Iterator[object]:
        for part in split_by_shard(table, columns.ITEM_ID, self._num_shards):
            yield beam.pvalue.TaggedOutput("meetings", part)

    def _shares(self, item_ids: pa.Array, met: snapshot_state.Pairs) -> list[snapshot_state.ValueMeetings]:
        counted = [field.column for field in self._schema.shares_of("user")]
        if not counted:
            return []
        items = pq.read_table(self._items_path, columns=[columns.ITEM_ID, *counted])
        values = items.take(pc.index_in(item_ids, value_set=items.column(columns.ITEM_ID).combine_chunks()))
        day = met.first_seconds // user_snapshots.DAY_SECONDS
        # Of each item, not of each pair, until they are numbers.
        named = ((lists.as_text(values.column(name)), met.item, met.user, day) for name in counted)
        return [snapshot_state.ValueMeetings.of_coded(*one) for one in named]


class ItemShard(_SnapshotShard):
    """(shard, events with their `first` mark and their users' values) -> (shard, snapshot rows), and tagged `state`."""

    tower: Tower = "item"

    def process(self, element: tuple[int, Iterable[pa.Table]]) -> Iterator[object]:
        """Computes one shard."""
        shard, arrived = element
        members, entity_ids, wanted = self._members(shard)
        batches = [batch for batch in arrived if batch is not None]
        before = [batch for batch in batches if NUM_BEFORE in batch.column_names]
        table = _in_time_order([batch for batch in batches if NUM_BEFORE not in batch.column_names], self._schema)
        item = pc.index_in(table.column(columns.ITEM_ID), value_set=entity_ids).to_numpy()
        events = _events(table, np.zeros(len(item), np.int64), item)
        shares = [
            self._shares(field.values, table, events, before, entity_ids) for field in self._schema.shares_of("item")
        ]
        state = snapshot_state.item_state(self._read("item", shard), entity_ids, self._computed())
        facts = dated_facts.read_facts(
            Path(self._path).parent,
            shard,
            num_shards=self._num_shards,
            item_ids=entity_ids,
            names=list(self._schema.dated_columns),
            # New items get rows of their latest turn before.
            first_day=self._days[0] - self._refresh_days,
            end_day=self._days[1],
        )
        rows = [snapshot_schema(self._schema, self.tower).empty_table()]
        for found in item_snapshots.snapshots(
            state, events, table.column("first").to_numpy(), changed=facts.changed, **wanted
        ):
            dated = facts.at(found.item, found.moment // user_snapshots.DAY_SECONDS)
            statistics = snapshot_state.item_columns(found) + snapshot_state.share_columns(
                shares, found.moment, found.item
            )
            rows.append(self._arrow(members, found.item, found.moment, statistics, dated))
        yield shard, pa.concat_tables(rows)
        yield beam.pvalue.TaggedOutput("state", (shard, snapshot_state.item_table(state, entity_ids)))

    def _shares(
        self,
        name: str,
        table: pa.Table,
        events: user_snapshots.Events,
        before: Sequence[pa.Table],
        entity_ids: pa.Array,
    ) -> snapshot_state.ValueMeetings:
        """First meetings at hand, one each, behind the numbers of those before, on the day before the first."""
        empty = pa.table({columns.ITEM_ID: pa.array([], pa.string()), name: pa.array([], pa.string()),
                          NUM_BEFORE: pa.array([], pa.int64())})  # fmt: skip
        earlier = pa.concat_tables([empty, *(part for part in before if name in part.column_names)])
        item = pc.index_in(earlier.column(columns.ITEM_ID), value_set=entity_ids).to_numpy().astype(np.int64)
        return snapshot_state.ValueMeetings.of(
            pa.chunked_array([*earlier.column(name).chunks, *table.column(name).chunks], pa.string()),
            np.concatenate([item, events.item]),
            np.concatenate([np.full(len(item), self._days[0] - 1), events.day]),
            np.concatenate([earlier.column(NUM_BEFORE).to_numpy(), np.ones(len(events.item), np.int64)]),
        )


def _cast(array: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return (array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])).cast(kind)


def _if_first(values: pa.ChunkedArray, first: user_snapshots.Ints) -> pa.ChunkedArray:
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


def _events(table: pa.Table, user: user_snapshots.Ints, item: user_snapshots.Ints) -> user_snapshots.Events:
    seconds = table.column(columns.TIMESTAMP).cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64())
    value = np.nan_to_num(table.column(columns.VALUE).to_numpy())
    return user_snapshots.Events(user.astype(np.int64), item.astype(np.int64), seconds.to_numpy(), value)


class ReadDay(beam.DoFn):  # type: ignore[misc]
    """Path of a day's events -> (user shard, events that make histories).

    They have their kind where not all kinds are positives.
    """

    def __init__(self, num_shards: int, kinds: event_kinds.EventKinds | None = None) -> None:
        """Takes the number of shards and the kinds of events."""
        self._num_shards, self._kinds = num_shards, kinds

    def process(self, path: str) -> Iterator[tuple[int, pa.Table]]:
        """Reads one file."""
        wanted = [columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP, columns.VALUE]
        kinds = self._kinds
        if kinds is None or kinds.chooses_all("positives"):
            table = pq.read_table(path, columns=wanted)
        else:
            table = event_kinds.of_kinds(pq.read_table(path, columns=[*wanted, columns.KIND]), kinds.histories)
        yield from split_by_shard(table, columns.USER_ID, self._num_shards)


class DailySnapshots(beam.PTransform):  # type: ignore[misc]
    """Paths of event files -> for each of `PARTS` a collection of (shard, Arrow table).

    The events are those from the start of `days[0]` to the start of `days[1]`. With the state saved at the former the
    rows of every later midnight up to the latter are computed, as far as they are wanted, and the state at the latter.
    What the state does not know is new: it gets the row of its latest refresh before as well. Without a saved state
    nothing has happened yet, and everybody is new.
    """

    def __init__(
        self, tables: Path, schema: Schema, *, days: tuple[dt.date, dt.date], rows_from: dt.date, num_shards: int,
        history_length: int, user_refresh_days: int, item_refresh_days: int, saved: snapshot_state.SavedState | None,
    ) -> None:  # fmt: skip
        """Takes the folder of the canonical tables, what the shards need, and the state at the start."""
        super().__init__()
        shared: dict[str, Any] = {
            "saved": saved,
            "num_shards": num_shards,
            "days": (columns.number_of(days[0]), columns.number_of(days[1])),
            "rows_from": columns.number_of(rows_from),
        }
        self.num_shards, self._kinds = num_shards, schema.kinds_of_events()
        users, items = str(tables / "users.parquet"), str(tables / "items.parquet")
        self._users = UserShard(
            users, schema, items=items, history_length=history_length, refresh_days=user_refresh_days, **shared
        )
        self._items = ItemShard(items, schema, refresh_days=item_refresh_days, **shared)

    def expand(self, paths: beam.PCollection) -> dict[str, beam.PCollection]:
        """Builds the graph."""
        # A shard without events still has members whose rows are due.
        everywhere = paths.pipeline | "all shards" >> beam.Create([(shard, None) for shard in range(self.num_shards)])
        by_user = (paths | "read" >> beam.ParDo(ReadDay(self.num_shards, self._kinds)), everywhere)
        users = (
            by_user
            | "users" >> beam.Flatten()
            | "by user" >> beam.GroupByKey()
            | "user rows" >> beam.ParDo(self._users).with_outputs("meetings", "pairs", "state", main="rows")
        )
        items = (
            (users.meetings, everywhere)
            | "items" >> beam.Flatten()
            | "by item" >> beam.GroupByKey()
            | "item rows" >> beam.ParDo(self._items).with_outputs("state", main="rows")
        )
        return {
            "user": users.rows,
            "item": items.rows,
            "pairs": users.pairs,
            "user_state": users.state,
            "item_state": items.state,
        }


def run(transform: DailySnapshots, paths: list[str], *, out: Path, schema: Schema, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/<part>.parquet` for each of `PARTS`, a row group a shard, in the order of shards."""
    schemas = part_schemas(schema)
    with tempfile.TemporaryDirectory(dir=out, prefix=".shards-") as name:
        shards = Path(name)
        with beam.Pipeline(options=options) as pipeline:
            outputs = pipeline | "events" >> beam.Create(paths) | "snapshots" >> transform
            for part in PARTS:
                outputs[part] | f"write {part}" >> beam.ParDo(
                    embed.WriteNumbered(shards / part, total=transform.num_shards)
                )
        for part in PARTS:
            snapshot_state.gather_shards(
                sorted(shards.glob(f"{part}-?????-of-?????.parquet")), out / f"{part}.parquet", schemas[part]
            )


def part_schemas(schema: Schema) -> dict[str, pa.Schema]:
    """Arrow schema of each of `PARTS`."""
    return {
        "user": snapshot_schema(schema, "user"),
        "item": snapshot_schema(schema, "item"),
        "pairs": PAIRS_SCHEMA,
        "user_state": snapshot_state.state_schema(schema, "user"),
        "item_state": snapshot_state.state_schema(schema, "item"),
    }
