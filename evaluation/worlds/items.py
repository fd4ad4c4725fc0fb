"""The items of a world: their places in the tree, lives, popularity, and who likes them how much.

N items of all days together, in the order of their categories; C categories, S styles of liking, M successors an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.draws import Floats, Ints, integers, normals, uniforms

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Items:
    """What the items of a world are.

    Attributes:
        category: [N] int64, ascending.
        starts: [C + 1] int64: the items of category c are rows starts[c] to starts[c + 1] - 1.
        family: [N] int64.
        variant: [N] int64, place in the family.
        kind: [N] int64; the same within a family.
        weight: [N] float64, popularity within the category.
        listed: [N] int64, first day; 0 for those of the beginning.
        withdrawn: [N] int64, the day after the last one.
        price: [N] float64.
        appeal: [S, N] float64, popularity times how much a style likes the item.
        successors: [N, M] int64, rows of what may follow an item.
        number: [N] int64, distinct; what its id is made of, so that ids give no category away.
    """

    category: Ints
    starts: Ints
    family: Ints
    variant: Ints
    kind: Ints
    weight: Floats
    listed: Ints
    withdrawn: Ints
    price: Floats
    appeal: Floats
    successors: Ints
    number: Ints

    def alive(self, day: int) -> npt.NDArray[np.bool_]:
        """[N]: whether the item is in the catalogue of a day."""
        return (self.listed <= day) & (day < self.withdrawn)


def make_items(world: WorldConfig) -> Items:
    """Draws the items of a world."""
    seed, n, shop = world.seed, world.num_items, world.catalogue
    # A family a category is dealt out first, so that none is empty.
    num_families = -(-n // shop.family_size)
    families = np.arange(num_families)
    of_family = np.where(families < shop.categories, families, integers(seed, "category", shop.categories, families))
    of_family.sort()
    family = np.repeat(families, shop.family_size)[:n]
    category = of_family[family]
    starts = np.searchsorted(category, np.arange(shop.categories + 1))
    variant = np.arange(n) % shop.family_size
    kind = integers(seed, "kind", world.taste.kinds, family)
    rank = uniforms(seed, "popularity", np.arange(n)) * np.diff(starts)[category]
    weight = (1 + rank) ** -shop.popularity
    listed, withdrawn = _lives(world)
    logs = 0.7 * normals(seed, "price", category) + 0.4 * normals(seed, "price of", family)
    price: Floats = np.exp(2 + shop.price_spread * logs).round(2)
    appeal = weight * np.exp(_liking(world)[:, kind])
    if world.taste.variants > 0:
        preferred = np.arange(world.num_styles) // world.taste.kinds
        appeal = np.tile(appeal, (shop.family_size, 1))
        appeal *= np.exp(world.taste.variants * (variant == preferred[:, None]))
    return Items(
        category,
        starts,
        family,
        variant,
        kind,
        weight,
        listed,
        withdrawn,
        price,
        appeal,
        _successors(world, category, starts, weight),
        np.argsort(uniforms(seed, "number", np.arange(n)), kind="stable"),
    )


def _lives(world: WorldConfig) -> tuple[Ints, Ints]:
    """First day of each item and the day after its last one: as many are listed as are withdrawn."""
    n, turnover = world.num_items, world.catalogue.turnover
    if turnover == 0:
        return np.zeros(n, dtype=np.int64), np.full(n, world.days, dtype=np.int64)
    life = 1 / turnover
    rows = np.arange(n)
    is_first = np.argsort(np.argsort(uniforms(world.seed, "listed first", rows))) < world.items
    draw = uniforms(world.seed, "life", rows)
    listed = np.where(is_first, 0, 1 + (draw * (world.days - 1)).astype(np.int64))
    # Those of the beginning are in the midst of their lives.
    withdrawn = np.where(is_first, 1 + (draw * life).astype(np.int64), listed + max(1, round(life)))
    return listed, withdrawn


def _liking(world: WorldConfig) -> Floats:
    """[kinds of taste, kinds of item]: nats, of the standard deviation and rank that are configured."""
    kinds, rank = world.taste.kinds, world.taste.rank
    rows, columns = np.arange(kinds)[:, None], np.arange(kinds)[None, :]
    if rank == 0 or rank >= kinds:
        table = normals(world.seed, "liking", rows, columns)
    else:
        left = normals(world.seed, "liking of tastes", rows, np.arange(rank)[None, :])
        right = normals(world.seed, "liking of items", np.arange(rank)[:, None], columns)
        table = left @ right
    spread = table.std()
    found: Floats = world.taste.strength * (table / spread if spread > 0 else np.zeros_like(table))
    return found


def _successors(world: WorldConfig, category: Ints, starts: Ints, weight: Floats) -> Ints:
    """[N, M]: of each item, popular items of the category that follows its own."""
    number, shop = world.visits.successors, world.catalogue
    following = integers(world.seed, "following category", shop.categories, np.arange(shop.categories))
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    target = following[category][:, None]
    draw = uniforms(world.seed, "successor", np.arange(len(category))[:, None], np.arange(number))
    low, high = cumulative[starts[target]], cumulative[starts[target + 1]]
    rows = np.searchsorted(cumulative, low + draw * (high - low), side="right") - 1
    found: Ints = np.clip(rows, starts[target], starts[target + 1] - 1)
    return found


def promoted(world: WorldConfig, num_items: int, day: int) -> Floats:
    """[N] float64: discount of each item in the week of a day, 0 where it is not promoted."""
    rows, week = np.arange(num_items), day // 7
    is_on = uniforms(world.seed, "promotion", rows, week) < world.calendar.promotions
    return np.where(is_on, np.round(0.1 + 0.4 * uniforms(world.seed, "discount", rows, week), 2), 0.0)


def appeal_on(world: WorldConfig, items: Items, day: int) -> Floats:
    """[N] float64: what multiplies an item's appeal on a day: 0 outside its life, more where it is promoted."""
    is_on = promoted(world, len(items.category), day) > 0
    return np.where(items.alive(day), np.where(is_on, np.exp(world.calendar.lift), 1.0), 0.0)


def category_weights(world: WorldConfig, day: int) -> Floats:
    """[C] float64: how much more the categories are wanted on a day than on average, by season and weekday."""
    categories = np.arange(world.catalogue.categories)
    phase = uniforms(world.seed, "season", categories)
    date = world.start.timetuple().tm_yday + day
    season = world.calendar.season * np.cos(2 * np.pi * (date / DAYS_PER_YEAR - phase))
    weekday = world.calendar.weekday * normals(world.seed, "weekday", categories, (world.start.weekday() + day) % 7)
    found: Floats = np.exp(season + weekday)
    return found
