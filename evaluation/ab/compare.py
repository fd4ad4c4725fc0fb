"""Which arm is better, and how sure are we? From ranked lists to a report with a verdict for each arm.

U users of a window, V users of all windows together, K places of a list, N items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluation.ab.differences import apart, differences_to_first, flat, nested, paired_intervals, whole
from evaluation.ab.examples import most_different
from evaluation.ab.figures import Catalogue, Floats, Fold, figures, over_users, slices
from evaluation.ab.report import ABReport, ArmFigures, Comparison, Difference, LayerCheck
from evaluation.ab.settings import LETTERS, About, Arm, Settings
from evaluation.agreement import overlap_at_k, rank_biased_overlap
from evaluation.diversity import gini_at_k
from evaluation.metrics import coverage_at_k, judge, recall_curve
from evaluation.statistics import Interval, smallest_detectable_effect, users_needed
from evaluation.verdict import Verdict, decide


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
    by_arm = [_by_user(arm, folds, settings, catalogue) for arm in arms]
    means, differences = paired_intervals(by_arm, settings)
    found = differences_to_first(by_arm, differences, settings)
    first = _First(arms[0], by_arm[0][settings.metric], means[0][settings.metric].mean)
    comparisons = [
        _comparison(
            LETTERS[place],
            arms[place],
            first,
            found=found[place - 1],
            per_user=by_arm[place][settings.metric],
            folds=folds,
            settings=settings,
            catalogue=catalogue,
            layers=about.layers,
        )
        for place in range(1, len(arms))
    ]
    return ABReport(
        dataset=about.dataset,
        protocol=about.protocol,
        task=settings.task,
        cuts=tuple(fold.split.cut.isoformat() for fold in folds),
        window_days=folds[0].split.window_days,
        num_users=means[0][settings.metric].num_users,
        num_relevant=sum(fold.relevant(settings.task).nnz for fold in folds),
        num_items=len(catalogue.names),
        num_unknown_relevant=sum(fold.split.num_unknown_window_pairs for fold in folds),
        ks=settings.ks,
        metric=settings.metric,
        alpha=settings.alpha,
        margin=settings.margin,
        num_samples=settings.num_samples,
        seed=settings.seed,
        arms=tuple(_arm_figures(*parts, folds, settings) for parts in zip(LETTERS, arms, means, strict=False)),
        comparisons=tuple(comparisons),
        layers=about.layers,
        notes=about.notes,
    )


@dataclass(frozen=True)
class _First:
    """The arm that is there: what it retrieved, its figure of the deciding metric by user [V], and the mean."""

    arm: Arm
    per_user: Floats
    mean: float


def _by_user(arm: Arm, folds: Sequence[Fold], settings: Settings, catalogue: Catalogue) -> dict[str, Floats]:
    """Every figure and every slice of an arm: name -> [V]."""
    parts = []
    for fold, lists in zip(folds, arm.ranked, strict=True):
        judged = judge(lists, fold.relevant(settings.task))
        found = figures(fold, lists, judged, task=settings.task, ks=settings.ks, catalogue=catalogue)
        parts.append(found | flat(slices(fold, lists, judged, task=settings.task, k=settings.k)))
    return over_users(parts, folds)


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


def _arm_figures(
    letter: str, arm: Arm, means: Mapping[str, Interval], folds: Sequence[Fold], settings: Settings
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
        metrics=whole(means),
        lists={
            f"coverage@{last}": coverage_at_k(everybody, num_items, k=last),
            f"gini@{last}": gini_at_k(everybody, num_items, last),
        },
        recall_curve=tuple(np.mean(curves, axis=0).tolist()),
        slices=nested(means),
        latency=arm.latency,
        problems=arm.problems,
    )


def _comparison(
    letter: str,
    arm: Arm,
    first: _First,
    *,
    found: Mapping[str, Difference],
    per_user: Floats,
    folds: Sequence[Fold],
    settings: Settings,
    catalogue: Catalogue,
    layers: Sequence[LayerCheck],
) -> Comparison:
    main, in_slices = found[settings.metric], nested(found)
    gained = apart(per_user, first.per_user)
    lost = tuple(
        f"{about}: {name}"
        for about, groups in in_slices.items()
        for name, at in groups.items()
        if at.interval.high < 0 and at.adjusted_p < settings.alpha
    )
    findings = [check for check in layers if check.letter == letter and check.finding]
    smallest = smallest_detectable_effect(gained, alpha=settings.alpha)
    overlaps, likeness = _alike(arm, first.arm, folds, settings)
    return Comparison(
        letter=letter,
        name=arm.name,
        metrics=whole(found),
        slices=in_slices,
        lost_slices=lost,
        overlap=overlaps,
        rank_biased_overlap=likeness,
        smallest_detectable=smallest,
        users_needed=_users(gained, main.interval.mean, settings),
        users_for_one_percent=_users(gained, 0.01 * first.mean, settings),
        differing=most_different(
            arm.ranked, first.arm.ranked, folds, task=settings.task, k=settings.k, catalogue=catalogue
        ),
        verdict=_verdict(main, first.mean, lost, smallest, findings, arm, settings),
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
        judged = fold.are_judged(settings.task)
        overlaps.append(overlap_at_k(mine[judged], other[judged], settings.k))
        likeness.append(rank_biased_overlap(mine[judged, : settings.k], other[judged, : settings.k]))
    return _mean(overlaps), _mean(likeness)


def _mean(parts: Sequence[npt.NDArray[np.float64]]) -> float:
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan
