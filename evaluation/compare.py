"""How do arms compare on the same users? From ranked lists to a report.

U users, K places of a list, N items of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.metrics import (
    Judged,
    coverage_at_k,
    hit_rate_at_k,
    index_recall_at_k,
    judge,
    ndcg_at_k,
    recall_at_k,
    recall_curve,
    reciprocal_rank,
)
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, TASKS, ArmResult, Layer, Report, Task, TaskResult
from evaluation.split import Split
from evaluation.statistics import Interval, intervals

AT_K: Final[dict[str, Callable[[Judged, int], npt.NDArray[np.float64]]]] = {
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
    "hit_rate": hit_rate_at_k,
}
"""Metrics with a k, by the name that they carry in the report."""


@dataclass(frozen=True)
class Arm:
    """One way to retrieve, and what it retrieved.

    Attributes:
        name: What the report calls it; distinct.
        layer: How the lists came about: exact search over all items, an approximate index, the running server, or a
            baseline.
        ranked: Per task [U, K] int32, catalogue rows in the order of the split's users, -1 behind the last one. An arm
            may leave a task out.
        exact: Name of the arm with the same vectors and exact search; adds the index's recall against it.
    """

    name: str
    layer: Layer
    ranked: Mapping[Task, npt.NDArray[np.int32]]
    exact: str | None = None


def make_report(
    split: Split,
    arms: Sequence[Arm],
    *,
    dataset: str,
    ks: Sequence[int],
    reference: str,
    num_samples: int,
    seed: int,
    level: float = 0.95,
) -> Report:
    """Judges every arm on the same users, with intervals from the same resamples.

    Args:
        split: Users and what is relevant to them.
        arms: What is compared; at least one.
        dataset: Name to print.
        ks: List lengths, each at least 1 and at most the K of every arm.
        reference: Arm that the others are compared with.
        num_samples: Bootstrap resamples.
        seed: Of the resamples.
        level: Share of the bootstrap distribution inside an interval.

    Returns:
        The figures.

    Raises:
        ValueError: `ks` is empty, arm names repeat, an arm has no lists or lists for an unknown task, `reference` or an
            arm's `exact` names no arm, or a list is malformed (see `judge`) or shorter than the largest k.
    """
    _check_arms(arms, ks, reference)
    relevant = {ALL_PURCHASES: split.relevant, NEW_TO_THE_USER: split.relevant_new}
    draw = {"num_samples": num_samples, "seed": seed, "level": level}
    results = tuple(
        _task_result(task, relevant[task], arms, tuple(ks), reference, draw)
        for task in TASKS
        if any(task in arm.ranked for arm in arms)
    )
    return Report(
        dataset=dataset,
        cut=split.cut.isoformat(),
        window_days=split.window_days,
        num_users=len(split.user_ids),
        num_items=split.history.shape[1],
        num_unknown_window_pairs=split.num_unknown_window_pairs,
        num_unknown_window_items=split.num_unknown_window_items,
        ks=tuple(ks),
        level=level,
        num_samples=num_samples,
        seed=seed,
        tasks=results,
    )


def _check_arms(arms: Sequence[Arm], ks: Sequence[int], reference: str) -> None:
    names = [arm.name for arm in arms]
    if not ks:
        raise ValueError("ks is empty; give at least one list length")
    if len(set(names)) != len(names):
        raise ValueError(f"arm names are {names}; give each arm a name of its own")
    for arm in arms:
        if not arm.ranked or not set(arm.ranked) <= set(TASKS):
            raise ValueError(
                f"arm {arm.name!r} has lists for {list(arm.ranked)}, expected one or both of {list(TASKS)}"
            )
    for wanted in (reference, *(arm.exact for arm in arms if arm.exact is not None)):
        if wanted not in names:
            raise ValueError(f"no arm is called {wanted!r}; the arms are {names}")


def _task_result(
    task: Task,
    relevant: sp.csr_array,
    arms: Sequence[Arm],
    ks: tuple[int, ...],
    reference: str,
    draw: Mapping[str, Any],
) -> TaskResult:
    lists = {arm.name: arm.ranked[task] for arm in arms if task in arm.ranked}
    judged = {name: judge(ranked, relevant) for name, ranked in lists.items()}
    values = {name: _user_values(hits, ks) for name, hits in judged.items()}
    results = tuple(
        ArmResult(
            name=arm.name,
            layer=arm.layer,
            metrics=_intervals_by_metric(values[arm.name], draw),
            differences=_differences(values, arm.name, reference, draw),
            coverage={k: coverage_at_k(lists[arm.name], relevant.shape[1], k=k) for k in ks},
            recall_curve=tuple(recall_curve(judged[arm.name]).tolist()),
            index_recall=_index_recall(arm, lists, ks),
        )
        for arm in arms
        if arm.name in lists
    )
    return TaskResult(
        task=task,
        reference=reference if reference in lists else None,
        num_users=int((np.diff(relevant.indptr) > 0).sum()),
        num_relevant=int(relevant.nnz),
        arms=results,
    )


def _user_values(judged: Judged, ks: Sequence[int]) -> dict[str, npt.NDArray[np.float64]]:
    values = {f"{name}@{k}": metric(judged, k) for name, metric in AT_K.items() for k in ks}
    return values | {"mrr": reciprocal_rank(judged)}


def _intervals_by_metric(values: Mapping[str, npt.NDArray[np.float64]], draw: Mapping[str, Any]) -> dict[str, Interval]:
    return dict(zip(values, intervals(np.column_stack(list(values.values())), **draw), strict=True))


def _differences(
    values: Mapping[str, Mapping[str, npt.NDArray[np.float64]]], name: str, reference: str, draw: Mapping[str, Any]
) -> dict[str, Interval]:
    if reference not in values or name == reference:
        return {}
    return _intervals_by_metric({key: own - values[reference][key] for key, own in values[name].items()}, draw)


def _index_recall(arm: Arm, lists: Mapping[str, npt.NDArray[np.int32]], ks: Sequence[int]) -> dict[int, float]:
    if arm.exact is None or arm.exact not in lists:
        return {}
    shares = {k: index_recall_at_k(lists[arm.name], lists[arm.exact], k=k) for k in ks}
    return {k: math.nan if np.isnan(share).all() else float(np.nanmean(share)) for k, share in shares.items()}
