"""How do arms look beside A? Differences with their intervals, recall against list length and against latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.ab.outcomes import DESCRIPTIVE, arm_of, lowest_to_ship, slice_metric, slice_rows
from evaluation.ab.report import ABReport
from evaluation.drawing import LINES, TEXT, svg
from evaluation.plots import curves
from evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_LABEL = 28
_MARKERS = {"this process": "o", "HTTP": "s"}


@dataclass(frozen=True)
class _Row:
    """A line of a forest plot.

    Attributes:
        label: Of the group of rows that it belongs to.
        letter: Of the arm.
        interval: What is drawn.
        is_lost: Drawn as a cross.
    """

    label: str
    letter: str
    interval: Interval
    is_lost: bool = False


def difference_forest(report: ABReport, *, name: str) -> str:
    """The deciding metric of each arm less that of A; a dashed line where a margin is allowed.

    Args:
        report: The comparison.
        name: Distinguishes this drawing from the others of the page; letters and digits.

    Returns:
        An `<svg>` element.
    """
    rows = [
        _Row(_label(report, other.letter), other.letter, other.metrics[report.metric].interval)
        for other in report.comparisons
    ]
    return _forest(rows, f"{report.metric}, difference to A", name, bound=lowest_to_ship(report))


def metric_forest(report: ABReport, *, name: str) -> str:
    """All metrics of better and worse beside each other: differences in percent of A's figure, taken as fixed.

    Args:
        report: The comparison.
        name: As for `difference_forest`.

    Returns:
        An `<svg>` element; a metric of which A has nothing is left out.
    """
    of_a = {
        metric: at.mean
        for metric, at in arm_of(report, "A").metrics.items()
        if metric.partition("@")[0] not in DESCRIPTIVE and at.mean > 0
    }
    rows = [
        _Row(metric, other.letter, _in_percent(other.metrics[metric].interval, base))
        for metric, base in of_a.items()
        for other in report.comparisons
    ]
    return _forest(rows, "difference to A, % of A's figure", name, legend=_labels(report))


def slice_forest(report: ABReport, about: str, *, name: str) -> str:
    """Differences in recall to A within the groups of one partition; a cross where an arm loses beyond doubt.

    Args:
        report: The comparison.
        about: What divides.
        name: As for `difference_forest`.

    Returns:
        An `<svg>` element.
    """
    rows = [
        _Row(row.group, other.letter, row.difference.interval, row.outcome == "lost")
        for other in report.comparisons
        for row in slice_rows(report, other)
        if row.about == about
    ]
    return _forest(rows, f"{slice_metric(report)}, difference to A", name, legend=_labels(report))


def recall_by_length(report: ABReport, *, name: str) -> str:
    """Recall against the length of the list, a line an arm.

    Args:
        report: The comparison.
        name: As for `difference_forest`.

    Returns:
        An `<svg>` element.
    """
    return curves({_label(report, arm.letter): arm.recall_curve for arm in report.arms}, name=name)


def recall_by_latency(report: ABReport, *, name: str) -> str | None:
    """The deciding metric against the 99th percentile of latency, with a line from the median on.

    Args:
        report: The comparison.
        name: As for `difference_forest`.

    Returns:
        An `<svg>` element; None if no arm was timed.
    """
    timed = [(arm, arm.latency) for arm in report.arms if arm.latency]
    if not timed:
        return None
    from matplotlib.ticker import LogLocator, NullFormatter

    def paint(axes: Axes) -> None:
        for arm, latency in timed:
            at, colour = arm.metrics[report.metric], _colour(arm.letter)
            axes.plot([latency.median_ms, latency.p99_ms], [at.mean] * 2, color=colour, linewidth=1.2)
            axes.plot([latency.p99_ms] * 2, [at.low, at.high], color=colour, linewidth=1.2)
            label = f"{_label(report, arm.letter)}, {latency.over}"
            marker = _MARKERS[latency.over]
            axes.plot([latency.p99_ms], [at.mean], marker, color=colour, markersize=7, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("ms for a user's list: median to 99th percentile")
        axes.set_ylabel(report.metric)
        _legend_above(axes)

    return svg(paint, name, height_inches=3.4 + 0.1 * len(timed))


def _forest(
    rows: Sequence[_Row], heading: str, name: str, *, bound: float = 0.0, legend: dict[str, str] | None = None
) -> str:
    """Means with their intervals, rows of a label side by side, the first on top."""
    labels = list(dict.fromkeys(row.label for row in rows))
    letters = list(dict.fromkeys(row.letter for row in rows))
    # Where every label is an arm of its own, nothing stands beside it.
    beside = letters if legend else letters[:1]
    step = 0.7 / len(beside) if beside else 0.0

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=TEXT, linewidth=0.8)
        if bound:
            axes.axvline(bound, color=TEXT, linewidth=0.8, linestyle="--")
        for row in rows:
            at = float(labels.index(row.label))
            if legend:
                at += (letters.index(row.letter) - (len(letters) - 1) / 2) * step
            _interval(axes, row, at)
        if legend and len(letters) > 1:
            for letter in letters:
                axes.plot([], [], "o-", color=_colour(letter), label=legend[letter], markersize=5)
            _legend_above(axes)
        axes.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel(heading)
        axes.locator_params(axis="x", nbins=6)

    return svg(paint, name, height_inches=0.9 + len(labels) * max(0.32, 0.17 * len(beside)) + 0.1 * len(beside))


def _interval(axes: Axes, row: _Row, at: float) -> None:
    colour, interval = _colour(row.letter), row.interval
    axes.plot([interval.low, interval.high], [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
    marker, size = ("X", 9) if row.is_lost else ("o", 5)
    axes.plot([interval.mean], [at], marker, color=colour, markersize=size)


def _legend_above(axes: Axes) -> None:
    """Where it covers nothing, however many arms there are."""
    axes.legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _in_percent(interval: Interval, base: float) -> Interval:
    mean, low, high = (100 * value / base for value in (interval.mean, interval.low, interval.high))
    return Interval(mean, low, high, interval.num_users)


def _labels(report: ABReport) -> dict[str, str]:
    return {arm.letter: _label(report, arm.letter) for arm in report.arms}


def _label(report: ABReport, letter: str) -> str:
    return _shortened(f"{letter} ({arm_of(report, letter).name})")


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _colour(letter: str) -> str:
    return LINES[(ord(letter) - ord("A")) % len(LINES)]
