"""The truth of a world: each user's distribution over items, and the best recall that anybody can have.

The oracle knows each user's tastes of every day, the season, the promotions and the lives of the items. It ranks items
by how often the user is expected to take them in the window: of all rankings that ignore what happens in the window
itself, that one finds most. No method that learns from events can be better, but by chance.

U users, N items of the world, K tastes a user.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import yaml

from evaluation.worlds.config import WorldConfig
from evaluation.worlds.days import length_shares
from evaluation.worlds.draws import Floats, Ints
from evaluation.worlds.items import Items, appeal_on, category_weights, make_items
from evaluation.worlds.users import (
    NUM_STAPLES,
    Appeal,
    first_days,
    staples,
    taste_weights,
    tastes_on,
    visit_rates,
)

TRUTH_FILE = "truth.yaml"
_BLOCK = 256


@dataclass(frozen=True)
class Truth:
    """What is true in a world.

    Attributes:
        world: The configuration that everything follows from.
        items: Of the world.
    """

    world: WorldConfig
    items: Items = field(repr=False)

    @staticmethod
    def open(folder: Path) -> Truth:
        """Opens the truth that lies beside the files of a world.

        Args:
            folder: Where `twinspire world` wrote them.

        Raises:
            FileNotFoundError: There is no `truth.yaml`.
            ValueError: It is not the configuration of a world.
        """
        path = folder / TRUTH_FILE
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the folder that `twinspire world` wrote")
        world = WorldConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        return Truth(world, make_items(world))

    def expected(self, users: Ints, days: Sequence[int]) -> Floats:
        """How often users are expected to take each item, over several days.

        Args:
            users: [U] int64, numbers of users.
            days: Counted from the world's first.

        Returns:
            [U, N] float64, views.
        """
        found = np.zeros((len(users), len(self.items.category)))
        rates, first = visit_rates(self.world, users), first_days(self.world, users)
        for day in days:
            comes = np.where(first <= day, rates, 0.0)
            found += comes[:, None] * self.of_visit(users, day)
        return found

    def of_visit(self, users: Ints, day: int) -> Floats:
        """[U, N] float64: how often users are expected to take each item in a visit of a day."""
        by_taste, first = self._first_items(users, day)
        sequence, shares = self.world.visits.sequence, length_shares(self.world)
        at, total = first, first.copy()
        if sequence == 0:
            alone: Floats = first * shares.sum()
            return alone
        follow = self._follow(day)
        for share in shares[1:]:
            followed = at @ follow
            # A successor that is not in the catalogue gives way to an item of the user's tastes.
            lost = at.sum(axis=1) - followed.sum(axis=1)
            at = (1 - sequence) * first + sequence * (followed + lost[:, None] * by_taste)
            total += share * at
        return total

    def after(self, users: Ints, rows: Ints, day: int) -> Floats:
        """[U, N] float64: the distribution of the item that comes after another one of a visit, if one comes.

        Args:
            users: [U] int64, numbers of users.
            rows: [U] int64, the item that each of them has taken last.
            day: Of the visit.
        """
        by_taste, first = self._first_items(users, day)
        sequence = self.world.visits.sequence
        followed = self._follow(day)[rows].toarray()
        lost = 1 - followed.sum(axis=1, keepdims=True)
        found: Floats = (1 - sequence) * first + sequence * (followed + lost * by_taste)
        return found

    def _first_items(self, users: Ints, day: int) -> tuple[Floats, Floats]:
        """[U, N] each: the distribution of an item by taste, and of the first item of a visit."""
        world, items = self.world, self.items
        tastes, on_day = tastes_on(world, users, day), appeal_on(world, items, day)
        appeal = Appeal(items, on_day)
        weights = taste_weights(tastes, category_weights(world, day), appeal)
        totals = appeal.total(tastes.categories, tastes.styles)
        of_taste = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
        by_taste = np.zeros((len(users), len(on_day)))
        for user, place in np.argwhere(of_taste > 0):
            category, style = tastes.categories[user, place], tastes.styles[user, place]
            rows = slice(items.starts[category], items.starts[category + 1])
            share = of_taste[user, place] / totals[user, place]
            by_taste[user, rows] += share * items.appeal[style, rows] * on_day[rows]
        repeated = np.zeros_like(by_taste)
        own = staples(world, items, users)
        np.add.at(repeated, (np.arange(len(users))[:, None], own), items.alive(day)[own] / NUM_STAPLES)
        repeat = world.visits.repeat
        first = repeat * repeated + (1 - repeat * repeated.sum(axis=1, keepdims=True)) * by_taste
        return by_taste, first

    def _follow(self, day: int) -> sp.csr_array:
        """[N, N]: probability that an item of the catalogue follows another one, where one does."""
        rows, alive = self.items.successors, self.items.alive(day)
        n, width = rows.shape
        at = (np.repeat(np.arange(n), width), rows.ravel())
        return sp.csr_array((alive[rows.ravel()] / width, at), shape=(n, n))

    def oracle(
        self, users: Ints, days: Sequence[int], k: int, *, known: sp.csr_array | None = None
    ) -> npt.NDArray[np.int64]:
        """The items that each user is expected to take most often in a window.

        Args:
            users: [U] int64, numbers of users.
            days: Of the window.
            k: Length of a list, at most N.
            known: [U, N], not zero for items that are left out; None leaves none out.

        Returns:
            [U, k] int64 rows, best first; -1 behind the last one that can be taken.
        """
        ranked = np.empty((len(users), k), dtype=np.int64)
        for begin in range(0, len(users), _BLOCK):
            block = slice(begin, min(begin + _BLOCK, len(users)))
            scores = self.expected(users[block], days)
            if known is not None:
                rows, columns = known[block].nonzero()
                scores[rows, columns] = 0.0
            best = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(best, order, axis=1)
            ranked[block] = np.where(np.take_along_axis(scores, best, axis=1) > 0, best, -1)
        return ranked

    def days_from(self, cut: dt.date, window_days: int) -> list[int]:
        """Days of a window, counted from the world's first; those behind its last one are left out."""
        first = (cut - self.world.start).days
        return [day for day in range(first, first + window_days) if 0 <= day < self.world.days]
