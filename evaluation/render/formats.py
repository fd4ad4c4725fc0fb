"""How figures are written: four decimals, signs, p-values, durations, counts."""

from __future__ import annotations

import math

from evaluation.report import Problem
from evaluation.statistics import Interval


def figure(value: float) -> str:
    """Four decimals, without the leading zero; a dash where there is no figure."""
    if math.isnan(value):
        return "-"
    sign = "-" if value < 0 else ""
    return sign + f"{abs(value):.4f}".removeprefix("0")


def signed(value: float) -> str:
    """A figure with its sign, such as `+.0121`."""
    return figure(value) if math.isnan(value) or value < 0 else f"+{figure(value)}"


def interval_text(interval: Interval) -> str:
    """Mean and interval, such as `.0786 [.0743, .0829]`."""
    return f"{figure(interval.mean)} [{figure(interval.low)}, {figure(interval.high)}]"


def difference_text(interval: Interval) -> str:
    """Mean difference with its sign and interval, such as `+.0121 [+.0090, +.0153]`."""
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"


def p_text(value: float) -> str:
    """Two digits, such as `.012`; `<.0001` below that; a dash where there was no test."""
    if math.isnan(value):
        return "-"
    return "<.0001" if value < 0.0001 else f"{value:.2g}".removeprefix("0")


def count_text(value: float) -> str:
    """A whole number with its thousands set off; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """A duration with about three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def rows_text(problem: Problem) -> str:
    """The first places of a problem, such as `rows 3, 8, ...`."""
    if not problem.rows:
        return ""
    more = ", ..." if problem.count > len(problem.rows) else ""
    return f"row{'s' if problem.count > 1 else ''} {', '.join(f'{row:,}' for row in problem.rows)}{more}"
