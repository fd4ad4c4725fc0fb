"""Leakage checks: whether an arm has seen anything from the cut on, by its moments and by its counts of events.

N items, U users.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluation.foreign_tables import rows_of
from features import columns
from features.columns import midnight, seconds_of
from serving.bundles.bundle import Bundle

# Of each file, what is a moment and what counts events.
MOMENTS = {"user": ("user_as_of_seconds", "user_last_seconds"), "item": ("item_as_of_seconds",)}
COUNTS = {"user": "user_num_events", "item": "item_num_events"}
IDS = {"user": columns.USER_ID, "item": columns.ITEM_ID}
_AGAIN = "Make the features and the bundle of that day again with --force, and look at the moments of the events"


class LeakageError(ValueError):
    """Something from after the cut reaches an arm; the message names it."""


def check_bundle(bundle: Bundle, events: pa.Table, cut: dt.date) -> None:
    """Refuses a bundle that was made of later events, or filters or falls back by them.

    Args:
        bundle: It.
        events: Everything that happened.
        cut: What it may know ends here.

    Raises:
        LeakageError: Names the bundle and what is later.
    """
    facts = bundle.manifest.facts
    if (newest := max(facts.as_of, facts.data_window.end)) > cut:
        raise LeakageError(
            f"{bundle.version}: was made of events up to {newest}, cut is {cut}: it has seen what it would be scored "
            "by; choose a cut from its day on, or an earlier bundle"
        )
    seconds = bundle.purchases.last_seconds
    if late := int((seconds >= seconds_of(cut)).sum()):
        raise LeakageError(
            f"{bundle.folder}: {late:,} purchases are of the cut {cut} or later, the last of "
            f"{_day(int(seconds.max()))}. {_AGAIN}"
        )
    check_popularity(bundle.folder, bundle.popularity, bundle.encoder.item_ids.ids, events, cut)


def check_popularity(
    folder: Path,
    popularity: npt.NDArray[np.float32],
    ids: Callable[[npt.NDArray[np.int64]], list[str]],
    events: pa.Table,
    cut: dt.date,
) -> None:
    """Refuses popularity of an item that no user had met.

    Args:
        folder: Of the bundle, for the message.
        popularity: [N] of the catalogue rows.
        ids: Item rows, which are catalogue rows + 1, -> ids.
        events: Everything that happened.
        cut: What it may know ends here.

    Raises:
        LeakageError: Names the first item.
    """
    popular = np.flatnonzero(popularity > 0)
    named = pa.array(ids(popular + 1), pa.string())
    unmet = np.flatnonzero(rows_of(named, _before(events, cut).column(columns.ITEM_ID).unique()) < 0)
    if len(unmet):
        raise LeakageError(
            f"{folder}: item {named[int(unmet[0])]} counts as popular, and no user had met it before the cut {cut}; "
            f"{len(unmet):,} items are so. {_AGAIN}"
        )


def check_features(folder: Path, events: pa.Table, cut: dt.date, *, histories: pa.Table | None = None) -> None:
    """Refuses features that speak of later moments, of items not met yet, or that have counted more than there was.

    Args:
        folder: Of a catalogue: `users.parquet` and `items.parquet`.
        events: Everything that happened.
        cut: What they may know ends here.
        histories: Of what users are described by, where that is more than the events.

    Raises:
        LeakageError: Names the file, the column and the first row.
    """
    of_tower = {"user": events if histories is None else histories, "item": events}
    for tower in ("user", "item"):
        past = _before(of_tower[tower], cut)
        path, name = folder / f"{tower}s.parquet", IDS[tower]
        table = pq.read_table(path)
        for column in MOMENTS[tower]:
            _check_moments(path, table, name, column, cut)
        _check_counts(path, table, past, name, COUNTS[tower])
        if tower == "user":
            _check_history(path, table, past, cut)


def _check_moments(path: Path, table: pa.Table, name: str, column: str, cut: dt.date) -> None:
    seconds = table.column(column).fill_null(0).to_numpy()
    # Features of the midnight itself are of everything before it.
    limit = seconds_of(cut) + (column.endswith("as_of_seconds"))
    if len(late := np.flatnonzero(seconds >= limit)):
        raise LeakageError(
            f"{path}: {column} of {table.column(name)[int(late[0])]} is {_day(int(seconds[late[0]]))}, expected before "
            f"the cut {cut}; {len(late):,} rows are so. {_AGAIN}"
        )


def _check_counts(path: Path, table: pa.Table, past: pa.Table, name: str, column: str) -> None:
    """More events than there were: some are of later."""
    there = past.group_by(name, use_threads=False).aggregate([([], "count_all")])
    rows = rows_of(table.column(name), there.column(name))
    counted = there.column("count_all").to_numpy()
    expected = np.where(rows >= 0, counted[rows] if len(counted) else 0, 0)
    found = table.column(column).fill_null(0).to_numpy()
    if len(more := np.flatnonzero(found > expected)):
        at = int(more[0])
        raise LeakageError(
            f"{path}: {column} of {table.column(name)[at]} is {found[at]:,}, and {expected[at]:,} events were known "
            f"before the cut; {len(more):,} rows are so. {_AGAIN}"
        )


def _check_history(path: Path, table: pa.Table, past: pa.Table, cut: dt.date) -> None:
    """An item in a history that the user had not met."""
    histories = table.column("user_history").combine_chunks()
    owners = pc.list_parent_indices(histories)
    users = table.column(columns.USER_ID).combine_chunks().take(owners)
    met = past.select([columns.USER_ID, columns.ITEM_ID]).group_by([columns.USER_ID, columns.ITEM_ID]).aggregate([])
    listed = pa.table({columns.USER_ID: users, columns.ITEM_ID: histories.flatten()})
    unmet = listed.join(met, [columns.USER_ID, columns.ITEM_ID], join_type="left anti")
    if unmet.num_rows:
        user, item = (unmet.column(name)[0].as_py() for name in (columns.USER_ID, columns.ITEM_ID))
        raise LeakageError(
            f"{path}: user_history of {user} holds {item}, which the user had not met before the cut {cut}; "
            f"{unmet.num_rows:,} entries are so. {_AGAIN}"
        )
    seconds = table.column("user_history_seconds").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(seconds) and seconds.max() >= seconds_of(cut):
        raise LeakageError(
            f"{path}: user_history_seconds reaches {_day(int(seconds.max()))}, expected before the cut {cut}. {_AGAIN}"
        )


def _before(events: pa.Table, cut: dt.date) -> pa.Table:
    moments = events.column(columns.TIMESTAMP)
    return events.filter(pc.less(moments, pa.scalar(midnight(cut), moments.type)))


def _day(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
