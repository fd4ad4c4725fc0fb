"""What was known about each item at each midnight? Pure NumPy over one shard of items.

Shape letters: E events, N items of the shard, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beam_jobs.user_snapshots import DAY_SECONDS, Events, Floats, Ints
from features.schema import FAST_HALF_LIFE_DAYS, SLOW_HALF_LIFE_DAYS


@dataclass(frozen=True)
class ItemRows:
    """Snapshot rows of one midnight.

    Attributes:
        item: [R] int64, which items the rows speak of.
        moment: the midnight, Unix seconds.
        num_events, num_buyers: [R] int64.
        price: [R] float64, mean value of an event, 0 if none.
        fast_rate, slow_rate: [R] float64, exponentially decayed events a day.
        fast_new_rate, slow_new_rate: [R] float64, likewise of first meetings of a user and the item.
    """

    item: Ints
    moment: int
    num_events: Ints
    num_buyers: Ints
    price: Floats
    fast_rate: Floats
    slow_rate: Floats
    fast_new_rate: Floats
    slow_new_rate: Floats


def snapshots(
    events: Events,
    first_meeting: Ints,
    num_items: int,
    *,
    first_day: int,
    end_day: int,
    refresh: Ints,
    refresh_days: int,
) -> Iterator[ItemRows]:
    """Rows of every midnight from the start of `first_day` to the start of `end_day`, both included.

    A rate r with half-life h days follows  r <- r 2^(-1/h) + c (1 - 2^(-1/h))  for c events on a day: its unit is
    events a day, and a steady c converges to c.

    Args:
        events: All events before `end_day`, from the very first one on.
        first_meeting: [E] int64, 1 where a user meets the item for the first time, else 0.
        num_items: N.
        first_day: Day number of the first midnight, which has a row for every item.
        end_day: Day number of the last midnight.
        refresh: [N] int64, stable number of each item that spreads the refreshes over days.
        refresh_days: An item is refreshed at the midnights with (day + refresh) divisible by it.

    Yields:
        One `ItemRows` per midnight, in time order.
    """
    num_events, num_buyers = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
    value = np.zeros(num_items)
    half_lives = (FAST_HALF_LIFE_DAYS, SLOW_HALF_LIFE_DAYS)
    # Rates of all events and of first meetings, each fast and slow.
    keep = np.array([2 ** (-1 / days) for days in half_lives] * 2)[:, None]
    rates = np.zeros((4, num_items))
    days = events.day
    earliest = int(days[0]) if len(days) else first_day

    def rows(item: Ints, day: int) -> ItemRows:
        price = value[item] / np.maximum(num_events[item], 1)
        return ItemRows(item, day * DAY_SECONDS, num_events[item], num_buyers[item], price, *rates[:, item])

    if earliest >= first_day:
        yield rows(np.arange(num_items), first_day)
    for day in range(min(earliest, first_day), end_day):
        begin, end = np.searchsorted(days, (day, day + 1))
        item = events.item[begin:end]
        today = np.bincount(item, minlength=num_items)
        met = np.bincount(item, weights=first_meeting[begin:end], minlength=num_items).astype(np.int64)
        num_events += today
        num_buyers += met
        value += np.bincount(item, weights=events.value[begin:end], minlength=num_items)
        rates = rates * keep + np.stack([today, today, met, met]) * (1 - keep)
        if day + 1 == first_day:
            yield rows(np.arange(num_items), first_day)
        elif day + 1 > first_day:
            due = (today > 0) | ((day + 1 + refresh) % refresh_days == 0)
            yield rows(np.flatnonzero(due), day + 1)
