"""What is compared, and how is it judged? What goes into a comparison besides its folds.

U users of a fold, K places of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.ab.figures import Rows
from evaluation.ab.report import Latency, LayerCheck, Problem, Protocol
from evaluation.report import Task

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Arm:
    """What one arm retrieved.

    Attributes:
        name: What tables call it; distinct.
        source: What it is, in words.
        ranked: [U, K] int32 of each fold: catalogue rows in the order of the split's users, -1 behind the last one.
        latency: Of one user's list; None where it was not measured.
        problems: In its input.
    """

    name: str
    source: str
    ranked: Sequence[Rows]
    latency: Latency | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How arms are judged.

    Attributes:
        task: What counts as relevant.
        ks: List lengths.
        metric: What decides, named before anything is looked at, such as `recall@100`.
        alpha: Rate of false alarms.
        margin: Part of A's figure that an arm may have less and still ship.
        num_samples: Resamples and permutations.
        seed: Of both.

    Raises:
        ValueError: The metric is of no k, or a number is out of its range.
    """

    task: Task
    ks: tuple[int, ...]
    metric: str
    alpha: float = 0.05
    margin: float = 0.0
    num_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what a report could not be made with."""
        known = [f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "precision") for k in self.ks] + ["mrr"]
        if self.metric not in known:
            raise ValueError(f"metric is {self.metric!r}, expected one of: {', '.join(known)}")
        if not 0 < self.alpha < 1 or not 0 <= self.margin < 1 or self.num_samples < 1:
            raise ValueError(
                f"alpha is {self.alpha}, margin {self.margin} and num_samples {self.num_samples}; expected between 0 "
                "and 1, from 0 to below 1, and at least 1"
            )

    @property
    def k(self) -> int:
        """Places that slices and lists are judged by: those of the metric, or the most."""
        _, _, k = self.metric.partition("@")
        return int(k) if k else max(self.ks)


@dataclass(frozen=True)
class About:
    """What stands in the report besides figures.

    Attributes:
        dataset: Name of the dataset.
        protocol: How past and future were divided.
        layers: What was checked of the layers; some findings keep an arm from being shipped.
        notes: A sentence each.
    """

    dataset: str
    protocol: Protocol
    layers: tuple[LayerCheck, ...] = ()
    notes: tuple[str, ...] = field(default=())
