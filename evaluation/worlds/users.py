"""The users of a world: their tastes on a day, what they always take, and when they come.

U users of a block, K tastes a user, H staples a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.draws import Floats, Ints, integers, normals, uniforms
from evaluation.worlds.items import Items

NUM_STAPLES = 10
_ACTIVITY = 0.8
"""Standard deviation, in nats, of how often users come."""


@dataclass(frozen=True)
class Tastes:
    """What users like on a day.

    Attributes:
        categories: [U, K] int64.
        styles: [U, K] int64, rows of `Items.appeal`.
        shares: [U, K] float64, of each taste, the season of its category not counted; a row sums to 1.
    """

    categories: Ints
    styles: Ints
    shares: Floats


def segments(world: WorldConfig, users: Ints) -> Ints:
    """[U] int64: the segment of each user."""
    return integers(world.seed, "segment", world.taste.segments, users)


def first_days(world: WorldConfig, users: Ints) -> Ints:
    """[U] int64: the day before which a user does not come; 0 for most."""
    comes_late = uniforms(world.seed, "comes late", users) < world.visits.cold_users
    return np.where(comes_late, integers(world.seed, "first day", world.days, users), 0)


def tastes_on(world: WorldConfig, users: Ints, day: int) -> Tastes:
    """What users like on a day.

    Args:
        world: The world.
        users: [U] int64, numbers of users.
        day: Counted from the world's first.
    """
    seed, taste = world.seed, world.taste
    places = np.arange(taste.per_user)
    row, place = users[:, None], places[None, :]
    if taste.drift_days > 0:
        age = day / taste.drift_days + uniforms(seed, "drift", row, place)
        turn = age.astype(np.int64)
    else:
        turn = np.zeros((len(users), taste.per_user), dtype=np.int64)
    by_segment = _category_shares(world)
    draw = uniforms(seed, "taste", row, place, turn)
    own = segments(world, users)
    categories = np.empty((len(users), taste.per_user), dtype=np.int64)
    for segment in np.unique(own):
        edges = np.cumsum(by_segment[segment])
        at = own == segment
        categories[at] = np.minimum(np.searchsorted(edges, draw[at] * edges[-1]), len(edges) - 1)
    styles = integers(seed, "style", world.num_styles, row, place, turn)
    shares = np.broadcast_to(1.0 / (1.0 + places), categories.shape)
    return Tastes(categories, styles, shares / shares.sum(axis=1, keepdims=True))


def _category_shares(world: WorldConfig) -> Floats:
    """[segments, C] float64: how likely a taste of a segment is for a category, up to a factor."""
    rows, columns = np.arange(world.taste.segments)[:, None], np.arange(world.catalogue.categories)[None, :]
    liking = world.taste.segment_strength * normals(world.seed, "segment's liking", rows, columns)
    found: Floats = np.exp(liking) / (1.0 + columns) ** 0.5
    return found


def staples(world: WorldConfig, items: Items, users: Ints) -> Ints:
    """[U, H] int64: rows of the items that users have always taken, of their first tastes."""
    tastes = tastes_on(world, users, 0)
    places = np.arange(NUM_STAPLES)
    of_taste = places % world.taste.per_user
    draw = uniforms(world.seed, "staple", users[:, None], places[None, :])
    return Appeal(items, np.ones(len(items.category))).draw(
        tastes.categories[:, of_taste], tastes.styles[:, of_taste], draw
    )


class Appeal:
    """The appeal of all items on a day, from which items are drawn.

    Args:
        items: Of the world.
        on_day: [N] float64, what multiplies their appeal, from `appeal_on`.
    """

    def __init__(self, items: Items, on_day: Floats) -> None:
        """Sums the appeal of the items up, style by style."""
        self._items = items
        self._sums = np.zeros((len(items.appeal), len(on_day) + 1))
        np.cumsum(items.appeal * on_day, axis=1, out=self._sums[:, 1:])

    def total(self, categories: Ints, styles: Ints) -> Floats:
        """Appeal of all items of categories to styles, of any shape; 0 where a category is empty on the day."""
        starts = self._items.starts
        return self._sums[styles, starts[categories + 1]] - self._sums[styles, starts[categories]]

    def draw(self, categories: Ints, styles: Ints, draw: Floats) -> Ints:
        """Items of categories, drawn by their appeal to styles; all arguments and the result have one shape."""
        starts = self._items.starts
        low = self._sums[styles, starts[categories]]
        target = low + draw * self.total(categories, styles)
        rows = np.empty(target.shape, dtype=np.int64)
        for style in np.unique(styles):
            at = styles == style
            rows[at] = np.searchsorted(self._sums[style], target[at], side="right") - 1
        return np.clip(rows, starts[categories], starts[categories + 1] - 1)


def visits(world: WorldConfig, users: Ints, day: int) -> npt.NDArray[np.bool_]:
    """[U] bool: who comes on a day."""
    rate = visit_rates(world, users)
    has_come = first_days(world, users) <= day
    return has_come & (uniforms(world.seed, "visit", users, day) < rate)


def visit_rates(world: WorldConfig, users: Ints) -> Floats:
    """[U] float64: probability that a user comes on a day, from the first one on."""
    activity = np.exp(_ACTIVITY * normals(world.seed, "activity", users) - _ACTIVITY**2 / 2)
    return np.minimum(world.visits.per_user_day * activity, 1.0)


def taste_weights(tastes: Tastes, by_category: Floats, appeal: Appeal) -> Floats:
    """[U, K] float64: how likely each taste is to be followed on a day, up to a factor; 0 where it finds no items."""
    return tastes.shares * by_category[tastes.categories] * (appeal.total(tastes.categories, tastes.styles) > 0)
