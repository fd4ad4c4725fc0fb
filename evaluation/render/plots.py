"""Plots of a comparison as SVG: differences with their intervals, recall by arm, list length and latency.

Every plot takes a `name`, letters and digits, of which a page has each once, and gives an `<svg>` element in the page's
own text colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.learning_curves import Curve
from evaluation.render.headline import DESCRIPTIVE, lowest_to_ship, slice_rows
from evaluation.report import Layer, Report
from evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("#2f7fd1", "#e08214", "#1b9e77", "#d6467a", "#8a63d2", "#a6761d", "#3fb8c9", "#8c8c8c")
DASHES = ("-", "--", ":")
# Replaced by the page's text colour once the SVG is text.
TEXT = "#010203"
_WIDTH_INCHES = 6.4
_LONGEST_LABEL = 28
_MARKERS = {"this process": "o", "HTTP": "s"}
_LAYER_COLOURS: dict[Layer | None, str] = {
    "exact": "#2f7fd1",
    "index": "#8a63d2",
    "server": "#1b9e77",
    "baseline": "#8c8c8c",
    "file": "#a6761d",
}


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


def difference_forest(report: Report, *, name: str) -> str:
    """The deciding metric of each arm less that of its reference; a dashed line where a margin is allowed."""
    rows = [
        _Row(_label(report, other.letter), other.letter, other.metrics[report.metric].interval)
        for other in report.comparisons
    ]
    return _forest(rows, f"{report.metric}, difference to {report.references[0]}", name, bound=lowest_to_ship(report))


def metric_forest(report: Report, *, name: str) -> str:
    """All metrics that are better or worse: differences in percent of the reference arm's figure, taken as fixed.

    A metric of which the reference arm has nothing is left out.
    """
    of_reference = {
        metric: at.mean
        for metric, at in report.arm(report.references[0]).metrics.items()
        if metric.partition("@")[0] not in DESCRIPTIVE and at.mean > 0
    }
    rows = [
        _Row(metric, other.letter, _in_percent(other.metrics[metric].interval, base))
        for metric, base in of_reference.items()
        for other in report.comparisons
    ]
    return _forest(rows, f"difference to {report.references[0]}, % of its figure", name, legend=_labels(report))


def slice_forest(report: Report, about: str, *, name: str) -> str:
    """Differences in recall within the groups of one partition; a cross where an arm is significantly worse."""
    rows = [
        _Row(row.group, other.letter, row.difference.interval, row.outcome == "lost")
        for other in report.comparisons
        for row in slice_rows(report, other)
        if row.about == about
    ]
    return _forest(rows, f"{report.slice_metric}, difference to {report.references[0]}", name, legend=_labels(report))


def recall_bars(report: Report, *, name: str) -> str:
    """The deciding metric of each arm with its interval, coloured by layer."""
    arms = report.arms[::-1]
    shown = [arm.metrics[report.metric] for arm in arms]
    means = [at.mean for at in shown]

    def paint(axes: Axes) -> None:
        places = range(len(arms))
        axes.barh(places, means, color=[_LAYER_COLOURS.get(arm.layer, TEXT) for arm in arms], height=0.6)
        sides = [[at.mean - at.low for at in shown], [at.high - at.mean for at in shown]]
        axes.errorbar(means, places, xerr=sides, fmt="none", ecolor=TEXT, capsize=3, linewidth=1)
        axes.set_yticks(places, [arm.name for arm in arms])
        axes.set_xlim(left=0)
        axes.set_xlabel(report.metric)

    return svg(paint, name, height_inches=0.9 + 0.36 * len(arms))


def recall_by_length(report: Report, *, name: str) -> str:
    """Mean recall@k against k, the length of the list, a line an arm."""

    def paint(axes: Axes) -> None:
        for place, arm in enumerate(report.arms):
            axes.plot(
                range(1, len(arm.recall_curve) + 1),
                arm.recall_curve,
                label=_label(report, arm.letter),
                color=LINES[place % len(LINES)],
                linestyle=DASHES[place // len(LINES) % len(DASHES)],
                linewidth=1.6,
            )
        axes.set_xlabel("k, items retrieved")
        axes.set_ylabel("recall@k")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False, labelcolor=TEXT)

    return svg(paint, name, height_inches=3.6)


def learning_curves(curves: Sequence[Curve], label: str, *, name: str) -> str:
    """A figure against the epoch, a line a fit, with a dot on the epoch that was kept."""
    from matplotlib.ticker import MaxNLocator

    def paint(axes: Axes) -> None:
        for place, curve in enumerate(curves):
            numbers = range(1, len(curve.values) + 1)
            axes.plot(numbers, curve.values, label=curve.phase, color=LINES[place], linewidth=1.6)
            axes.plot([curve.kept], [curve.values[curve.kept - 1]], "o", color=LINES[place], markersize=6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        _legend_above(axes)

    return svg(paint, name, height_inches=2.8)


def recall_by_latency(report: Report, *, name: str) -> str | None:
    """The deciding metric against latency, a line from median to 99th percentile; None if no arm was timed."""
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
    # Where every label is an arm of its own, each has a line to itself.
    abreast = letters if legend else letters[:1]
    step = 0.7 / len(abreast) if abreast else 0.0

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

    return svg(paint, name, height_inches=0.9 + len(labels) * max(0.32, 0.17 * len(abreast)) + 0.1 * len(abreast))


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


def _labels(report: Report) -> dict[str, str]:
    return {arm.letter: _label(report, arm.letter) for arm in report.arms}


def _label(report: Report, letter: str) -> str:
    return _shortened(f"{letter} ({report.arm(letter).name})")


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def _colour(letter: str) -> str:
    return LINES[(ord(letter[-1]) - ord("A")) % len(LINES)]


def svg(paint: Callable[[Axes], None], name: str, height_inches: float) -> str:
    """A drawing as an element to put into a page.

    Args:
        paint: Draws on the axes; what has the colour `TEXT` gets the page's text colour.
        name: Of the drawing, for ids that are distinct on the page.
        height_inches: Of the drawing, which fills the width that there is.

    Returns:
        An `<svg>` element.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Without mathematics a dollar sign in an arm's name is a dollar sign.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}
    out = io.StringIO()
    with matplotlib.rc_context(settings):
        drawn = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        axes = drawn.subplots()
        paint(axes)
        _plain(axes)
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawn.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(TEXT, "currentColor")
    # Several drawings share a page, where ids must be distinct.
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(TEXT)
    axes.tick_params(colors=TEXT)
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)
