"""Which past days have other events than when they were last read? Told by the digests of the manifests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from features.sources.summary import DayFacts


@dataclass(frozen=True)
class DayChanges:
    """Days whose events changed.

    Attributes:
        days: In order.
        num_more: Events that they have now and had not; negative where there are fewer.
    """

    days: tuple[dt.date, ...]
    num_more: int

    def __str__(self) -> str:
        """In words, such as '2017-11-28 and 1 later day changed (3 events more)'."""
        later = len(self.days) - 1
        and_later = f" and {later} later day{'s' if later > 1 else ''}" if later else ""
        events = "event" if abs(self.num_more) == 1 else "events"
        number = f"{abs(self.num_more):,} {events} {'more' if self.num_more > 0 else 'fewer'}"
        return f"{self.days[0]}{and_later} changed ({number if self.num_more else 'the same number of events'})"


def day_changes(
    before: Mapping[dt.date, DayFacts], now: Mapping[dt.date, DayFacts], *, until: dt.date
) -> DayChanges | None:
    """What changed between two readings.

    Args:
        before: The days of the earlier one.
        now: Those of the later one.
        until: Days from this one on do not count: they are new, not changed.

    Returns:
        The changes; None where there are none.
    """
    days = sorted(day for day in {*before, *now} if day < until and _digest(before, day) != _digest(now, day))
    if not days:
        return None
    return DayChanges(tuple(days), sum(_number(now, day) - _number(before, day) for day in days))


def _digest(days: Mapping[dt.date, DayFacts], day: dt.date) -> str | None:
    return days[day].digest if day in days else None


def _number(days: Mapping[dt.date, DayFacts], day: dt.date) -> int:
    return days[day].num_events if day in days else 0
