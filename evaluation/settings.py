"""Arms with their lists, and the settings of a comparison: what goes into it besides its folds.

U users of a fold, K places of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.report import Cost, Latency, Layer, LayerCheck, Problem, Protocol, Task
from serving.retrieval.ranking import Rows


@dataclass(frozen=True)
class Arm:
    """What one arm retrieved.

    Attributes:
        name: What tables call it; distinct.
        source: What it is, in words.
        ranked: Per fold, then per seed, [U, K] int32: catalogue rows in the order of the split's users, -1 behind the
            last one. As many seeds in each fold; one where the arm has no seeds.
        reference: Name of the arm that it is compared with; None takes that of the comparison.
        layer: Where the lists come from.
        exact: Name of the arm with the same vectors and exact search; adds the index's recall against it.
        training_seconds: Wall clock of each fit; empty for what is not fitted.
        costs: Of each fit; empty where they were not measured.
        latency: Of one user's list; None where it was not measured.
        problems: In its input.
    """

    name: str
    source: str
    ranked: Sequence[Sequence[Rows]]
    reference: str | None = None
    layer: Layer | None = None
    exact: str | None = None
    training_seconds: tuple[float, ...] = ()
    costs: tuple[Cost, ...] = ()
    latency: Latency | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def num_seeds(self) -> int:
        """Lists of each fold."""
        return len(self.ranked[0])

    def lists(self, fold: int, seed: int) -> Rows:
        """Its lists in a fold with one of the seeds of a comparison; an arm without seeds has the same for all."""
        of_fold = self.ranked[fold]
        return of_fold[seed if len(of_fold) > 1 else 0]


@dataclass(frozen=True)
class Settings:
    """How arms are scored and compared.

    Attributes:
        task: What counts as relevant.
        ks: List lengths.
        metric: What decides, named before anything is looked at, such as `recall@100`.
        alpha: Significance level: the false alarm rate.
        margin: Share of the reference arm's figure that an arm may have less and still ship.
        num_samples: Resamples and permutations.
        seed: Of both.
        by_day: Whether the days of the windows are a partition of what is relevant.

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
    by_day: bool = True

    def __post_init__(self) -> None:
        """Checks what a report could not be made with."""
        if not self.ks:
            raise ValueError("ks is empty; give at least one list length")
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
        """Places that slices and lists are scored by: those of the metric, or the most."""
        _, _, k = self.metric.partition("@")
        return int(k) if k else max(self.ks)

    @property
    def draw(self) -> dict[str, int | float]:
        """Resamples, their seed and the level of the intervals."""
        return {"num_samples": self.num_samples, "seed": self.seed, "level": 1 - self.alpha}


@dataclass(frozen=True)
class About:
    """What the report holds besides figures.

    Attributes:
        dataset: Name of the dataset.
        protocol: How past and future were divided.
        seeds: Of trained arms.
        layers: What was checked of the layers; some findings keep an arm from being shipped.
        failed: Arm -> why it has no figures.
        notes: A sentence each.
        event_name: What one event is, for people.
    """

    dataset: str
    protocol: Protocol
    seeds: tuple[int, ...] = ()
    layers: tuple[LayerCheck, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    event_name: str = "purchase"
