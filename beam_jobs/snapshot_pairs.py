"""Which users and items have met, and which event is their first meeting? Pure NumPy over one shard of users.

Shape letters: E events, P pairs of a user and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_jobs.user_snapshots import Events, Ints, begins_group


@dataclass(frozen=True)
class Pairs:
    """The users and items that have met, by user, then item.

    Attributes:
        user, item: [P] int64.
        num_events: [P] int64.
        first_event: [P] int64, which of the events at hand is their first meeting; -1 where they met before those.
        first_seconds, last_seconds: [P] int64, their first and latest event, Unix seconds.
    """

    user: Ints
    item: Ints
    num_events: Ints
    first_event: Ints
    first_seconds: Ints
    last_seconds: Ints

    def first_meeting(self, num_events: int) -> Ints:
        """[E] int64, 1 where a user meets an item for the first time, else 0; takes the number of events at hand."""
        mark = np.zeros(num_events, np.int64)
        mark[self.first_event[self.first_event >= 0]] = 1
        return mark


def pairs(events: Events, known: Pairs | None = None) -> Pairs:
    """Every pair of a user and an item.

    Args:
        events: In time order.
        known: The pairs that met before all of the events; None where nobody had met.

    Returns:
        The pairs of both.
    """
    order = np.lexsort((np.arange(len(events.user)), events.item, events.user))
    user, item, seconds = events.user[order], events.item[order], events.seconds[order]
    first = np.flatnonzero(begins_group(user, item))
    last = np.append(first[1:], len(order))[: len(first)] - 1
    met = Pairs(user[first], item[first], last - first + 1, order[first], seconds[first], seconds[last])
    return met if known is None else _joined(known, met)


def _joined(known: Pairs, met: Pairs) -> Pairs:
    """Pairs of both; of one that is in both the first meeting is that of `known`, the latest that of `met`."""
    user, item = np.concatenate([known.user, met.user]), np.concatenate([known.item, met.item])
    # Two sorted runs in a row: a stable sort only merges them.
    order = np.argsort(user * (item.max(initial=0) + 1) + item, kind="stable")
    user, item = user[order], item[order]
    first = np.flatnonzero(begins_group(user, item))
    last = np.append(first[1:], len(order))[: len(first)] - 1
    num_events = np.cumsum(np.concatenate([known.num_events, met.num_events])[order])
    return Pairs(
        user[first],
        item[first],
        np.diff(num_events[last], prepend=0),
        np.concatenate([np.full(len(known.user), -1), met.first_event])[order[first]],
        np.concatenate([known.first_seconds, met.first_seconds])[order[first]],
        np.concatenate([known.last_seconds, met.last_seconds])[order[last]],
    )
