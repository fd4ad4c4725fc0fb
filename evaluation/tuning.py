"""Trials of `twinspire tune`: what each one tried, its validation recall, and whether the best one is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from artefacts.files import json_value
from artefacts.paths import RunPaths
from evaluation.statistics import Interval

FILE = "tune.json"
Outcome = Literal["finished", "pruned", "diverged"]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: From 0, which has the configuration's own values.
        values: Dotted key -> what was tried.
        recalls: Validation recall after each epoch.
        outcome: Whether it came to its end, was stopped for being behind others at the same epoch, or its loss was no
            number any more.
        seconds: Of the fit, without an interrupted part.
    """

    number: int
    values: dict[str, Any]
    recalls: tuple[float, ...]
    outcome: Outcome
    seconds: float

    @property
    def recall(self) -> float:
        """Of the best epoch so far; nan where none came to its end."""
        return max(self.recalls, default=float("nan"))

    @property
    def epoch(self) -> int:
        """The best epoch, from 1; 0 where none came to its end."""
        return self.recalls.index(self.recall) + 1 if self.recalls else 0


@dataclass(frozen=True)
class Tuning:
    """All trials of a study.

    Attributes:
        dataset: Name of the data set.
        as_of: The cut, ISO 8601; nothing from it on was read.
        validation_days: Days before it that trials are measured on.
        metric: Such as `recall@100`, of items that are new to the user.
        study: Hash of all that the trials depend on.
        trials: In order.
        best: Number of the finished trial with the highest recall; the first of equal ones.
        difference: Its recall less that of trial 0, on the same users.
        level: Of that interval. It is so high that 95 of 100 studies without any better trial find none.
        importance: Dotted key -> share of the variation of recall that it explains; empty with too few trials.
    """

    dataset: str
    as_of: str
    validation_days: int
    metric: str
    study: str
    trials: tuple[Trial, ...]
    best: int
    difference: Interval
    level: float
    importance: dict[str, float]

    @property
    def is_better(self) -> bool:
        """Whether the best trial beats the configuration's own values by more than noise."""
        return self.difference.low > 0

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Dotted key -> the configuration's own value and that of the best trial, where they differ."""
        own, best = self.trials[0].values, self.trials[self.best].values
        return {key: (own[key], value) for key, value in best.items() if value != own[key]}


def read_tuning(paths: RunPaths) -> Tuning | None:
    """The latest study of the day; None where there is none."""
    path = paths.tune / FILE
    if not path.exists():
        return None
    found = json_value(path.read_text(encoding="utf-8"))
    trials = tuple(Trial(**{**one, "recalls": tuple(one["recalls"])}) for one in found["trials"])
    return Tuning(**{**found, "trials": trials, "difference": Interval(**found["difference"])})
