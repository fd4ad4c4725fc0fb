"""The saved state of a midnight, from which the next run starts: Parquet, a row group a shard.

state/2017-11-30/user.parquet   totals and history of each user
                 item.parquet   totals and rates of each item
pairs/2017-11-30.parquet        the pairs that had met

Shape letters: U users, N items, T history length, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.item_snapshots import ItemState
from beam_jobs.snapshot_columns import Pairs, lists_of
from beam_jobs.user_snapshots import Ints, UserState, place_within_group
from features import columns, computed
from features.ids import stable_number
from features.schema import PAIRS_SCHEMA, Schema, Tower

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
