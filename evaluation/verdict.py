"""Verdict on an arm: ship, do not ship or undecided, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evaluation.statistics import Interval

Decision = Literal["ship", "do not ship", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """A decision.

    Attributes:
        decision: What to do.
        reasons: Why, a sentence each, the deciding one first.
    """

    decision: Decision
    reasons: tuple[str, ...]


def decide(
    difference: Interval,
    *,
    metric: str,
    lowest: float = 0.0,
    p_value: float | None = None,
    alpha: float = 0.05,
    blockers: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Verdict:
    """Decides by the paired difference of one metric, named beforehand.

        do not ship    the whole interval lies below `lowest`, or something blocks
        ship           the whole interval lies above `lowest`; for `lowest` = 0 the permutation test has to agree
        undecided      otherwise

    With `lowest` below 0 an arm ships that is at most so much worse: a test of non-inferiority, for an arm that is
    cheaper, or for one that is only fitted again.

    Args:
        difference: Of the arm less its reference arm.
        metric: Its name.
        lowest: Difference that the arm has to reach, at most 0.
        p_value: Of the permutation test, corrected; None where there was none.
        alpha: Significance level: the false alarm rate.
        blockers: Reasons not to ship, whatever the difference.
        warnings: What a reader has to know, and what does not affect the decision.

    Returns:
        The verdict; undecided without users to compare on.

    Raises:
        ValueError: `lowest` is above 0, or alpha is not between 0 and 1.

    Source: for non-inferiority, Schumi and Wittes, Trials 2011.
    """
    if lowest > 0 or not 0 < alpha < 1:
        raise ValueError(f"lowest is {lowest} and alpha {alpha}; expected at most 0, and between 0 and 1")
    said = f"{metric} {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    bound = f"{lowest:+.4f}" if lowest else "0"
    seen = () if p_value is None else (f"permutation test p = {p_value:.3g}",)
    if not difference.num_users:
        return Verdict("undecided", (f"no user has a figure of {metric} for both", *blockers, *warnings))
    if difference.high < lowest:
        return Verdict("do not ship", (f"worse: {said}, all of it below {bound}", *seen, *blockers, *warnings))
    if blockers:
        return Verdict("do not ship", (*blockers, said, *seen, *warnings))
    agrees = lowest < 0 or p_value is None or p_value < alpha
    if difference.low > lowest and agrees:
        how = "better" if lowest == 0 or difference.low > 0 else f"worse by no more than {-lowest:.4f}"
        return Verdict("ship", (f"{how}: {said}, all of it above {bound}", *seen, *warnings))
    if difference.low > lowest:
        why = f"better by the interval, {said}, but not by the permutation test, p = {p_value:.3g}"
        return Verdict("undecided", (why, *warnings))
    return Verdict("undecided", (f"no significant difference: {said} includes {bound}", *seen, *warnings))
