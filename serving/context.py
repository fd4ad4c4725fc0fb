"""Features at the moment of a request: recent items, and what replaces an online store that is down.

B users of a request, T history length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import columns
from features.encoding import Encoder
from features.ids import IdMap
from features.schema import Schema, view_schema
from serving.retrieval.purchases import Purchases

NUM_PROBES = 8
LATEST = 50
"""Items of the history that are used where the online store has no features."""


def with_recent(raw: pa.Table, recent: Sequence[str], *, as_of_seconds: int) -> pa.Table:
    """Puts items in front of a user's history, met at the moment of the request.

    Counts and shares stay those of last night; history, its ages and the recency follow.

    Args:
        raw: One row of the user view.
        recent: Item ids, latest first.
        as_of_seconds: The moment, Unix seconds.
    """
    recent = list(dict.fromkeys(recent))
    history = raw.column("user_history")[0].as_py() or []
    seconds = raw.column("user_history_seconds")[0].as_py() or []
    met = set(recent)
    older = [(item, moment) for item, moment in zip(history, seconds, strict=True) if item not in met]
    changed = {
        "user_history": [*recent, *(item for item, _ in older)],
        "user_history_seconds": [as_of_seconds] * len(recent) + [moment for _, moment in older],
        "user_last_seconds": as_of_seconds,
    }
    for name, value in changed.items():
        place = raw.schema.get_field_index(name)
        raw = raw.set_column(place, name, pa.array([value], raw.schema.field(place).type))
    return raw


def lost(found: pa.Table, purchases: Purchases) -> npt.NDArray[np.bool_]:
    """Users whose features the online store has lost: they have a past, so that it was filled with some: [B].

    Somebody who was forgotten has a past as long as the bundle is served, and no features.

    Args:
        found: [B] rows of the user view.
        purchases: B rows, as the bundle knows them.
    """
    missing: npt.NDArray[np.bool_] = found.column(columns.USER_AS_OF).is_null().to_numpy()
    return missing & (purchases.num_per_user > 0)


def complete(
    found: pa.Table | None,
    user_ids: Sequence[str],
    purchases: Purchases,
    encoder: Encoder,
    *,
    as_of_seconds: int,
) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Features of users, with those of the bundle where the online store has none: [B] rows, and where: [B].

    Args:
        found: [B] rows of the user view; None where the store could not be read.
        user_ids: [B].
        purchases: B rows.
        encoder: Of the bundle.
        as_of_seconds: The moment of the bundle.
    """
    is_lost = np.full(len(user_ids), True) if found is None else lost(found, purchases)
    if not is_lost.any():
        return found, is_lost
    own = features_without_store(user_ids, purchases, encoder.item_ids, encoder.schema, as_of_seconds=as_of_seconds)
    if found is None:
        return own, is_lost
    both = pa.concat_tables([found, own.select(found.column_names).cast(found.schema)])
    return both.take(np.arange(len(user_ids)) + np.where(is_lost, len(user_ids), 0)), is_lost


def probes(purchases: Purchases, user_ids: IdMap) -> list[str]:
    """Ids of a few users with a past: if the online store has features of none of them, it has lost all."""
    have = np.flatnonzero(np.diff(purchases.indptr))
    return user_ids.ids(have[np.unique(np.linspace(0, len(have) - 1, NUM_PROBES).astype(int))]) if len(have) else []


def features_without_store(
    user_ids: Sequence[str], purchases: Purchases, item_ids: IdMap, schema: Schema, *, as_of_seconds: int
) -> pa.Table:
    """The user view as far as a bundle knows it: counts, history and recency; the rest is null.

    Args:
        user_ids: [B].
        purchases: B rows.
        item_ids: Of the catalogue.
        schema: The dataset.
        as_of_seconds: The moment of the bundle.

    Returns:
        [B] rows with user_id and the fields of the user view; nulls for users who have bought nothing.
    """
    histories, moments = [], []
    for row in range(purchases.num_users):
        own = slice(purchases.indptr[row], purchases.indptr[row + 1])
        latest = np.argsort(-purchases.last_seconds[own], kind="stable")[:LATEST]
        histories.append(item_ids.ids(purchases.indices[own][latest].astype(np.int64) + 1))
        moments.append(purchases.last_seconds[own][latest].tolist())
    totals = np.bincount(purchases.owners, weights=purchases.counts, minlength=purchases.num_users)
    known = {
        columns.USER_AS_OF: [as_of_seconds] * len(user_ids),
        "user_num_events": totals.astype(np.int64).tolist(),
        "user_num_items": purchases.num_per_user.tolist(),
        "user_last_seconds": [max(own, default=0) for own in moments],
        "user_history": histories,
        "user_history_seconds": moments,
    }
    has_any: npt.NDArray[np.bool_] = purchases.num_per_user > 0
    arrays = [pa.array(user_ids, pa.string())]
    for field in view_schema(schema, "user"):
        values = known.get(field.name, [None] * len(user_ids))
        arrays.append(
            pa.array([value if there else None for value, there in zip(values, has_any, strict=True)], field.type)
        )
    return pa.table(arrays, names=[columns.USER_ID, *view_schema(schema, "user").names])
