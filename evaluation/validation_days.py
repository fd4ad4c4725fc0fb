"""Users on the days before the cut that a fit does not know, and what was known of them when these days begin.

    full fit      the days held out for validation, by the vectors of the fit that ended before them
    warm start    the days since the previous night, by the vectors of that night's fit

B users, N items of the catalogue, D vector width.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from artefacts.paths import RunPaths
from features import columns, encoding, tables
from features.sources.events import EVENTS_SCHEMA
from serving.retrieval import eligible, purchases, retrievers, vectors, weights
from serving.sparse import index
from serving.steps import RECENT_EVENTS

# Drawn evenly: with more, differences that do not matter would count.
MOST_USERS = 2048
# Days of events that are read at a time.
BLOCK_DAYS = 90


@dataclass(frozen=True)
class NewItems:
    """Some items with events that are searched as if they had none.

    Attributes:
        ranked: [N, D] float32 as those of a window, except for these items.
        are: [N] bool, which they are.
        relevant: [B, N] bool, which of them users met in the days for the first time.
    """

    ranked: npt.NDArray[np.float32]
    are: npt.NDArray[np.bool_]
    relevant: sp.csr_array


@dataclass(frozen=True)
class Window:
    """Users of some days, and what was known of them when these begin.

    Attributes:
        first_day: The first of the days.
        end_day: The day behind the last one.
        users: B users with a history, with their vectors.
        relevant: [B, N] bool, what they met in the days.
        popularity: [N] float32, recent events of each item.
        ranked: [N, D] float32 item vectors, times business weights where there are any.
        sparse: Index over the terms of the N items, which knows of these users' past alone; None where there is none.
        num_events: [N] float32, events of each item so far; None where there is no sparse index.
        new_items: Some items as if they were new; None where a fit has left no vectors of such items.
        user_rows: [B] rows of the users, ascending.
    """

    first_day: dt.date
    end_day: dt.date
    users: retrievers.UserQueries
    relevant: sp.csr_array
    popularity: npt.NDArray[np.float32]
    ranked: npt.NDArray[np.float32]
    sparse: index.SparseIndex | None = None
    num_events: npt.NDArray[np.float32] | None = None
    new_items: NewItems | None = None
    user_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def repeated_share(paths: RunPaths) -> float:
    """Share of all events before the cut with which a user meets an item again; 0 where there are none."""
    num_events = pq.read_table(paths.pairs, columns=["num_events"]).column(0)
    return 1 - len(num_events) / max(pc.sum(num_events).as_py() or 0, 1) if len(num_events) else 0.0


def held_out_window(paths: RunPaths, *, seed: int, most_users: int = MOST_USERS) -> Window | None:
    """The days that a full fit held out for validation; None where it held out none.

    Args:
        paths: Of the day.
        seed: Of the draw of users.
        most_users: Of whom no more are taken; a larger number has those of a smaller one, too.
    """
    found = vectors.ValidationVectors.load(paths.model)
    if found is None:
        return None
    return _window(
        paths, paths, found.moment, found.users, found.items, seed=seed, most_users=most_users, as_new=found.as_new
    )


def window_since(earlier: RunPaths, paths: RunPaths, *, seed: int, most_users: int = MOST_USERS) -> Window:
    """The days since an earlier fit, by its vectors; see `held_out_window`."""
    users, items = (vectors.read_vectors(earlier.vectors / f"{tower}s") for tower in ("user", "item"))
    return _window(earlier, paths, earlier.as_of, users, items, seed=seed, most_users=most_users)


def _window(
    fit: RunPaths,
    paths: RunPaths,
    moment: dt.date,
    user_vectors: npt.NDArray[np.float32],
    item_vectors: npt.NDArray[np.float32],
    *,
    seed: int,
    most_users: int,
    as_new: vectors.ItemsAsNew | None = None,
) -> Window:
    """The days from a moment up to the cut, by the vectors and the encoder of a fit."""
    folder = fit.model / "encoder"
    encoder = encoding.Encoder.load(folder)
    events = tables.read_events(paths.tables, first_day=moment, end_day=paths.as_of)
    rows = encoder.user_ids.rows(_names(events, columns.USER_ID)).astype(np.int64)
    items = encoder.item_ids.rows(_names(events, columns.ITEM_ID)).astype(np.int64) - 1
    known = (rows > 0) & (items >= 0)
    active = np.unique(rows[known])
    active = np.sort(np.random.default_rng(seed).permutation(active)[:most_users])
    past = _past(paths, moment, encoder, active)
    has_past = past.num_per_user > 0
    active, past = active[has_past], past.of(np.flatnonzero(has_past))
    place = np.full(len(encoder.user_ids), -1)
    place[active] = np.arange(len(active))
    chosen = known & (place[rows] >= 0)
    keys = np.unique(place[rows[chosen]] * len(item_vectors) + items[chosen])
    relevant = sp.csr_array(
        (np.ones(len(keys), bool), (keys // len(item_vectors), keys % len(item_vectors))),
        shape=(len(active), len(item_vectors)),
    )
    own = fit.index / weights.WEIGHTS_FILE
    scale = weights.load_weights(own, num_items=len(item_vectors)) if own.exists() else None

    def ranked(those: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return those if scale is None else weights.weighted(those, scale)

    return Window(
        first_day=moment,
        end_day=paths.as_of,
        users=retrievers.UserQueries(
            past,
            np.full(len(active), columns.seconds_of(moment)),
            user_vectors[active - 1],
            eligible=eligible.everything_but(
                eligible.withdrawn_rows(paths.tables, folder), num_items=len(item_vectors)
            ),
        ),
        relevant=relevant,
        popularity=statistic_of_items(paths, moment, encoder, RECENT_EVENTS),
        sparse=_sparse_index(paths, encoder, past),
        num_events=statistic_of_items(paths, moment, encoder, "item_num_events") if paths.sparse.exists() else None,
        ranked=ranked(item_vectors),
        new_items=None
        if as_new is None
        else NewItems(
            ranked=ranked(_replaced(item_vectors, as_new)),
            are=(are := np.isin(np.arange(len(item_vectors)), as_new.rows)),
            relevant=_first_met(relevant, past, are),
        ),
        user_rows=active,
    )


def _replaced(item_vectors: npt.NDArray[np.float32], as_new: vectors.ItemsAsNew) -> npt.NDArray[np.float32]:
    found = item_vectors.copy()
    found[as_new.rows] = as_new.vectors
    return found


def _first_met(relevant: sp.csr_array, past: purchases.Purchases, are: npt.NDArray[np.bool_]) -> sp.csr_array:
    """What of some items is relevant and was not met before: [B, N] bool."""
    met = past.csr().astype(np.bool_)
    found = sp.csr_array((relevant > met).multiply(are[None, :])).astype(np.bool_)
    found.eliminate_zeros()
    return found


def _names(table: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return table.column(name).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _past(
    paths: RunPaths, moment: dt.date, encoder: encoding.Encoder, user_rows: npt.NDArray[np.int64]
) -> purchases.Purchases:
    """What some users had met before a moment: a row for each."""
    users = pa.array(encoder.user_ids.ids(user_rows), pa.string())

    def of_users(table: pa.Table) -> pa.Table:
        table = table.filter(pc.is_in(table.column(columns.USER_ID), value_set=users))
        return table.filter(pa.array(encoder.item_ids.rows(_names(table, columns.ITEM_ID)) > 0))

    if paths.pairs_at(moment).exists():
        pairs = of_users(pq.read_table(paths.pairs_at(moment)))
    else:
        days = [day for day in tables.event_days(paths.tables) if day < moment]
        blocks = [days[begin : begin + BLOCK_DAYS] for begin in range(0, len(days), BLOCK_DAYS)]
        one_day = dt.timedelta(days=1)
        parts = [
            of_users(tables.read_events(paths.tables, first_day=block[0], end_day=block[-1] + one_day))
            for block in blocks
        ]
        parts.append(EVENTS_SCHEMA.empty_table())
        pairs = _pairs_of(pa.concat_tables(parts))
    return purchases.Purchases.from_table(pairs, user_ids=encoder.user_ids, item_ids=encoder.item_ids).of(user_rows)


def _pairs_of(events: pa.Table) -> pa.Table:
    """Number and last moment of the events of each pair, as pairs are stored."""
    seconds = pc.floor(pc.divide(events.column(columns.TIMESTAMP).cast(pa.timestamp("us")).cast(pa.int64()), 1e6))
    found = (
        events.select([columns.USER_ID, columns.ITEM_ID])
        .append_column("seconds", seconds.cast(pa.int64()))
        .group_by([columns.USER_ID, columns.ITEM_ID], use_threads=False)
        .aggregate([("seconds", "count"), ("seconds", "max")])
    )
    return found.rename_columns(
        [{"seconds_count": "num_events", "seconds_max": "last_seconds"}.get(name, name) for name in found.column_names]
    )


def _sparse_index(paths: RunPaths, encoder: encoding.Encoder, past: purchases.Purchases) -> index.SparseIndex | None:
    """The sparse index of the day over the items of an encoder, with nothing in it that is learned from later events.

    Args:
        paths: Of the day.
        encoder: Of the fit whose vectors are searched.
        past: What some users had met.
    """
    if not paths.sparse.exists():
        return None
    own = encoding.Encoder.load(paths.model / "encoder").item_ids
    found = index.SparseIndex.load(paths.sparse, own.ids(np.arange(1, len(own))))
    rows = own.rows(encoder.item_ids.ids(np.arange(1, len(encoder.item_ids)))) - 1
    return found.of_items(rows).learned_from(past)


def statistic_of_items(
    paths: RunPaths, moment: dt.date, encoder: encoding.Encoder, name: str
) -> npt.NDArray[np.float32]:
    """A statistic of each item of an encoder at a moment: [N]."""
    items = paths.catalogue(moment) / "items.parquet"
    rows = encoder.item_ids.rows(_names(pq.read_table(items, columns=[columns.ITEM_ID]), columns.ITEM_ID))
    found = np.zeros(len(encoder.item_ids), np.float32)
    found[rows] = pq.read_table(items, columns=[name]).column(0).fill_null(0).to_numpy()
    return found[1:]
