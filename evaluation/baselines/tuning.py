"""Tuning of a baseline: its settings are those with the best recall on the days before the cut.

U users, V users of the validation days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evaluation.baselines.baseline import Fitted, Past, RankSome
from evaluation.baselines.popularity import filled_up
from evaluation.metrics import find_hits, recall_at_k
from evaluation.split import Split, validation_split

MOST_SECONDS = 60.0
"""Most that the search for a task may cost. Costs are estimated from sizes, not measured, so that the same data gets
the same settings on every machine."""
MOST_USERS = 4000

Settings = Mapping[str, float]
Fit = Callable[[Settings], RankSome]


@dataclass(frozen=True)
class Tunable:
    """A baseline with settings to choose.

    Attributes:
        title: In tables.
        grid: Name of a setting -> values in order, of which the best is looked for.
        start: What the search starts from, and what is used where there are no days to choose on.
        prepare: (history, whether it is the final fit) -> what fits the baseline to that history with some settings,
            and which items it uses, in words. What all settings share is done once.
        seconds: (history, settings) -> estimated cost of a fit and its lists in the search, in seconds of two cores.
    """

    title: str
    grid: Mapping[str, tuple[float, ...]]
    start: Settings
    prepare: Callable[[Split, bool], tuple[Fit, str]]
    seconds: Callable[[Split, Settings], float]

    def fit(self, past: Past) -> Fitted:
        """Chooses settings for each task, fits with them, and fills lists up as the product does.

        The two tasks, everything and what is new to the user, have their own settings.
        """
        chosen, how = _choose(self, past)
        fit, left_out = self.prepare(past.split, True)
        everybody = np.arange(len(past.split.user_ids))
        fits: dict[tuple[float, ...], RankSome] = {}

        def rank(k: int, new_only: bool) -> npt.NDArray[np.int32]:
            settings = chosen[new_only]
            key = tuple(settings.values())
            if key not in fits:
                # One at a time: a fit may take as much memory as there is.
                fits.clear()
                fits[key] = fit(settings)
            return fits[key](everybody, k, new_only)[0]

        return Fitted(filled_up(past, rank), f"{self.title}: {left_out}; {how}")


def _choose(baseline: Tunable, past: Past) -> tuple[dict[bool, Settings], str]:
    """Settings for everything and for what is new, and in words how they were chosen."""
    start = {False: baseline.start, True: baseline.start}
    validation = validation_split(past.split, past.events, past.item_ids)
    if validation is None:
        return start, f"{_words(baseline.start)} by default, as there are no days before the cut to choose on"
    fit, _ = baseline.prepare(validation, False)
    search = _Search(baseline, validation, fit, past)
    chosen = {new_only: search.best(new_only) for new_only in (False, True)}
    days = f"the {validation.window_days} days before the cut"
    if not search.recalls:
        return start, f"{_words(baseline.start)} by default, as a search on {days} would take too long"
    words = _words(chosen[True])
    if chosen[True] != chosen[False]:
        words = f"{words} for what is new, {_words(chosen[False])} for everything"
    how = f"{words}, chosen of {len(search.recalls)} by recall@{past.k} on {days}"
    return chosen, how + (", as many as the time allows" if search.is_cut_short else "")


@dataclass
class _Search:
    """Goes from the best settings so far to their neighbours, until all of these are tried."""

    baseline: Tunable
    validation: Split
    fit: Fit
    past: Past
    recalls: dict[tuple[float, ...], dict[bool, float]] = field(default_factory=dict)
    is_cut_short: bool = False
    _seconds: float = 0.0

    def best(self, new_only: bool) -> Settings:
        """The settings with the best recall of those that were tried, among them all its neighbours."""
        self._seconds = 0.0
        if not self._try(self.baseline.start):
            return self.baseline.start
        while True:
            best = max(self.recalls.items(), key=lambda tried: tried[1][new_only])[0]
            current = dict(zip(self.baseline.grid, best, strict=True))
            # One at a time: from a better neighbour the search goes on at once.
            if not any(self._try(neighbour) for neighbour in self._untried_neighbours(current)):
                return current

    def _untried_neighbours(self, current: Settings) -> Iterator[Settings]:
        for name, values in self.baseline.grid.items():
            place = values.index(current[name])
            for value in (*values[place + 1 : place + 2], *values[max(place - 1, 0) : place]):
                if (*{**current, name: value}.values(),) not in self.recalls:
                    yield {**current, name: value}

    def _try(self, settings: Settings) -> bool:
        """Whether there is time for these settings, or they were tried."""
        key = tuple(settings.values())
        if key in self.recalls:
            return True
        cost = self.baseline.seconds(self.validation, settings)
        if self._seconds + cost > MOST_SECONDS:
            self.is_cut_short = True
            return False
        self._seconds += cost
        rank = self.fit(settings)
        self.recalls[key] = {task: self._mean(rank, task) for task in (False, True)}
        return True

    def _mean(self, rank: RankSome, new_only: bool) -> float:
        relevant = self.validation.relevant_new if new_only else self.validation.relevant
        # Users without a past get popular items with any settings.
        users = np.flatnonzero((np.diff(relevant.indptr) > 0) & (np.diff(self.validation.history.indptr) > 0))
        if not len(users):
            return 0.0
        users = np.sort(np.random.default_rng(self.past.seed).permutation(users)[:MOST_USERS])
        lists, _ = rank(users, self.past.k, new_only)
        return float(recall_at_k(find_hits(lists, relevant[users]), self.past.k).mean())


def most_used(split: Split, most: int) -> tuple[npt.NDArray[np.int64], str]:
    """The items with the most users, at most so many, and how many they are in words.

    Args:
        split: Users and their history.
        most: At least 1.

    Returns:
        Rows of the catalogue, ascending, of items that some user met.
    """
    users = np.bincount(split.history.indices, minlength=split.history.shape[1])
    met = np.flatnonzero(users)
    kept = np.sort(met[np.argsort(-users[met], kind="stable")[:most]])
    if len(kept) == len(met):
        return kept, f"all {len(met):,} items that anybody met"
    return kept, f"{len(kept):,} of {len(met):,} items, those with the most users, as memory and time allow no more"


def _words(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
