"""What shares of those met before a midnight have each value of a field? Pure NumPy over one shard of users or items.

Each pair of a user and an item counts once, at its first meeting, so that the shares of a user column among an item's
meetings are those among its buyers:

    share(owner, value, day) = met(owner, value, day) / sum over values of met(owner, ., day)

with met(owner, value, day) the first meetings before that day with somebody or something that has the value.

Shape letters: M first meetings, P pairs of an owner (the user or item that has the statistic) and a value, R rows, S
values of all rows together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_jobs.user_snapshots import Floats, Ints, begins_group, place_within_group
from features.schema import MAX_SHARES


@dataclass(frozen=True)
class Meetings:
    """First meetings of one shard, by owner, value and day, so that those before a day are found by bisection.

    Attributes:
        owner, value: [P] int64, the distinct pairs, ascending.
        start: [P] int64, where the meetings of each pair begin.
        key: [M] int64, ascending: pair * span + (day - first_day).
        total: [M + 1] int64, how many meetings the first ones of the rows stand for.
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
            count: [M] int64, how many meetings each stands for; None for one each.
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
