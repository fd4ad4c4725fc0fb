"""Which arm wins, by how much and how sure? One sentence, before all tables."""

from __future__ import annotations

import math

from evaluation.ab.outcomes import arm_of
from evaluation.ab.report import ABReport, Comparison
from evaluation.table import difference_text, figure
from evaluation.verdict import Decision

_ORDER: tuple[Decision, ...] = ("ship", "undecided", "do not ship")


def headline(report: ABReport) -> str:
    """The outcome of a comparison: of the best challenger, beside A.

    Args:
        report: The comparison.

    Returns:
        Such as `B (EASE) wins: recall@100 .0819 against .0804 of A, +.0015 [+.0002, +.0030], p .012; ship`.
    """
    best = best_challenger(report)
    if best is None:
        return f"nobody wins: A ({report.arms[0].name}) is the only arm"
    decision = best.verdict.decision
    if decision == "ship":
        return _ships(report, best)
    return _undecided(report, best) if decision == "undecided" else _stays(report, best)


def other_lines(report: ABReport) -> list[str]:
    """A line for every challenger that the headline does not speak of."""
    best = best_challenger(report)
    return [
        f"{arm_label(other)}: {_difference(report, other)}; {other.verdict.decision}"
        for other in report.comparisons
        if other is not best
    ]


def best_challenger(report: ABReport) -> Comparison | None:
    """The arm with the largest difference of those that may ship; else of those undecided; else of all.

    Args:
        report: The comparison.

    Returns:
        None if there is no arm but A.
    """

    def place(comparison: Comparison) -> tuple[int, float]:
        mean = comparison.metrics[report.metric].interval.mean
        return -_ORDER.index(comparison.verdict.decision), -math.inf if math.isnan(mean) else mean

    return max(report.comparisons, key=place, default=None)


def winner(report: ABReport) -> str | None:
    """Letter of the arm that the verdicts choose: the best that may ship, else A if no other may; None if undecided."""
    best = best_challenger(report)
    if best is None or best.verdict.decision == "undecided":
        return None
    return best.letter if best.verdict.decision == "ship" else "A"


def arm_label(comparison: Comparison) -> str:
    """Letter and name, such as `B (EASE)`."""
    return f"{comparison.letter} ({comparison.name})"


def p_text(value: float) -> str:
    """Two digits, such as `.012`; `<.0001` below that; a dash where there was no test."""
    if math.isnan(value):
        return "-"
    return "<.0001" if value < 0.0001 else f"{value:.2g}".removeprefix("0")


def _ships(report: ABReport, best: Comparison) -> str:
    if best.metrics[report.metric].interval.low > 0:
        return f"{arm_label(best)} wins: {_beside_a(report, best)}; ship"
    within = f"worse by no more than the margin of {report.margin:.1%}"
    return f"{arm_label(best)} may take A's place: {_beside_a(report, best)}, {within}; ship"


def _undecided(report: ABReport, best: Comparison) -> str:
    interval, smallest = best.metrics[report.metric].interval, best.smallest_detectable
    if not interval.num_users:
        return f"nobody wins: no user has a figure of {report.metric} for both A and {arm_label(best)}; undecided"
    said = f"nobody wins: in {report.metric} {arm_label(best)} is {_difference(report, best)}; undecided"
    if smallest == 0:
        return f"{said}, all {interval.num_users:,} users have the same from both"
    if math.isnan(smallest):
        return said
    return f"{said}, smallest difference these {interval.num_users:,} users would show is {figure(smallest)}"


def _stays(report: ABReport, best: Comparison) -> str:
    intervals = [comparison.metrics[report.metric].interval for comparison in report.comparisons]
    said = f"{_beside_a(report, best)}; do not ship"
    if not best.metrics[report.metric].interval.high < 0:
        return f"A stays: {arm_label(best)} has {_beside_a(report, best)}, but {best.verdict.reasons[0]}; do not ship"
    if len(intervals) > 1 and all(interval.high < 0 for interval in intervals):
        return f"A stays: every other arm is worse; {arm_label(best)}, the nearest, has {said}"
    return f"A stays: {arm_label(best)} is worse, {said}"


def _beside_a(report: ABReport, comparison: Comparison) -> str:
    """Both figures and their difference."""
    of_arm, of_a = (arm_of(report, letter).metrics[report.metric].mean for letter in (comparison.letter, "A"))
    found = comparison.metrics[report.metric]
    difference = f"{difference_text(found.interval)}, p {p_text(found.adjusted_p)}"
    return f"{report.metric} {figure(of_arm)} against {figure(of_a)} of A, {difference}"


def _difference(report: ABReport, comparison: Comparison) -> str:
    found = comparison.metrics[report.metric]
    return f"{difference_text(found.interval)} from A, p {p_text(found.adjusted_p)}"
