"""Who is evaluated on what: the past before a cut, and the purchases in the window after it.

U users, N items of the catalogue (rows 0..N-1), E events.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from features.columns import ITEM_ID, TIMESTAMP, USER_ID

_SECONDS_PER_DAY = 86_400
_MOST_DAYS = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Split:
    """Users, what they did before the cut and what is relevant to them after it.

    Attributes:
        user_ids: [U] object, sorted: users with catalogue items before the cut or in the window.
        history: [U, N] CSR float32, number of events before the cut.
        days_since: [U, N] CSR float64, days from the latest of those events to the cut; stored where `history` is.
        relevant: [U, N] CSR bool, bought in the window.
        relevant_new: [U, N] CSR bool, bought in the window and never before the cut.
        days_until: [U, N] CSR int16, whole days from the cut to the first of those purchases, 0 on the first day of the
            window; stored where `relevant` is, zeros too.
        cut: Start of the window, UTC. Nothing from it on is in `history`.
        window_days: Length of the window.
        num_unknown_window_pairs: Distinct (user, item) pairs of the window whose item is not in the catalogue. No arm
            can find them, and recall does not count them as missed.
        num_unknown_window_items: Distinct items among those pairs.
        num_unknown_history_events: Events before the cut whose item is not in the catalogue.
    """

    user_ids: npt.NDArray[np.object_]
    history: sp.csr_array
    days_since: sp.csr_array
    relevant: sp.csr_array
    relevant_new: sp.csr_array
    days_until: sp.csr_array
    cut: dt.datetime
    window_days: int
    num_unknown_window_pairs: int
    num_unknown_window_items: int
    num_unknown_history_events: int


def make_split(
    events: pa.Table | pd.DataFrame, item_order: npt.ArrayLike, *, cut: dt.datetime, window_days: int
) -> Split:
    """Cuts events into history (before `cut`) and relevance (from `cut` on, for `window_days` days).

        history: timestamp < cut        relevant: cut <= timestamp < cut + window_days

    Args:
        events: [E] rows with user_id, item_id (strings) and timestamp (with a time zone).
        item_order: [N] item ids; the position of an id is its row in the catalogue.
        cut: Start of the window, with time zone UTC.
        window_days: Length of the window in days, 1 to 32,767.

    Returns:
        The split; later events than the window are in no part of it.

    Raises:
        ValueError: `cut` is not in UTC, `window_days` out of its range, an item id is null or repeated, or events lack
            a column, hold a null or a timestamp without a time zone.
    """
    if not 1 <= window_days <= _MOST_DAYS:
        raise ValueError(f"window_days is {window_days}; give at least 1 and at most {_MOST_DAYS}")
    _check_utc(cut)
    items = _item_array(item_order)
    table = _before(_event_table(events), cut + dt.timedelta(days=window_days))
    item_rows, user_ids, user_rows = _encode(table, items)
    # Microseconds as integers: the last one before the cut must not round into the window.
    age_us = _microseconds(cut) - pc.cast(table[TIMESTAMP], pa.int64()).to_numpy()
    past, known = age_us > 0, item_rows >= 0
    users_kept = np.unique(user_rows[known])
    user_rows = _renumber(user_rows, users_kept, len(user_ids))
    shape = (len(users_kept), len(items))
    history, days_since = _history(user_rows[past & known], item_rows[past & known], age_us[past & known], shape)
    now = ~past & known
    relevant, days_until = _window(user_rows[now], item_rows[now], -age_us[now], shape)
    unknown = table.filter(pa.array(~past & ~known)).group_by([USER_ID, ITEM_ID]).aggregate([])
    return Split(
        user_ids=user_ids[users_kept],
        history=history,
        days_since=days_since,
        relevant=relevant,
        relevant_new=_minus(relevant, history),
        days_until=days_until,
        cut=cut,
        window_days=window_days,
        num_unknown_window_pairs=unknown.num_rows,
        num_unknown_window_items=len(unknown[ITEM_ID].unique()),
        num_unknown_history_events=int((past & ~known).sum()),
    )


def validation_split(split: Split, events: pa.Table | pd.DataFrame, item_order: npt.ArrayLike) -> Split | None:
    """The same question a window earlier: the days before the cut are the window, and what is before them the history.

    For choices that the window after the cut must not decide.

    Args:
        split: Its cut and the length of its window are read.
        events: As for `make_split`; those from the cut on are not read.
        item_order: [N] item ids; the position of an id is its row in the catalogue.

    Returns:
        The split; None where nothing happened in these days, or nothing before them.
    """
    begin = split.cut - dt.timedelta(days=split.window_days)
    found = make_split(_before(_event_table(events), split.cut), item_order, cut=begin, window_days=split.window_days)
    return found if found.history.nnz and found.relevant.nnz else None


def recent_item_counts(
    events: pa.Table | pd.DataFrame, item_order: npt.ArrayLike, *, cut: dt.datetime, days: int
) -> npt.NDArray[np.int64]:
    """Events of each item in the last `days` days before the cut: cut - days <= timestamp < cut.

    Args:
        events: As for `make_split`.
        item_order: [N] item ids in the order of their rows.
        cut: The moment that nothing counted may reach, with time zone UTC.
        days: Length of the look-back in days, at least 1.

    Returns:
        [N] int64.

    Raises:
        ValueError: As `make_split`, or `days` < 1.
    """
    if days < 1:
        raise ValueError(f"days is {days}; give at least 1")
    rows, age_us = _rows_and_ages(events, item_order, cut)
    recent = rows[age_us <= days * _SECONDS_PER_DAY * 1_000_000]
    return np.bincount(recent, minlength=len(np.asarray(item_order, dtype=object))).astype(np.int64)


def decayed_item_rates(
    events: pa.Table | pd.DataFrame, item_order: npt.ArrayLike, *, cut: dt.datetime, half_life_days: float
) -> npt.NDArray[np.float64]:
    """Events of each item before the cut, older ones less, in the order of the feature `item_slow_rate`.

        rate_i = sum over its events of 2^(-days / half-life),  whole days from its day to the last before the cut

    Args:
        events: As for `make_split`.
        item_order: [N] item ids in the order of their rows.
        cut: The moment that nothing counted may reach, a midnight in UTC.
        half_life_days: Days after which an event counts half, above 0.

    Returns:
        [N] float64, 0 for items without events.

    Raises:
        ValueError: As `make_split`, or `half_life_days` is not above 0.
    """
    if not half_life_days > 0:
        raise ValueError(f"half_life_days is {half_life_days}; give a number above 0")
    rows, age_us = _rows_and_ages(events, item_order, cut)
    days = (age_us - 1) // (_SECONDS_PER_DAY * 1_000_000)
    num_items = len(np.asarray(item_order, dtype=object))
    rates = np.bincount(rows, weights=2.0 ** (-days / half_life_days), minlength=num_items)
    return rates.astype(np.float64)


def _rows_and_ages(
    events: pa.Table | pd.DataFrame, item_order: npt.ArrayLike, cut: dt.datetime
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Item row and age at the cut, microseconds, of every event before it with an item of the catalogue."""
    _check_utc(cut)
    table = _before(_event_table(events), cut)
    rows = _rows_of(table[ITEM_ID], _item_array(item_order))
    age_us = _microseconds(cut) - pc.cast(table[TIMESTAMP], pa.int64()).to_numpy()
    return rows[rows >= 0], age_us[rows >= 0]


def _check_utc(cut: dt.datetime) -> None:
    if cut.utcoffset() != dt.timedelta(0):
        raise ValueError(f"cut is {cut.isoformat()}, expected a time in UTC; pass tzinfo=datetime.UTC")


def _item_array(item_order: npt.ArrayLike) -> pa.Array:
    items = pa.array(np.asarray(item_order, dtype=object), pa.string())
    if items.null_count or len(items.unique()) != len(items):
        raise ValueError(
            f"item_order holds {len(items)} ids, {items.null_count} null and {len(items.unique())} distinct; "
            "give every catalogue row an id of its own"
        )
    return items


def _event_table(events: pa.Table | pd.DataFrame) -> pa.Table:
    columns = [USER_ID, ITEM_ID, TIMESTAMP]
    names = events.column_names if isinstance(events, pa.Table) else list(events.columns)
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"events have the columns {names} and lack {missing}")
    if isinstance(events, pd.DataFrame):
        events = pa.Table.from_pandas(events[columns], preserve_index=False)
    table = events.select(columns)
    nulls = {name: table[name].null_count for name in columns if table[name].null_count}
    if nulls:
        raise ValueError(f"events hold nulls: {nulls}; quarantine them at ingestion")
    kind = table.schema.field(TIMESTAMP).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise ValueError(f"column {TIMESTAMP!r} is {kind}, expected a timestamp with a time zone")
    schema = pa.schema([(USER_ID, pa.string()), (ITEM_ID, pa.string()), (TIMESTAMP, pa.timestamp("us", "UTC"))])
    # Nanoseconds are floored, which cannot carry an event past the cut.
    return table.cast(schema, safe=False)


def _microseconds(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _timestamp(moment: dt.datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", "UTC"))


def _before(table: pa.Table, moment: dt.datetime) -> pa.Table:
    return table.filter(pc.less(table[TIMESTAMP], _timestamp(moment)))


def _rows_of(ids: pa.ChunkedArray, order: pa.Array) -> npt.NDArray[np.int64]:
    found = pc.fill_null(pc.index_in(ids, value_set=order), -1)
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _encode(
    table: pa.Table, items: pa.Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_], npt.NDArray[np.int64]]:
    users = table[USER_ID].unique()
    users = users.take(pc.sort_indices(users))
    user_ids = np.asarray(users.to_numpy(zero_copy_only=False), dtype=object)
    return _rows_of(table[ITEM_ID], items), user_ids, _rows_of(table[USER_ID], users)


def _renumber(rows: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], num_rows: int) -> npt.NDArray[np.int64]:
    new_row = np.full(num_rows, -1, dtype=np.int64)
    new_row[kept] = np.arange(len(kept))
    return new_row[rows]


def _history(
    users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], age_us: npt.NDArray[np.int64], shape: tuple[int, int]
) -> tuple[sp.csr_array, sp.csr_array]:
    # Latest event first within a pair, so that each pair's first one carries the age.
    order = np.lexsort((age_us, users * shape[1] + items))
    users, items, age_us = users[order], items[order], age_us[order]
    new_pair = np.ones(len(users), dtype=bool)
    new_pair[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    starts = np.flatnonzero(new_pair)
    counts = np.diff(starts, append=len(users)).astype(np.float32)
    days = age_us[starts] / (1e6 * _SECONDS_PER_DAY)
    at = (users[starts], items[starts])
    return _csr(counts, at, shape), _csr(days, at, shape)


def _window(
    users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], after_us: npt.NDArray[np.int64], shape: tuple[int, int]
) -> tuple[sp.csr_array, sp.csr_array]:
    order = np.argsort(after_us, kind="stable")
    # Of equal pairs the first one is returned, which is the earliest.
    pairs, first = np.unique((users * shape[1] + items)[order], return_index=True)
    days = (after_us[order[first]] // (1_000_000 * _SECONDS_PER_DAY)).astype(np.int16)
    at = (pairs // shape[1], pairs % shape[1])
    return _csr(np.ones(len(pairs), dtype=bool), at, shape), _csr(days, at, shape)


def _minus(relevant: sp.csr_array, history: sp.csr_array) -> sp.csr_array:
    pairs = relevant.tocoo()
    width = relevant.shape[1]
    bought = history.tocoo()
    old = np.isin(pairs.row.astype(np.int64) * width + pairs.col, bought.row.astype(np.int64) * width + bought.col)
    return _csr(np.ones(int((~old).sum()), dtype=bool), (pairs.row[~old], pairs.col[~old]), relevant.shape)


def _csr(data: npt.NDArray[Any], at: tuple[npt.NDArray[Any], npt.NDArray[Any]], shape: tuple[int, int]) -> sp.csr_array:
    rows, cols = (index.astype(np.int32) for index in at)
    matrix = sp.csr_array((data, (rows, cols)), shape=shape)
    matrix.sort_indices()
    return matrix
