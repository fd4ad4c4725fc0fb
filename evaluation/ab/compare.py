"""Which arm is better, and how sure are we? From ranked lists to a report with a verdict for each arm.

U users of a window, V users of all windows together, K places of a list, N items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from evaluation.ab.examples import most_different
from evaluation.ab.figures import Catalogue, Floats, Fold, Rows, figures, over_users, slices
from evaluation.ab.report import ABReport, ArmFigures, Comparison, Difference, Latency, LayerCheck, Problem, Protocol
from evaluation.agreement import overlap_at_k, rank_biased_overlap
from evaluation.diversity import gini_at_k
from evaluation.metrics import coverage_at_k, judge, recall_curve
from evaluation.multiplicity import holm
from evaluation.paired import Interval, intervals
from evaluation.permutation import permutation_p_values
from evaluation.power import smallest_detectable_effect, users_needed
from evaluation.report import Task
from evaluation.verdict import Verdict, decide

LETTERS = "ABCDEFGH"
SAME = 1e-12
"""Differences of a user below it are none."""
_SLICE = "\0"
T = TypeVar("T", Interval, Difference)


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


def compare_arms(
    folds: Sequence[Fold], arms: Sequence[Arm], *, settings: Settings, catalogue: Catalogue, about: About
) -> ABReport:
    """Judges all arms on the same users and each one beside the first.

    Args:
        folds: At least one.
        arms: Two to eight; the first is what is there.
        settings: How they are judged.
        catalogue: Of the items.
        about: What the report says besides.

    Returns:
        The report; a user counts once, with the mean over folds.

    Raises:
        ValueError: There are too few or too many arms, names repeat, an arm lacks lists of a fold, nobody has anything
            relevant, or a list is malformed (see `judge`).
    """
    _check(folds, arms)
    task, ks = settings.task, settings.ks
    by_arm = [
        over_users(
            [
                figures(fold, lists, task=task, ks=ks, catalogue=catalogue)
                | _flat(slices(fold, lists, task=task, k=settings.k))
                for fold, lists in zip(folds, arm.ranked, strict=True)
            ],
            folds,
        )
        for arm in arms
    ]
    means, differences = _intervals(by_arm, settings)
    compared = _differences(by_arm, differences, settings)
    shown = tuple(_arm_figures(LETTERS[place], arm, folds, means[place], settings) for place, arm in enumerate(arms))
    comparisons = tuple(
        _comparison(
            LETTERS[place],
            arms[place],
            arms[0],
            folds=folds,
            found=compared[place - 1],
            of_a=means[0][settings.metric].mean,
            per_user=_apart(by_arm[place][settings.metric], by_arm[0][settings.metric]),
            settings=settings,
            catalogue=catalogue,
            findings=[check for check in about.layers if check.letter == LETTERS[place] and check.finding],
        )
        for place in range(1, len(arms))
    )
    return ABReport(
        dataset=about.dataset,
        protocol=about.protocol,
        task=task,
        cuts=tuple(fold.split.cut.isoformat() for fold in folds),
        window_days=folds[0].split.window_days,
        num_users=means[0][settings.metric].num_users,
        num_relevant=sum(fold.relevant(task).nnz for fold in folds),
        num_items=len(catalogue.names),
        num_unknown_relevant=sum(fold.split.num_unknown_window_pairs for fold in folds),
        ks=ks,
        metric=settings.metric,
        alpha=settings.alpha,
        margin=settings.margin,
        num_samples=settings.num_samples,
        seed=settings.seed,
        arms=shown,
        comparisons=comparisons,
        layers=about.layers,
        notes=about.notes,
    )


def _check(folds: Sequence[Fold], arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not folds or not 2 <= len(arms) <= len(LETTERS) or len(set(names)) != len(names):
        raise ValueError(
            f"{len(folds)} folds and arms {names}; give at least one fold, and 2 to {len(LETTERS)} arms with names of "
            "their own"
        )
    for arm in arms:
        if len(arm.ranked) != len(folds):
            raise ValueError(f"arm {arm.name!r} has lists of {len(arm.ranked)} folds, expected {len(folds)}")


def _flat(parts: Mapping[str, Mapping[str, Floats]]) -> dict[str, Floats]:
    """Slices among the other figures, by a name that no metric has."""
    return {f"{about}{_SLICE}{name}": values for about, groups in parts.items() for name, values in groups.items()}


def _intervals(
    by_arm: Sequence[Mapping[str, Floats]], settings: Settings
) -> tuple[list[dict[str, Interval]], list[dict[str, Interval]]]:
    """Intervals of each arm, and of its differences to the first: all arms by the same users and resamples."""
    means: list[dict[str, Interval]] = [{} for _ in by_arm]
    differences: list[dict[str, Interval]] = [{} for _ in by_arm]
    for name in by_arm[0]:
        values = np.column_stack([of_arm[name] for of_arm in by_arm])
        both = intervals(
            np.hstack([values, _apart(values, values[:, :1])]),
            num_samples=settings.num_samples,
            seed=settings.seed,
            level=1 - settings.alpha,
        )
        for place in range(len(by_arm)):
            means[place][name], differences[place][name] = both[place], both[len(by_arm) + place]
    return means, differences


def _differences(
    by_arm: Sequence[Mapping[str, Floats]], differences: Sequence[Mapping[str, Interval]], settings: Settings
) -> list[dict[str, Difference]]:
    """Of every arm but the first: name -> difference with its p value."""
    names, others = list(by_arm[0]), range(1, len(by_arm))
    columns = np.column_stack([_apart(by_arm[place][name], by_arm[0][name]) for place in others for name in names])
    kinds = np.array([_family(name, settings.metric) for _ in others for name in names])
    # The smallest p is one over the permutations: corrected over its family, it still has to be below alpha.
    needed = math.ceil(2 * int(np.bincount(kinds).max()) / settings.alpha)
    p_values = permutation_p_values(columns, num_samples=max(settings.num_samples, needed), seed=settings.seed)
    adjusted = np.full(len(p_values), np.nan)
    for kind in range(3):
        adjusted[kinds == kind] = holm(p_values[kinds == kind])
    found: list[dict[str, Difference]] = []
    for number, place in enumerate(others):
        at = number * len(names)
        found.append(
            {
                name: Difference(differences[place][name], float(p_values[at + n]), float(adjusted[at + n]))
                for n, name in enumerate(names)
            }
        )
    return found


def _apart(values: Floats, of_a: Floats) -> Floats:
    """Differences of users, without those that only the order of a sum makes."""
    apart = values - of_a
    return np.where(np.abs(apart) < SAME, 0.0, apart)


def _family(name: str, metric: str) -> int:
    """What a p value is corrected together with: the deciding metric, the other metrics, or the slices."""
    return 0 if name == metric else 2 if _SLICE in name else 1


def _arm_figures(
    letter: str, arm: Arm, folds: Sequence[Fold], means: Mapping[str, Interval], settings: Settings
) -> ArmFigures:
    last, num_items = max(settings.ks), folds[0].split.history.shape[1]
    curves = [
        recall_curve(judge(lists, fold.relevant(settings.task))) for lists, fold in zip(arm.ranked, folds, strict=True)
    ]
    everybody = np.concatenate([lists[:, :last] for lists in arm.ranked])
    return ArmFigures(
        letter=letter,
        name=arm.name,
        source=arm.source,
        metrics={name: at for name, at in means.items() if _SLICE not in name},
        lists={
            f"coverage@{last}": coverage_at_k(everybody, num_items, k=last),
            f"gini@{last}": gini_at_k(everybody, num_items, last),
        },
        recall_curve=tuple(np.mean(curves, axis=0).tolist()),
        slices=_nested(means),
        latency=arm.latency,
        problems=arm.problems,
    )


def _nested(flat: Mapping[str, T]) -> dict[str, dict[str, T]]:
    nested: dict[str, dict[str, T]] = {}
    for key, value in flat.items():
        about, divides, name = key.partition(_SLICE)
        if divides:
            nested.setdefault(about, {})[name] = value
    return nested


def _comparison(
    letter: str,
    arm: Arm,
    first: Arm,
    *,
    folds: Sequence[Fold],
    found: Mapping[str, Difference],
    of_a: float,
    per_user: Floats,
    settings: Settings,
    catalogue: Catalogue,
    findings: Sequence[LayerCheck],
) -> Comparison:
    main, in_slices = found[settings.metric], _nested(found)
    lost = tuple(
        f"{about}: {name}"
        for about, groups in in_slices.items()
        for name, at in groups.items()
        if at.interval.high < 0 and at.adjusted_p < settings.alpha
    )
    smallest = smallest_detectable_effect(per_user, alpha=settings.alpha)
    overlaps, likeness = _alike(arm, first, folds, settings)
    return Comparison(
        letter=letter,
        name=arm.name,
        metrics={name: at for name, at in found.items() if _SLICE not in name},
        slices=in_slices,
        lost_slices=lost,
        overlap=overlaps,
        rank_biased_overlap=likeness,
        smallest_detectable=smallest,
        users_needed=_users(per_user, main.interval.mean, settings),
        users_for_one_percent=_users(per_user, 0.01 * of_a, settings),
        differing=most_different(
            arm.ranked, first.ranked, folds, task=settings.task, k=settings.k, catalogue=catalogue
        ),
        verdict=_verdict(main, of_a, lost, smallest, findings, arm, settings),
    )


def _verdict(
    main: Difference,
    of_a: float,
    lost: Sequence[str],
    smallest: float,
    findings: Sequence[LayerCheck],
    arm: Arm,
    settings: Settings,
) -> Verdict:
    warnings = [f"worse beyond doubt in {name}" for name in lost]
    warnings += [str(check.finding) for check in findings if not check.blocks]
    warnings += [f"{problem.count:,} of its input: {problem.kind}" for problem in arm.problems]
    lowest = -settings.margin * of_a if settings.margin and not math.isnan(of_a) else 0.0
    found = decide(
        main.interval,
        metric=settings.metric,
        lowest=lowest,
        p_value=main.adjusted_p,
        alpha=settings.alpha,
        blockers=[str(check.finding) for check in findings if check.blocks],
        warnings=warnings,
    )
    if found.decision != "undecided" or not smallest > 0:
        return found
    first, *others = found.reasons
    detects = f"so many users show a difference of {smallest:.4f} four times in five"
    return replace(found, reasons=(first, detects, *others))


def _users(per_user: Floats, effect: float, settings: Settings) -> int | None:
    if math.isnan(effect) or effect == 0 or np.isnan(per_user).all():
        return None
    return users_needed(per_user, effect, alpha=settings.alpha)


def _alike(arm: Arm, first: Arm, folds: Sequence[Fold], settings: Settings) -> tuple[float, float]:
    overlaps, likeness = [], []
    for mine, other, fold in zip(arm.ranked, first.ranked, folds, strict=True):
        judged = np.diff(fold.relevant(settings.task).indptr) > 0
        overlaps.append(overlap_at_k(mine[judged], other[judged], settings.k))
        likeness.append(rank_biased_overlap(mine[judged, : settings.k], other[judged, : settings.k]))
    return _mean(overlaps), _mean(likeness)


def _mean(parts: Sequence[npt.NDArray[np.float64]]) -> float:
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan
