"""Duration of each step with the making of its batch, without the time between epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Clock:
    """Seconds and rows of each step."""

    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    last: float = 0.0

    def start(self) -> None:
        """An epoch begins."""
        self.last = time.perf_counter()

    def step(self) -> None:
        """A step ends."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


@dataclass(frozen=True)
class Outcome:
    """One fit: the steps after warming up, and recall where it was measured."""

    examples_per_second: float
    ms_per_step: float
    recall: float

    @classmethod
    def of(cls, clock: Clock, recall: float, *, warm_up: int) -> Outcome:
        """Figures of a clock, and recall."""
        seconds, rows = clock.seconds[warm_up:], clock.rows[warm_up:]
        return cls(sum(rows) / sum(seconds), 1000 * float(np.median(seconds)), recall)
