"""Epochs of a fit: what each of them gave, which one was the best, and when a fit ends early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EpochMetrics = dict[str, float]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave.

    Attributes:
        epoch: From 1.
        loss: Mean over the batches, which are of equal size, nats.
        metrics: What the evaluation after it returned.
    """

    epoch: int
    loss: float
    metrics: EpochMetrics


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a fit that no longer improves, and keeps its best epoch.

    Attributes:
        measure: The metric that decides; higher is better.
        patience: Epochs in a row without a better one after which a fit ends.
    """

    measure: str
    patience: int

    def best(self, reports: Sequence[EpochReport]) -> int:
        """The best epoch, from 1: the first of equal ones, and the last one where the metric is never a number."""
        found = np.array([report.metrics[self.measure] for report in reports])
        return int(np.nanargmax(found)) + 1 if np.isfinite(found).any() else len(found)

    def ends(self, reports: Sequence[EpochReport]) -> bool:
        """Whether a fit with these epochs ends."""
        return len(reports) - self.best(reports) >= self.patience
