"""The outcome of a comparison in one sentence, and each difference as won, lost or open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from artefacts.files import without_nan
from evaluation.render.formats import difference_text, figure, p_text
from evaluation.report import Comparison, Difference, Report
from evaluation.statistics import Decision, Interval

Outcome = Literal["won", "lost", "open"]

DESCRIPTIVE: Final = ("novelty", "diversity", "families", "head_share")
"""Metrics that describe lists: more of them is neither better nor worse."""
_ORDER: tuple[Decision, ...] = ("ship", "undecided", "do not ship")


@dataclass(frozen=True)
class SliceRow:
    """An arm and its reference arm in one group.

    Attributes:
        about: The partition.
        group: Name of the group.
        of_reference: Recall of the reference arm in it.
        of_arm: Recall of the arm in it.
        difference: Of the arm to the reference arm.
        outcome: Whether the arm wins or loses there.
    """

    about: str
    group: str
    of_reference: Interval
    of_arm: Interval
    difference: Difference
    outcome: Outcome


def outcome(name: str, difference: Difference, *, alpha: float) -> Outcome:
    """Won or lost where both the interval leaves out 0 and the corrected p-value is below alpha.

    Args:
        name: The metric; of one that only describes lists, the outcome is open.
        difference: Of an arm to its reference arm.
        alpha: Significance level.
    """
    if name.partition("@")[0] in DESCRIPTIVE or not difference.adjusted_p < alpha:
        return "open"
    if difference.interval.low > 0:
        return "won"
    return "lost" if difference.interval.high < 0 else "open"


def slice_rows(report: Report, comparison: Comparison) -> Iterator[SliceRow]:
    """Every group of every partition that has users, in the order of the report.

    Args:
        report: The comparison of all arms.
        comparison: One of its arms compared with its reference arm.
    """
    of_reference, of_arm = report.arm(comparison.reference).slices, report.arm(comparison.letter).slices
    for about, groups in comparison.slices.items():
        for group, difference in groups.items():
            if not of_reference[about][group].num_users:
                continue
            # What is lost was decided once, for the verdict.
            lost = f"{about}: {group}" in comparison.lost_slices
            found = "lost" if lost else outcome(report.slice_metric, difference, alpha=report.alpha)
            yield SliceRow(about, group, of_reference[about][group], of_arm[about][group], difference, found)


def lowest_to_ship(report: Report) -> float:
    """Difference of the deciding metric that an arm has to reach, at most 0; where all have one reference arm."""
    of_reference = report.arm(report.references[0]).metrics[report.metric].mean
    return 0.0 if math.isnan(of_reference) else -report.margin * of_reference


def headline(report: Report) -> str:
    """The outcome of a comparison: of the best challenger, against its reference arm.

    Args:
        report: The comparison.

    Returns:
        Such as `B (EASE) wins: recall@100 .0819 against .0804 of A, +.0015 [+.0002, +.0030], p .012; ship`.
    """
    best = best_challenger(report)
    if best is None:
        return f"no winner: A ({report.arms[0].name}) is the only arm"
    decision = best.verdict.decision
    if decision == "ship":
        return _ships(report, best)
    return _undecided(report, best) if decision == "undecided" else _stays(report, best)


def other_lines(report: Report) -> list[str]:
    """A line for every challenger that the headline is not about."""
    best = best_challenger(report)
    return [
        f"{arm_label(other)}: {_difference(report, other)}; {other.verdict.decision}"
        for other in report.comparisons
        if other is not best
    ]


def best_challenger(report: Report) -> Comparison | None:
    """The arm with the largest difference of those that may ship; else of those undecided; else of all.

    Args:
        report: The comparison.

    Returns:
        None if no arm is compared with another.
    """

    def place(comparison: Comparison) -> tuple[int, float]:
        mean = comparison.metrics[report.metric].interval.mean
        return -_ORDER.index(comparison.verdict.decision), -math.inf if math.isnan(mean) else mean

    return max(report.comparisons, key=place, default=None)


def winner(report: Report) -> str | None:
    """Letter of the arm that the verdicts choose: the best that may ship, else its reference arm; None if undecided."""
    best = best_challenger(report)
    if best is None or best.verdict.decision == "undecided":
        return None
    return best.letter if best.verdict.decision == "ship" else best.reference


def arm_label(comparison: Comparison) -> str:
    """Letter and name, such as `B (EASE)`."""
    return f"{comparison.letter} ({comparison.name})"


def verdict_document(report: Report) -> dict[str, Any]:
    """The verdict for programs, ready for JSON.

    Args:
        report: The figures.

    Returns:
        `decision` on the best challenger, whose letter is `challenger`; `winner`, the letter of the arm that the
        verdicts choose, None while they are undecided; `challengers`, one entry each. A figure that does not exist is
        None.
    """
    best = best_challenger(report)
    kept = ("dataset", "protocol", "task", "cuts", "seeds", "metric", "alpha", "margin", "num_users")
    document: dict[str, Any] = {
        "headline": headline(report),
        "decision": best.verdict.decision if best else None,
        "challenger": best.letter if best else None,
        "winner": winner(report),
        **{name: getattr(report, name) for name in kept},
        "arms": {arm.letter: arm.name for arm in report.arms},
        "challengers": [_challenger(report, comparison) for comparison in report.comparisons],
    }
    found: dict[str, Any] = without_nan(document)
    return found


def _challenger(report: Report, comparison: Comparison) -> dict[str, Any]:
    found = comparison.metrics[report.metric]
    return {
        "letter": comparison.letter,
        "name": comparison.name,
        "reference": comparison.reference,
        "decision": comparison.verdict.decision,
        "reasons": comparison.verdict.reasons,
        "metric": report.metric,
        "difference": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "num_users": found.interval.num_users,
        "p_value": found.p_value,
        "adjusted_p": found.adjusted_p,
        "smallest_detectable": comparison.smallest_detectable,
        "users_needed": comparison.users_needed,
        "lost_slices": comparison.lost_slices,
        "findings": [check.finding for check in report.layers if check.letter == comparison.letter and check.finding],
    }


def _ships(report: Report, best: Comparison) -> str:
    if best.metrics[report.metric].interval.low > 0:
        return f"{arm_label(best)} wins: {_both(report, best)}; ship"
    within = f"worse by no more than the margin of {report.margin:.1%}"
    return f"{arm_label(best)} may replace {best.reference}: {_both(report, best)}, {within}; ship"


def _undecided(report: Report, best: Comparison) -> str:
    interval, smallest = best.metrics[report.metric].interval, best.smallest_detectable
    if not interval.num_users:
        both = f"both {best.reference} and {arm_label(best)}"
        return f"no winner: no user has a figure of {report.metric} for {both}; undecided"
    text = f"no winner: in {report.metric} {arm_label(best)} is {_difference(report, best)}; undecided"
    if smallest == 0:
        return f"{text}, all {interval.num_users:,} users have the same from both"
    if math.isnan(smallest):
        return text
    return f"{text}, smallest difference these {interval.num_users:,} users would show is {figure(smallest)}"


def _stays(report: Report, best: Comparison) -> str:
    intervals = [comparison.metrics[report.metric].interval for comparison in report.comparisons]
    stays, text = f"{best.reference} stays", f"{_both(report, best)}; do not ship"
    if not best.metrics[report.metric].interval.high < 0:
        return f"{stays}: {arm_label(best)} has {_both(report, best)}, but {best.verdict.reasons[0]}; do not ship"
    if len(intervals) > 1 and all(interval.high < 0 for interval in intervals):
        return f"{stays}: every other arm is worse; {arm_label(best)}, the nearest, has {text}"
    return f"{stays}: {arm_label(best)} is worse, {text}"


def _both(report: Report, comparison: Comparison) -> str:
    """Both figures and their difference."""
    letters = (comparison.letter, comparison.reference)
    of_arm, of_reference = (report.arm(letter).metrics[report.metric].mean for letter in letters)
    found = comparison.metrics[report.metric]
    difference = f"{difference_text(found.interval)}, p {p_text(found.adjusted_p)}"
    return f"{report.metric} {figure(of_arm)} against {figure(of_reference)} of {comparison.reference}, {difference}"


def _difference(report: Report, comparison: Comparison) -> str:
    found = comparison.metrics[report.metric]
    return f"{difference_text(found.interval)} from {comparison.reference}, p {p_text(found.adjusted_p)}"
