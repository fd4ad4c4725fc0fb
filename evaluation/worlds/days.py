"""A day of a world: who comes, and what they look at, put into the cart, buy, and are shown.

V visits of a block of users, E events, X shown items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.draws import Floats, Ints, chosen, integers, uniforms
from evaluation.worlds.items import Items, appeal_on, category_weights, promoted
from evaluation.worlds.users import Appeal, Tastes, staples, taste_weights, tastes_on, visits

KINDS = ("view", "cart", "purchase")
MAX_LENGTH = 15
"""Most items of a visit."""
_FIRST_SECOND, _LAST_SECOND, _STEP_SECONDS, _KIND_SECONDS = 7 * 3600, 22 * 3600, 90, 20
_EVEN_ODDS = 10.0
"""A shown item that is liked ten times as much as the mean item is clicked half of the times that it is seen."""


@dataclass(frozen=True)
class Events:
    """What users did.

    Attributes:
        users: [E] int64.
        items: [E] int64, rows.
        seconds: [E] int64, since the day began.
        kinds: [E] int64, place in `KINDS`.
    """

    users: Ints
    items: Ints
    seconds: Ints
    kinds: Ints


@dataclass(frozen=True)
class Exposures:
    """Items that were shown.

    Attributes:
        users: [X] int64.
        items: [X] int64, rows.
        seconds: [X] int64, since the day began.
        places: [X] int64, 0 at the top.
        propensities: [X] float64, probability that the place showed this item.
        clicked: [X] bool.
    """

    users: Ints
    items: Ints
    seconds: Ints
    places: Ints
    propensities: Floats
    clicked: npt.NDArray[np.bool_]


class Day:
    """One day of a world; a block of users at a time.

    Attributes:
        discounts: [N] float64, 0 where an item is not promoted.
    """

    def __init__(self, world: WorldConfig, items: Items, day: int) -> None:
        """Prepares the day.

        Args:
            world: The world.
            items: Of the world.
            day: Counted from the world's first.
        """
        self.discounts = promoted(world, len(items.category), day)
        self._world, self._items, self._day = world, items, day
        self._on_day = appeal_on(world, items, day)
        self._appeal = Appeal(items, self._on_day)
        self._by_category = category_weights(world, day)
        self._alive = items.alive(day)

    def events(self, users: Ints) -> Events:
        """What a block of users does on this day, in the order of users and time."""
        users = users[visits(self._world, users, self._day)]
        tastes = tastes_on(self._world, users, self._day)
        weights = taste_weights(tastes, self._by_category, self._appeal)
        finds_something = weights.sum(axis=1) > 0
        users, weights = users[finds_something], weights[finds_something]
        categories, styles = tastes.categories[finds_something], tastes.styles[finds_something]
        own = staples(self._world, self._items, users)
        lengths = _lengths(self._world, users, self._day)
        steps: list[tuple[Ints, Ints, Ints]] = []
        last = np.empty(len(users), dtype=np.int64)
        for step in range(int(lengths.max(initial=0))):
            at = np.flatnonzero(lengths > step)
            last[at] = self._next_items(
                users[at], categories[at], styles[at], weights[at], own[at], last[at] if step else None, step
            )
            steps.append((at, last[at], np.full(len(at), step)))
        if not steps:
            empty = np.empty(0, dtype=np.int64)
            return Events(empty, empty, empty, empty)
        at, rows, places = (np.concatenate(parts) for parts in zip(*steps, strict=True))
        order = np.lexsort((places, at))
        at, rows, places = at[order], rows[order], places[order]
        seconds = self._arrivals(users)[at] + places * _STEP_SECONDS
        return self._with_kinds(users[at], rows, seconds, places)

    def _next_items(
        self,
        users: Ints,
        categories: Ints,
        styles: Ints,
        weights: Floats,
        own: Ints,
        last: Ints | None,
        step: int,
    ) -> Ints:
        """[V] rows: what each visit takes next; `last` is None at its first item."""
        world, day = self._world, self._day

        def draw(purpose: str) -> Floats:
            return uniforms(world.seed, purpose, users, day, step)

        place = chosen(draw("which taste"), weights)
        visit = np.arange(len(users))
        rows = self._appeal.draw(categories[visit, place], styles[visit, place], draw("item of taste"))
        repeats = draw("repeat") < world.visits.repeat
        candidate = own[visit, (draw("which staple") * own.shape[1]).astype(np.int64)]
        if last is not None:
            follows = draw("sequence") < world.visits.sequence
            successors = self._items.successors
            which = (draw("which successor") * successors.shape[1]).astype(np.int64)
            candidate = np.where(follows, successors[last, which], candidate)
            repeats |= follows
        return np.where(repeats & self._alive[candidate], candidate, rows)

    def _arrivals(self, users: Ints) -> Ints:
        span = _LAST_SECOND - _FIRST_SECOND
        return _FIRST_SECOND + integers(self._world.seed, "arrival", span, users, self._day)

    def _with_kinds(self, users: Ints, rows: Ints, seconds: Ints, places: Ints) -> Events:
        """Views, and the carts and purchases that follow from them."""
        visit = self._world.visits
        carted = uniforms(self._world.seed, "cart", users, self._day, places) < visit.cart
        bought = carted & (uniforms(self._world.seed, "purchase", users, self._day, places) < visit.purchase)
        of = np.concatenate([np.arange(len(users)), np.flatnonzero(carted), np.flatnonzero(bought)])
        kinds = np.repeat(np.arange(len(KINDS)), [len(users), carted.sum(), bought.sum()])
        seconds = seconds[of] + kinds * _KIND_SECONDS
        order = np.lexsort((kinds, of))
        of, kinds, seconds = of[order], kinds[order], seconds[order]
        return Events(users[of], rows[of], seconds, kinds)

    def exposures(self, users: Ints) -> Exposures:
        """What a block of users is shown as they arrive.

        The items of a day are dealt out to the places of a list at random; each place draws one of its items by the
        policy, so that no item is in a list twice and every probability is known exactly.
        """
        world, shown = self._world, self._world.exposures
        users = users[visits(world, users, self._day)]
        users = users[uniforms(world.seed, "shown", users, self._day) < shown.share]
        alive = np.flatnonzero(self._alive)
        deal = integers(world.seed, "dealt to", shown.length, alive, self._day)
        popularity = self._items.weight * self._on_day
        rows, propensities, places = [], [], []
        for number in range(shown.length):
            offered = alive[deal == number]
            if len(offered) == 0:
                continue
            policy = popularity[offered] / popularity[offered].sum()
            policy = (1 - shown.uniform) * policy + shown.uniform / len(offered)
            edges = np.cumsum(policy)
            draw = uniforms(world.seed, "shown item", users, self._day, number) * edges[-1]
            found = np.minimum(np.searchsorted(edges, draw, side="right"), len(offered) - 1)
            rows.append(offered[found])
            propensities.append(policy[found])
            places.append(np.full(len(users), number))
        listed = np.concatenate(rows)
        place, of = np.concatenate(places), np.tile(np.arange(len(users)), len(rows))
        looks = uniforms(world.seed, "looks", users)[of] < shown.position_decay**place
        likes = self._liking(users, tastes_on(world, users, self._day), of, listed) * len(alive)
        clicked = looks & (uniforms(world.seed, "clicks", users[of], self._day, place) < likes / (likes + _EVEN_ODDS))
        order = np.lexsort((place, of))
        arrivals = self._arrivals(users)[of] - _STEP_SECONDS
        return Exposures(
            users[of][order],
            listed[order],
            arrivals[order],
            place[order],
            np.concatenate(propensities)[order],
            clicked[order],
        )

    def _liking(self, users: Ints, tastes: Tastes, of: Ints, rows: Ints) -> Floats:
        """[X]: probability that a visit's next item by taste is a given one."""
        weights = taste_weights(tastes, self._by_category, self._appeal)
        totals = self._appeal.total(tastes.categories, tastes.styles)
        share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300) / np.maximum(totals, 1e-300)
        found = np.zeros(len(rows))
        for place in range(self._world.taste.per_user):
            same = tastes.categories[of, place] == self._items.category[rows]
            appeal = self._items.appeal[tastes.styles[of, place], rows] * self._on_day[rows]
            found += same * share[of, place] * appeal
        return found


def _lengths(world: WorldConfig, users: Ints, day: int) -> Ints:
    """[V]: items of each visit, geometric, at most `MAX_LENGTH`."""
    if world.visits.length == 1:
        return np.ones(len(users), dtype=np.int64)
    draw = uniforms(world.seed, "length", users, day)
    longer = np.floor(np.log(draw) / np.log(1 - 1 / world.visits.length)).astype(np.int64)
    found: Ints = np.minimum(1 + longer, MAX_LENGTH)
    return found


def length_shares(world: WorldConfig) -> Floats:
    """[MAX_LENGTH]: probability that a visit has an item at each place."""
    found: Floats = np.power(1 - 1 / world.visits.length, np.arange(MAX_LENGTH))
    return found
