"""How does a drawing get into a page? As SVG text, in the page's own text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("#2f7fd1", "#e08214", "#1b9e77", "#d6467a", "#8a63d2", "#a6761d", "#3fb8c9", "#8c8c8c")
DASHES = ("-", "--", ":")
# Stands for the page's text colour until the SVG is text.
TEXT = "#010203"
_WIDTH_INCHES = 6.4


def svg(paint: Callable[[Axes], None], name: str, height_inches: float) -> str:
    """A drawing as an element to put into a page.

    Args:
        paint: Draws on the axes; what has the colour `TEXT` gets the page's text colour.
        name: Distinguishes this drawing from the others of the page; letters and digits.
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
