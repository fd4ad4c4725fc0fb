"""What does one reading of the test window say? The figures of all arms, as values and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Protocol

from evaluation.statistics import Interval

Task = Literal["all purchases", "new to the user"]
Layer = Literal["exact", "index", "server", "baseline"]

ALL_PURCHASES: Final[Task] = "all purchases"
NEW_TO_THE_USER: Final[Task] = "new to the user"
TASKS: Final[tuple[Task, ...]] = (ALL_PURCHASES, NEW_TO_THE_USER)


@dataclass(frozen=True)
class ArmResult:
    """The figures of an arm in a task.

    Attributes:
        name: The arm.
        layer: How its lists came about.
        metrics: `recall@10`, `ndcg@10`, `hit_rate@10`, ..., `mrr` -> mean over users with something relevant.
        differences: The same keys -> paired difference to the reference arm; empty for the reference itself.
        coverage: k -> share of the catalogue among anyone's first k.
        recall_curve: Mean recall@k for k = 1..K.
        index_recall: k -> mean share of exact search's first k that were found; empty if the arm names no exact one.
    """

    name: str
    layer: Layer
    metrics: dict[str, Interval]
    differences: dict[str, Interval]
    coverage: dict[int, float]
    recall_curve: tuple[float, ...]
    index_recall: dict[int, float]


@dataclass(frozen=True)
class TaskResult:
    """The figures of all arms in a task.

    Attributes:
        task: What counts as relevant.
        reference: Arm that the differences are taken to; None if it has no lists for this task.
        num_users: Users with something relevant: the ones averaged over.
        num_relevant: Relevant (user, item) pairs.
        arms: In the order given.
    """

    task: Task
    reference: str | None
    num_users: int
    num_relevant: int
    arms: tuple[ArmResult, ...]


@dataclass(frozen=True)
class Report:
    """One reading of the test window.

    Attributes:
        dataset: Name of the dataset.
        cut: Start of the window, ISO 8601, UTC.
        window_days: Length of the window.
        num_users: U, with or without something relevant.
        num_items: N.
        num_unknown_window_pairs: Purchases in the window of items outside the catalogue: no arm can find them, and
            recall does not count them.
        num_unknown_window_items: Distinct items among those.
        ks: List lengths.
        level: Share of the bootstrap distribution inside an interval.
        num_samples: Resamples behind each interval.
        seed: Of the resamples.
        tasks: What was asked of the arms.
    """

    dataset: str
    cut: str
    window_days: int
    num_users: int
    num_items: int
    num_unknown_window_pairs: int
    num_unknown_window_items: int
    ks: tuple[int, ...]
    level: float
    num_samples: int
    seed: int
    tasks: tuple[TaskResult, ...]


class DataClass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def to_json(report: DataClass) -> str:
    """A report as JSON text; a figure that does not exist (no user to average over) is null."""
    return json.dumps(without_nan(dataclasses.asdict(report)), indent=1, allow_nan=False)


def without_nan(value: object) -> Any:
    """The value with None in the place of every figure that does not exist, at any depth, as JSON has it."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
