"""Rows of the files of a world."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.content import item_ids, user_ids
from evaluation.worlds.days import KINDS, Day
from evaluation.worlds.draws import Ints
from evaluation.worlds.items import Items, promoted
from evaluation.worlds.users import segments


def user_rows(world: WorldConfig, users: Ints) -> pa.Table:
    """Rows of users.parquet: user_id, segment."""
    names = pa.compute.binary_join_element_wise("segment ", pa.array(segments(world, users)).cast(pa.string()), "")
    return pa.table({"user_id": user_ids(users), "segment": names})


def promotion_rows(world: WorldConfig, items: Items) -> Iterator[pa.Table]:
    """Rows of promotions.parquet, week by week: item_id, first_day, last_day, discount."""
    for first in range(0, world.days, 7):
        discounts = promoted(world, len(items.category), first)
        rows = np.flatnonzero(discounts)
        begin = np.datetime64(world.start) + first
        yield pa.table(
            {
                "item_id": item_ids(items.number[rows]),
                "first_day": pa.array(np.full(len(rows), begin)),
                "last_day": pa.array(np.full(len(rows), begin + 6)),
                "discount": pa.array(discounts[rows]),
            }
        )


def event_rows(day: Day, items: Items, date: dt.date, users: Ints) -> pa.Table:
    """Rows of a day's events of a block of users: user_id, item_id, timestamp, kind, price_paid."""
    events = day.events(users)
    price = np.round(items.price[events.items] * (1 - day.discounts[events.items]), 2)
    return pa.table(
        {
            "user_id": user_ids(events.users),
            "item_id": item_ids(items.number[events.items]),
            "timestamp": _moments(date, events.seconds),
            "kind": pa.DictionaryArray.from_arrays(pa.array(events.kinds, pa.int8()), list(KINDS)),
            "price_paid": pa.array(price),
        }
    )


def exposure_rows(day: Day, items: Items, date: dt.date, users: Ints) -> pa.Table:
    """Rows of what a block of users was shown on a day: user_id, item_id, timestamp, place, propensity, reward."""
    shown = day.exposures(users)
    return pa.table(
        {
            "user_id": user_ids(shown.users),
            "item_id": item_ids(items.number[shown.items]),
            "timestamp": _moments(date, shown.seconds),
            "place": pa.array(shown.places),
            "propensity": pa.array(shown.propensities),
            "reward": pa.array(shown.clicked.astype(np.float64)),
        }
    )


def _moments(date: dt.date, seconds: Ints) -> pa.Array:
    midnight = np.datetime64(date, "s")
    return pa.array(midnight + seconds.astype("timedelta64[s]")).cast(pa.timestamp("s", "UTC"))
