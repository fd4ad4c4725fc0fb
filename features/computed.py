"""Computed features: numbers about a user or an item that the daily snapshots derive from the events.

A computed feature is registered in `COMPUTED` under its name; a dataset chooses by `dataset.computed_features`. It is
then a field of the snapshots, of the feature view and of the online store, and part of the tower's numeric input.

Shape letters: E events of a day, O users or items of a shard, C computed features, B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class DayEvents:
    """The events of one day, as a computed feature sees them.

    Attributes:
        owner: [E] int64, position of the user (or item) among the O of the shard.
        num_owners: O.
        seconds: [E] int64, Unix seconds, ascending.
        value: [E] float64, business value; 0 where the source has none.
        is_first: [E] int64, 1 where the user meets the item for the first time, else 0.
    """

    owner: Ints
    num_owners: int
    seconds: Ints
    value: Floats
    is_first: Ints

    def sum(self, amounts: Floats) -> Floats:
        """Adds up an amount for each event, [E], by owner: [O] float64."""
        return np.bincount(self.owner, weights=amounts, minlength=self.num_owners).astype(np.float64)


def _add(total: Floats, today: Floats) -> Floats:
    return total + today


@dataclass(frozen=True)
class ComputedFeature:
    """A number that is carried from day to day.

    Attributes:
        tower: Whose feature it is.
        meaning: In words, with its unit.
        of_day: What a day's events amount to: [O] float64.
        carry: (total of yesterday [O], of the day [O]) -> total at the next midnight [O]; it starts at 0.
        encode: Total [B], nan where unknown -> model input before scaling, [B] float64.
    """

    tower: Literal["user", "item"]
    meaning: str
    of_day: Callable[[DayEvents], Floats]
    carry: Callable[[Floats, Floats], Floats] = _add
    encode: Callable[[Floats], Floats] = np.log1p


def carried(totals: Floats, features: Mapping[str, ComputedFeature], day: DayEvents) -> Floats:
    """Carries totals over one day, with or without events.

    Args:
        totals: [C, O] float64, at the start of the day.
        features: The C features, in the order of the totals.
        day: Its events.

    Returns:
        [C, O] float64, at the next midnight.
    """
    pairs = zip(totals, features.values(), strict=True)
    return np.stack([feature.carry(total, feature.of_day(day)) for total, feature in pairs])


def _at_weekend(day: DayEvents) -> Floats:
    # 1970-01-01 was a Thursday: Saturday and Sunday are days 2 and 3 of weeks that start there.
    weekday = day.seconds // DAY_SECONDS % 7
    return day.sum(((weekday == 2) | (weekday == 3)).astype(np.float64))


COMPUTED: dict[str, ComputedFeature] = {
    "user_weekend_events": ComputedFeature("user", "events on Saturdays and Sundays (UTC) so far", _at_weekend),
    "item_weekend_events": ComputedFeature("item", "events on Saturdays and Sundays (UTC) so far", _at_weekend),
}
