"""Snapshot rows and the saved state of a midnight, from which the next run starts, as Arrow tables.

Rows are columns in the order of the fields of the feature view. The state is Parquet, a row group a shard:

state/2017-11-30/user.parquet   totals and history of each user
                 item.parquet   totals and rates of each item
pairs/2017-11-30.parquet        the pairs that had met

Shape letters: U users, N items, T history length, P pairs, E events of a shard, R rows of a midnight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.item_snapshots import ItemRows, ItemState
from beam_jobs.user_snapshots import (
    DAY_SECONDS,
    Events,
    Floats,
    Ints,
    UserRows,
    UserState,
    begins_group,
    place_within_group,
)
from features import columns, computed
from features.ids import stable_number
from features.schema import MAX_SHARES, PAIRS_SCHEMA, Schema, Tower

Names = npt.NDArray[np.object_]
USER_STATE = pa.schema(
    [
        (columns.USER_ID, pa.string()),
        ("num_events", pa.int64()),
        ("num_items", pa.int64()),
        ("num_days", pa.int64()),
        ("value", pa.float64()),
        ("last_seconds", pa.int64()),
        ("history", pa.list_(pa.string())),
        ("history_seconds", pa.list_(pa.int64())),
    ]
)
RATES = ("fast_rate", "slow_rate", "fast_new_rate", "slow_new_rate")
ITEM_STATE = pa.schema(
    [
        (columns.ITEM_ID, pa.string()),
        ("num_events", pa.int64()),
        ("num_buyers", pa.int64()),
        ("value", pa.float64()),
        *((name, pa.float64()) for name in RATES),
    ]
)


def state_schema(schema: Schema, part: str) -> pa.Schema:
    """Arrow schema of a part of the state: of users or items with the dataset's computed features, or of pairs."""
    if part == "pairs":
        return PAIRS_SCHEMA
    tower: Tower = "user" if part == "user" else "item"
    return _with_totals(USER_STATE if tower == "user" else ITEM_STATE, schema.computed_of(tower))


@dataclass(frozen=True)
class SavedState:
    """The files of one midnight.

    Attributes:
        user, item: Totals.
        pairs: Who has met what.
    """

    user: Path
    item: Path
    pairs: Path


def read_shard(path: Path, shard: int, num_shards: int) -> pa.Table:
    """One shard of a file of `gather_shards`, by its first column; the number of shards may have been another."""
    with pq.ParquetFile(path) as file:
        if file.num_row_groups == num_shards:
            return file.read_row_group(shard)
        found = []
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            found.append(table.filter(pa.array(shard_of(table.column(0), num_shards) == shard)))
    table = pa.concat_tables(found)
    keys = [name for name in (columns.USER_ID, columns.ITEM_ID) if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in keys])


def gather_shards(parts: Sequence[Path], target: Path, schema: pa.Schema) -> None:
    """Puts the files of shards, in order, into one file with a row group each; memory: one shard."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part).cast(schema)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


def shard_of(ids: pa.ChunkedArray, num_shards: int) -> Ints:
    """The shard of each id: [n] int64. Each distinct id is looked at once."""
    distinct = pc.unique(ids)
    numbers: Ints = (stable_number(distinct.to_pylist()) % num_shards)[pc.index_in(ids, value_set=distinct).to_numpy()]
    return numbers


def user_state(
    saved: pa.Table,
    ids: pa.Array,
    item_ids: pa.Array,
    history_length: int,
    features: Mapping[str, computed.ComputedFeature],
) -> UserState:
    """The state of a shard's users; who is not in the file has had no event.

    Args:
        saved: `USER_STATE`.
        ids: [U] string, the users.
        item_ids: The items, in the order of their codes; every item of a history is among them.
        history_length: T.
        features: Computed features of users.
    """
    state = UserState.empty(len(ids), history_length, features)
    kept, user = _rows_of(saved, ids)
    for name in ("num_events", "num_items", "num_days", "value", "last_seconds"):
        getattr(state, name)[user] = kept.column(name).to_numpy()
    for number, name in enumerate(features):
        state.totals[number, user] = kept.column(name).to_numpy()
    lengths = pc.list_value_length(kept.column("history")).to_numpy().astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = place_within_group(owner)
    items = pc.index_in(pc.list_flatten(kept.column("history")), value_set=item_ids).to_numpy()
    seconds = pc.list_flatten(kept.column("history_seconds")).to_numpy()
    fits = place < history_length
    state.history[user[owner[fits]], place[fits]] = items[fits]
    state.history_seconds[user[owner[fits]], place[fits]] = seconds[fits]
    return state


def user_table(state: UserState, ids: pa.Array, item_ids: Names) -> pa.Table:
    """`USER_STATE` of a shard's users."""
    known = state.history >= 0
    offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    numbers = [state.num_events, state.num_items, state.num_days, state.value, state.last_seconds]
    history = lists_of(offsets, pa.array(item_ids[state.history[known]], pa.string()))
    seconds = lists_of(offsets, pa.array(state.history_seconds[known]))
    schema = _with_totals(USER_STATE, state.features)
    return pa.table([ids, *map(pa.array, numbers), history, seconds, *map(pa.array, state.totals)], schema=schema)


def item_state(saved: pa.Table, ids: pa.Array, features: Mapping[str, computed.ComputedFeature]) -> ItemState:
    """The state of a shard's items, `ITEM_STATE`; what is not in the file has had no event."""
    state = ItemState.empty(len(ids), features)
    kept, item = _rows_of(saved, ids)
    for name in ("num_events", "num_buyers", "value"):
        getattr(state, name)[item] = kept.column(name).to_numpy()
    for number, name in enumerate(RATES):
        state.rates[number, item] = kept.column(name).to_numpy()
    for number, name in enumerate(features):
        state.totals[number, item] = kept.column(name).to_numpy()
    return state


def item_table(state: ItemState, ids: pa.Array) -> pa.Table:
    """`ITEM_STATE` of a shard's items."""
    arrays = [state.num_events, state.num_buyers, state.value, *state.rates, *state.totals]
    return pa.table([ids, *map(pa.array, arrays)], schema=_with_totals(ITEM_STATE, state.features))


def known_pairs(saved: pa.Table, ids: pa.Array, item_ids: pa.Array) -> Pairs:
    """The pairs of a shard's users that met before the events at hand, `PAIRS_SCHEMA`."""
    kept, user = _rows_of(saved, ids)
    item = pc.index_in(kept.column(columns.ITEM_ID), value_set=item_ids).to_numpy().astype(np.int64)
    num_events, first, last = (kept.column(name).to_numpy() for name in PAIRS_SCHEMA.names[2:])
    return Pairs(user, item, num_events, np.full(len(user), -1), first, last)


def _rows_of(saved: pa.Table, ids: pa.Array) -> tuple[pa.Table, Ints]:
    """The saved rows of those who are still there, and the position of each among them."""
    position = pc.index_in(saved.column(0), value_set=ids)
    here = pc.is_valid(position)
    return saved.filter(here), position.filter(here).to_numpy().astype(np.int64)


def _with_totals(state: pa.Schema, features: Iterable[str]) -> pa.Schema:
    return pa.schema([*state, *(pa.field(name, pa.float64()) for name in features)])


@dataclass(frozen=True)
class Meetings:
    """First meetings of one shard, by owner, value and day, so that those before a day are found by bisection.

    Attributes:
        owner, value: [P] int64, the distinct pairs, ascending.
        start: [P] int64, where the meetings of each pair begin.
        key: [M] int64, ascending: pair * span + (day - first_day).
        total: [M + 1] int64, how many meetings the first rows represent.
        first_day: Day number of the earliest meeting.
        span: Days from there to the one after the latest meeting.
    """

    owner: Ints
    value: Ints
    start: Ints
    key: Ints
    total: Ints
    first_day: int
    span: int

    @classmethod
    def of(cls, owner: Ints, value: Ints, day: Ints, count: Ints | None = None) -> Meetings:
        """Sorts the first meetings.

        Args:
            owner: [M] int64, position of the user or item that has the statistic.
            value: [M] int64, code of the value of the other one; -1 where that is not known, which counts nowhere.
            day: [M] int64, day number.
            count: [M] int64, how many meetings each represents; None for one each.
        """
        chosen = np.flatnonzero(value >= 0)
        order = chosen[np.lexsort((day[chosen], value[chosen], owner[chosen]))]
        owner, value, day = owner[order], value[order], day[order]
        new_pair = begins_group(owner, value)
        first_day, end_day = (int(day.min()), int(day.max()) + 1) if len(day) else (0, 1)
        span = end_day - first_day
        key = (np.cumsum(new_pair) - 1) * span + day - first_day
        start = np.flatnonzero(new_pair)
        total = np.arange(len(order) + 1) if count is None else np.concatenate([[0], np.cumsum(count[order])])
        return cls(owner[start], value[start], start, key, total, first_day, span)


@dataclass(frozen=True)
class ShareRows:
    """Shares of some owners at one midnight.

    Attributes:
        offsets: [R + 1] int64, where the values of each row begin; the last one is S.
        value: [S] int64, at most `MAX_SHARES` a row, largest share first, smallest code first among equals.
        share: [S] float64, among all values, also those left out.
    """

    offsets: Ints
    value: Ints
    share: Floats


def shares_before(meetings: Meetings, day: int, *, owners: Ints) -> ShareRows:
    """Shares of the values met before the start of a day.

    Args:
        meetings: Of the shard.
        day: Day number of the midnight.
        owners: [R] int64, whose rows are wanted.

    Returns:
        A row for each owner, empty where nothing was met.
    """
    begin, end = np.searchsorted(meetings.owner, owners), np.searchsorted(meetings.owner, owners, side="right")
    row = np.repeat(np.arange(len(owners)), end - begin)
    pair = np.repeat(begin, end - begin) + place_within_group(row)
    days = min(max(day - meetings.first_day, 0), meetings.span)
    before = np.searchsorted(meetings.key, pair * meetings.span + days)
    count = meetings.total[before] - meetings.total[meetings.start[pair]]
    all_values = np.bincount(row, weights=count, minlength=len(owners))
    # Pairs are sorted by value, and sorting is stable.
    order = np.lexsort((-count, row))
    order = order[count[order] > 0]
    order = order[place_within_group(row[order]) < MAX_SHARES]
    row, pair = row[order], pair[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(owners)))])
    return ShareRows(offsets, meetings.value[pair], count[order] / all_values[row])


@dataclass(frozen=True)
class Pairs:
    """The users and items that have met, by user, then item.

    Attributes:
        user, item: [P] int64.
        num_events: [P] int64.
        first_event: [P] int64, which of the events at hand is their first meeting; -1 where they met before those.
        first_seconds, last_seconds: [P] int64, their first and latest event, Unix seconds.
    """

    user: Ints
    item: Ints
    num_events: Ints
    first_event: Ints
    first_seconds: Ints
    last_seconds: Ints

    def first_meeting(self, num_events: int) -> Ints:
        """[E] int64, 1 where a user meets an item for the first time, else 0; takes the number of events at hand."""
        mark = np.zeros(num_events, np.int64)
        mark[self.first_event[self.first_event >= 0]] = 1
        return mark


def pairs(events: Events, known: Pairs | None = None) -> Pairs:
    """Every pair of a user and an item.

    Args:
        events: In time order.
        known: The pairs that met before all of the events; None if there were none.

    Returns:
        The pairs of both.
    """
    order = np.lexsort((np.arange(len(events.user)), events.item, events.user))
    user, item, seconds = events.user[order], events.item[order], events.seconds[order]
    first = np.flatnonzero(begins_group(user, item))
    last = np.append(first[1:], len(order))[: len(first)] - 1
    met = Pairs(user[first], item[first], last - first + 1, order[first], seconds[first], seconds[last])
    return met if known is None else _joined(known, met)


def _joined(known: Pairs, met: Pairs) -> Pairs:
    """Pairs of both; of one that is in both the first meeting is that of `known`, the latest that of `met`."""
    user, item = np.concatenate([known.user, met.user]), np.concatenate([known.item, met.item])
    # Two sorted runs in a row: a stable sort only merges them.
    order = np.argsort(user * (item.max(initial=0) + 1) + item, kind="stable")
    user, item = user[order], item[order]
    first = np.flatnonzero(begins_group(user, item))
    last = np.append(first[1:], len(order))[: len(first)] - 1
    num_events = np.cumsum(np.concatenate([known.num_events, met.num_events])[order])
    return Pairs(
        user[first],
        item[first],
        np.diff(num_events[last], prepend=0),
        np.concatenate([np.full(len(known.user), -1), met.first_event])[order[first]],
        np.concatenate([known.first_seconds, met.first_seconds])[order[first]],
        np.concatenate([known.last_seconds, met.last_seconds])[order[last]],
    )


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
        """Takes the owner, the day and the value, null where unknown, of meetings, and how many each represents."""
        codes, names = pd.factorize(values.to_numpy(), sort=True)
        return cls(names, Meetings.of(owner, codes.astype(np.int64), day, count))

    @classmethod
    def of_coded(cls, values: pa.ChunkedArray, code: Ints, owner: Ints, day: Ints) -> ValueMeetings:
        """Takes the values of coded ones, null where unknown, and the code, the owner and the day of meetings."""
        codes, names = pd.factorize(values.to_numpy(), sort=True)
        return cls(names, Meetings.of(owner, codes.astype(np.int64)[code], day))


def user_columns(rows: UserRows, item_ids: Names) -> list[pa.Array]:
    """Statistics and computed features of users, without the moment: one array [R] for each."""
    known = rows.history >= 0
    offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    numbers = [rows.num_events, rows.num_items, rows.num_days, rows.value, rows.last_seconds]
    history = lists_of(offsets, pa.array(item_ids[rows.history[known]], pa.string()))
    seconds = lists_of(offsets, pa.array(rows.history_seconds[known]))
    return [*map(pa.array, numbers), history, seconds, *map(pa.array, rows.computed)]


def item_columns(rows: ItemRows) -> list[pa.Array]:
    """Statistics and computed features of items, without the moment: one array [R] for each."""
    totals = [rows.num_events, rows.num_buyers, rows.price]
    rates = [rows.fast_rate, rows.slow_rate, rows.fast_new_rate, rows.slow_new_rate]
    return [*map(pa.array, [*totals, *rates, *rows.computed])]


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
