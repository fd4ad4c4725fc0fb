"""Where does an arm win or lose beyond doubt? Differences to A, each told as won, lost or open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from evaluation.ab.report import ABReport, ArmFigures, Comparison, Difference
from evaluation.statistics import Interval

Outcome = Literal["won", "lost", "open"]

DESCRIPTIVE: Final = ("novelty", "diversity", "head_share")
"""Metrics that say what lists are like: more of them is neither better nor worse."""


@dataclass(frozen=True)
class SliceRow:
    """An arm and A in one group.

    Attributes:
        about: What divides.
        group: Name of the group.
        of_a: Recall of A in it.
        of_arm: Recall of the arm in it.
        difference: Of the arm to A.
        outcome: Whether the arm wins or loses there.
    """

    about: str
    group: str
    of_a: Interval
    of_arm: Interval
    difference: Difference
    outcome: Outcome


def outcome(name: str, difference: Difference, *, alpha: float) -> Outcome:
    """Won or lost where both the interval leaves out 0 and the corrected p value is below alpha.

    Args:
        name: The metric; of one that only describes lists, the outcome is open.
        difference: Of an arm to A.
        alpha: Rate of false alarms.
    """
    if name.partition("@")[0] in DESCRIPTIVE or not difference.adjusted_p < alpha:
        return "open"
    if difference.interval.low > 0:
        return "won"
    return "lost" if difference.interval.high < 0 else "open"


def slice_rows(report: ABReport, comparison: Comparison) -> Iterator[SliceRow]:
    """Every group of every partition that somebody is in, in the order of the report.

    Args:
        report: The comparison of all arms.
        comparison: One of its arms beside A.
    """
    of_a, of_arm = arm_of(report, "A").slices, arm_of(report, comparison.letter).slices
    for about, groups in comparison.slices.items():
        for group, difference in groups.items():
            if not of_a[about][group].num_users:
                continue
            # What is lost was decided once, for the verdict.
            lost = f"{about}: {group}" in comparison.lost_slices
            found = "lost" if lost else outcome(slice_metric(report), difference, alpha=report.alpha)
            yield SliceRow(about, group, of_a[about][group], of_arm[about][group], difference, found)


def arm_of(report: ABReport, letter: str) -> ArmFigures:
    """The arm of a letter."""
    return next(arm for arm in report.arms if arm.letter == letter)


def slice_metric(report: ABReport) -> str:
    """What slices are judged by: recall, at as many places as what decides."""
    _, _, k = report.metric.partition("@")
    return f"recall@{k or max(report.ks)}"


def lowest_to_ship(report: ABReport) -> float:
    """Difference of the deciding metric that an arm has to reach, at most 0."""
    of_a = arm_of(report, "A").metrics[report.metric].mean
    return -report.margin * of_a if of_a == of_a else 0.0
