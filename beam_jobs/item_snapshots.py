"""What was known about each item at each midnight: pure NumPy over one shard of items.

Shape letters: E events, N items of the shard, R rows, C computed features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from beam_jobs.user_snapshots import DAY_SECONDS, NONE, Events, Flags, Floats, Ints, latest_turns
from features.computed import ComputedFeature, DayEvents, carried
from features.schema import FAST_HALF_LIFE_DAYS, SLOW_HALF_LIFE_DAYS

# What a day leaves of each rate: of all events and of first meetings, each fast and slow.
KEEP = np.array([2 ** (-1 / days) for days in (FAST_HALF_LIFE_DAYS, SLOW_HALF_LIFE_DAYS)] * 2)[:, None]


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
        computed: [C, R] float64.
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
    computed: Floats


@dataclass
class ItemState:
    """Running totals of all items of a shard at a midnight.

    Attributes:
        num_events, num_buyers: [N] int64.
        value: [N] float64, summed over events.
        rates: [4, N] float64, of all events and of first meetings, each fast and slow.
        features: C computed features, by name.
        totals: [C, N] float64, their values.
    """

    num_events: Ints
    num_buyers: Ints
    value: Floats
    rates: Floats
    features: Mapping[str, ComputedFeature]
    totals: Floats

    @classmethod
    def empty(cls, num_items: int, features: Mapping[str, ComputedFeature]) -> ItemState:
        """Nothing has been bought."""
        num_events, num_buyers = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
        totals = np.zeros((len(features), num_items))
        return cls(num_events, num_buyers, np.zeros(num_items), np.zeros((4, num_items)), features, totals)

    def advance(self, events: Events, first: Ints, begin: int, end: int) -> None:
        """Takes in the events of one day, at positions begin..end."""
        at = slice(begin, end)
        item, first_meeting, value = events.item[at], first[at], events.value[at]
        if self.features:
            day = DayEvents(item, len(self.value), events.seconds[at], value, first_meeting)
            self.totals = carried(self.totals, self.features, day)
        today = np.bincount(item, minlength=len(self.num_events))
        met = np.bincount(item, weights=first_meeting, minlength=len(today)).astype(np.int64)
        self.num_events += today
        self.num_buyers += met
        self.value += np.bincount(item, weights=value, minlength=len(today))
        self.rates = self.rates * KEEP + np.stack([today, today, met, met]) * (1 - KEEP)

    def rows(self, item: Ints, day: int) -> ItemRows:
        """What is known of some items at a midnight."""
        num_events = self.num_events[item]
        price = self.value[item] / np.maximum(num_events, 1)
        fast, slow, fast_new, slow_new = self.rates[:, item]
        return ItemRows(
            item=item,
            moment=day * DAY_SECONDS,
            num_events=num_events,
            num_buyers=self.num_buyers[item],
            price=price,
            fast_rate=fast,
            slow_rate=slow,
            fast_new_rate=fast_new,
            slow_new_rate=slow_new,
            computed=self.totals[:, item],
        )


def snapshots(
    state: ItemState,
    events: Events,
    first_meeting: Ints,
    *,
    first_day: int,
    end_day: int,
    rows_from: int,
    is_new: Flags,
    refresh: Ints,
    refresh_days: int,
    changed: Callable[[int], Ints] = lambda day: NONE,
) -> Iterator[ItemRows]:
    """Rows of every midnight after `first_day` up to `end_day`, to which the state is carried on.

    A rate r with half-life h days follows  r <- r 2^(-1/h) + c (1 - 2^(-1/h))  for c events on a day: its unit is
    events a day, and a steady c converges to c.

    Args:
        state: What was known at the start of `first_day`.
        events: All events from then on and before `end_day`.
        first_meeting: [E] int64, 1 where the user meets the item for the first time, else 0.
        first_day: Day number of the midnight of the state.
        end_day: Day number of the last midnight.
        rows_from: Day number of the first midnight whose rows are wanted.
        is_new: [N] bool, what has no rows yet: it gets that of its latest refresh as well.
        refresh: [N] int64, stable number of each item that spreads the refreshes over days.
        refresh_days: An item is refreshed at the midnights with (day + refresh) divisible by it.
        changed: Day number of a midnight -> the items of which something else is true from then on: they get a row.

    Yields:
        `ItemRows` in time order.
    """
    for day, new in latest_turns(first_day, rows_from, is_new, refresh, refresh_days, changed=changed):
        yield state.rows(new, day)
    days = events.day
    for day in range(first_day, end_day):
        begin, end = np.searchsorted(days, (day, day + 1))
        state.advance(events, first_meeting, int(begin), int(end))
        if day + 1 >= rows_from:
            due = (day + 1 + refresh) % refresh_days == 0
            due[events.item[begin:end]] = True
            due[changed(day + 1)] = True
            yield state.rows(np.flatnonzero(due), day + 1)
