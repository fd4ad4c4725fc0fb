"""How do the arms' recalls look side by side? SVG text to put into a page, in the page's own text colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evaluation.drawing import DASHES, LINES, TEXT, svg
from evaluation.report import Layer, TaskResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: dict[Layer, str] = {"exact": "#2f7fd1", "index": "#8a63d2", "server": "#1b9e77", "baseline": "#8c8c8c"}


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
        axes.errorbar(means, places, xerr=sides, fmt="none", ecolor=TEXT, capsize=3, linewidth=1)
        axes.set_yticks(places, [arm.name for arm in arms])
        axes.set_xlim(left=0)
        axes.set_xlabel(f"recall@{k}")

    return svg(paint, name, height_inches=0.9 + 0.36 * len(arms))


def recall_curves(result: TaskResult, *, name: str) -> str:
    """Recall against the length of the list, a line an arm.

    Args:
        result: The task.
        name: As for `recall_bars`.

    Returns:
        An `<svg>` element.
    """
    return curves({arm.name: arm.recall_curve for arm in result.arms}, name=name)


def curves(of_arms: Mapping[str, tuple[float, ...]], *, name: str) -> str:
    """Recall against the length of the list.

    Args:
        of_arms: What the legend calls an arm -> mean recall@k for k = 1..K.
        name: As for `recall_bars`.

    Returns:
        An `<svg>` element.
    """

    def paint(axes: Axes) -> None:
        for place, (label, curve) in enumerate(of_arms.items()):
            axes.plot(
                range(1, len(curve) + 1),
                curve,
                label=label,
                color=LINES[place % len(LINES)],
                linestyle=DASHES[place // len(LINES) % len(DASHES)],
                linewidth=1.6,
            )
        axes.set_xlabel("k, items retrieved")
        axes.set_ylabel("recall@k")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False, labelcolor=TEXT)

    return svg(paint, name, height_inches=3.6)
