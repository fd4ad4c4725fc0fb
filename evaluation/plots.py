"""How do the arms' recalls look side by side? SVG text to put into a page, in the page's own text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evaluation.report import Layer, TaskResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: dict[Layer, str] = {"exact": "#2f7fd1", "index": "#8a63d2", "server": "#1b9e77", "baseline": "#8c8c8c"}
_LINES = ("#2f7fd1", "#e08214", "#1b9e77", "#d6467a", "#8a63d2", "#a6761d", "#3fb8c9", "#8c8c8c")
_DASHES = ("-", "--", ":")
# Stands for the page's text colour until the SVG is text.
_TEXT = "#010203"
_WIDTH_INCHES = 6.4


def recall_bars(result: TaskResult, k: int, *, name: str) -> str:
    """Recall@k of each arm with its interval, coloured by layer.

    Args:
        result: The task.
        k: One of the report's ks.
        name: Distinguishes this drawing from the others of the page; letters and digits.

    Returns:
        An `<svg>` element.
    """
    arms = result.arms[::-1]
    shown = [arm.metrics[f"recall@{k}"] for arm in arms]
    means = [at.mean for at in shown]

    def paint(axes: Axes) -> None:
        places = range(len(arms))
        axes.barh(places, means, color=[_COLOURS[arm.layer] for arm in arms], height=0.6)
        sides = [[at.mean - at.low for at in shown], [at.high - at.mean for at in shown]]
        axes.errorbar(means, places, xerr=sides, fmt="none", ecolor=_TEXT, capsize=3, linewidth=1)
        axes.set_yticks(places, [arm.name for arm in arms])
        axes.set_xlim(left=0)
        axes.set_xlabel(f"recall@{k}")

    return _svg(paint, name, height_inches=0.9 + 0.36 * len(arms))


def recall_curves(result: TaskResult, *, name: str) -> str:
    """Recall against the length of the list, a line an arm.

    Args:
        result: The task.
        name: As for `recall_bars`.

    Returns:
        An `<svg>` element.
    """

    def paint(axes: Axes) -> None:
        for place, arm in enumerate(result.arms):
            axes.plot(
                range(1, len(arm.recall_curve) + 1),
                arm.recall_curve,
                label=arm.name,
                color=_LINES[place % len(_LINES)],
                linestyle=_DASHES[place // len(_LINES) % len(_DASHES)],
                linewidth=1.6,
            )
        axes.set_xlabel("k, items retrieved")
        axes.set_ylabel("recall@k")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False, labelcolor=_TEXT)

    return _svg(paint, name, height_inches=3.6)


def _svg(paint: Callable[[Axes], None], name: str, height_inches: float) -> str:
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
    text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
    # Several drawings share a page, where ids must be distinct.
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_TEXT)
    axes.tick_params(colors=_TEXT)
    axes.xaxis.label.set_color(_TEXT)
    axes.yaxis.label.set_color(_TEXT)
