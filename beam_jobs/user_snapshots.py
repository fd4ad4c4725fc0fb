"""What was known about each user at each midnight: pure NumPy over one shard of users.

Shape letters: E events, U users, T history length, R rows, C computed features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.computed import ComputedFeature, DayEvents, carried

DAY_SECONDS = 86_400
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NONE: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Events:
    """Events of one shard in time order; users and items are positions in the shard's id lists.

    Attributes:
        user: [E] int64.
        item: [E] int64.
        seconds: [E] int64, Unix seconds, ascending.
        value: [E] float64, 0 where the source has none.
    """

    user: Ints
    item: Ints
    seconds: Ints
    value: Floats

    @property
    def day(self) -> Ints:
        """[E] day number since 1970."""
        return self.seconds // DAY_SECONDS

    def at(self, chosen: Ints) -> Events:
        """The events at some positions, ascending."""
        return Events(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True)
class UserRows:
    """Snapshot rows of one midnight; histories are padded with -1.

    Attributes:
        user: [R] int64, whom the rows speak of.
        moment: the midnight, Unix seconds.
        num_events, num_items, num_days, last_seconds: [R] int64.
        value: [R] float64.
        history, history_seconds: [R, T] int64, items and their latest events, latest first.
        computed: [C, R] float64.
    """

    user: Ints
    moment: int
    num_events: Ints
    num_items: Ints
    num_days: Ints
    value: Floats
    last_seconds: Ints
    history: Ints
    history_seconds: Ints
    computed: Floats


def snapshots(
    state: UserState,
    events: Events,
    first_meeting: Ints,
    *,
    first_day: int,
    end_day: int,
    rows_from: int,
    is_new: Flags,
    refresh: Ints,
    refresh_days: int,
) -> Iterator[UserRows]:
    """Rows of every midnight after `first_day` up to `end_day`, to which the state is carried on.

    A midnight has the users with an event on the day before, and those whose turn it is to be refreshed, so that no
    reader has to look back further than `refresh_days`. So its rows do not depend on where a run begins. Whoever is
    new gets the row of the latest turn before the run as well.

    Args:
        state: What was known at the start of `first_day`.
        events: All events from then on and before `end_day`.
        first_meeting: [E] int64, 1 where the user meets the item for the first time, else 0.
        first_day: Day number of the midnight of the state.
        end_day: Day number of the last midnight.
        rows_from: Day number of the first midnight whose rows are wanted.
        is_new: [U] bool, who has no rows yet.
        refresh: [U] int64, stable number of each user that spreads the refreshes over days.
        refresh_days: A user is refreshed at the midnights with (day + refresh) divisible by it.

    Yields:
        `UserRows` in time order.
    """
    for day, new in latest_turns(first_day, rows_from, is_new, refresh, refresh_days):
        yield state.rows(new, day)
    days = events.day
    for day in range(first_day, end_day):
        begin, end = np.searchsorted(days, (day, day + 1))
        state.advance(events, first_meeting, int(begin), int(end))
        if day + 1 >= rows_from:
            due = (day + 1 + refresh) % refresh_days == 0
            due[events.user[begin:end]] = True
            yield state.rows(np.flatnonzero(due), day + 1)


def latest_turns(
    first_day: int,
    rows_from: int,
    is_new: Flags,
    refresh: Ints,
    refresh_days: int,
    changed: Callable[[int], Ints] = lambda day: NONE,
) -> Iterator[tuple[int, Ints]]:
    """The latest refresh of each new user or item up to `first_day`: (day number of the midnight, who), by midnight.

    A run that had known of them all along would have left this row, and one on each day on which they changed. Nothing
    where no rows are wanted that early.
    """
    if first_day < rows_from:
        return
    for day in range(first_day - refresh_days + 1, first_day + 1):
        due = (day + refresh) % refresh_days == 0
        due[changed(day)] = True
        new = np.flatnonzero(is_new & due)
        if len(new):
            yield day, new


@dataclass
class UserState:
    """Running totals of all users of a shard at a midnight.

    Attributes:
        num_events, num_items, num_days, last_seconds: [U] int64.
        value: [U] float64.
        history, history_seconds: [U, T] int64, items and their latest events, latest first, padded with -1.
        features: C computed features, by name.
        totals: [C, U] float64, their values.
    """

    num_events: Ints
    num_items: Ints
    num_days: Ints
    value: Floats
    last_seconds: Ints
    history: Ints
    history_seconds: Ints
    features: Mapping[str, ComputedFeature]
    totals: Floats

    @classmethod
    def empty(cls, num_users: int, history_length: int, features: Mapping[str, ComputedFeature]) -> UserState:
        """No user has had an event."""
        counts = [np.zeros(num_users, dtype=np.int64) for _ in range(4)]
        histories = [np.full((num_users, history_length), -1, dtype=np.int64) for _ in range(2)]
        return cls(
            num_events=counts[0],
            num_items=counts[1],
            num_days=counts[2],
            value=np.zeros(num_users),
            last_seconds=counts[3],
            history=histories[0],
            history_seconds=histories[1],
            features=features,
            totals=np.zeros((len(features), num_users)),
        )

    def advance(self, events: Events, first_meeting: Ints, begin: int, end: int) -> None:
        """Takes in the events of one day, at positions begin..end."""
        user = events.user[begin:end]
        if self.features:
            at = slice(begin, end)
            day = DayEvents(user, len(self.value), events.seconds[at], events.value[at], first_meeting[at])
            self.totals = carried(self.totals, self.features, day)
        if begin == end:
            return
        np.add.at(self.num_events, user, 1)
        np.add.at(self.num_items, user, first_meeting[begin:end])
        np.add.at(self.value, user, events.value[begin:end])
        np.maximum.at(self.last_seconds, user, events.seconds[begin:end])
        owner_of_day = np.unique(np.stack([user, events.day[begin:end]]), axis=1)[0]
        np.add.at(self.num_days, owner_of_day, 1)
        self._advance_history(user, events.item[begin:end], events.seconds[begin:end])

    def _advance_history(self, user: Ints, item: Ints, seconds: Ints) -> None:
        active = np.unique(user)
        old = self.history[active]
        old_owner, old_slot = np.nonzero(old >= 0)
        # Newer entries come first: the new events from last to first, then the old history unchanged.
        owner = np.concatenate([np.searchsorted(active, user)[::-1], old_owner])
        items = np.concatenate([item[::-1], old[old_owner, old_slot]])
        times = np.concatenate([seconds[::-1], self.history_seconds[active][old_owner, old_slot]])
        keep = _first_of_each_pair(owner, items)
        keep = keep[np.argsort(owner[keep], kind="stable")]
        place = place_within_group(owner[keep])
        fits = place < self.history.shape[1]
        keep, place = keep[fits], place[fits]
        for target, values in ((self.history, items), (self.history_seconds, times)):
            target[active] = -1
            target[active[owner[keep]], place] = values[keep]

    def rows(self, user: Ints, day: int) -> UserRows:
        """What is known of some users at a midnight."""
        return UserRows(
            user=user,
            moment=day * DAY_SECONDS,
            num_events=self.num_events[user],
            num_items=self.num_items[user],
            num_days=self.num_days[user],
            value=self.value[user],
            last_seconds=self.last_seconds[user],
            history=self.history[user],
            history_seconds=self.history_seconds[user],
            computed=self.totals[:, user],
        )


def place_within_group(group: Ints) -> Ints:
    """0, 1, 2, ... within each run of equal values of a sorted array: [n] int64."""
    starts = np.flatnonzero(begins_group(group))
    lengths = np.diff(np.append(starts, len(group)))
    return np.arange(len(group)) - np.repeat(starts, lengths)


def _first_of_each_pair(owner: Ints, item: Ints) -> Ints:
    """Positions of the first occurrence of each (owner, item), ascending."""
    order = np.lexsort((item, owner))
    return np.sort(order[begins_group(owner[order], item[order])])


def begins_group(*sorted_by: Ints) -> npt.NDArray[np.bool_]:
    """Where a row of sorted columns differs from the one before it: [n] bool, true at the very first."""
    begins = np.ones(len(sorted_by[0]), dtype=bool)
    begins[1:] = np.logical_or.reduce([np.diff(column) != 0 for column in sorted_by])
    return begins
