"""What does the report look like in a browser? One file, nothing fetched, plots drawn in as SVG."""

from __future__ import annotations

from evaluation.page import render
from evaluation.plots import recall_bars, recall_curves
from evaluation.report import Layer, Report

_LAYERS: dict[Layer, str] = {
    "exact": "exact search over all items: what the model itself is worth",
    "index": "an approximate index over the same vectors: what the index loses",
    "server": "the running server, asked like any client",
    "baseline": "no model: what it has to beat",
}


def to_html(report: Report) -> str:
    """The report as one self-contained HTML document.

    Args:
        report: The figures.

    Returns:
        HTML text; names in it are escaped.
    """
    used = {arm.layer for result in report.tasks for arm in result.arms}
    return render(
        "report.html.j2",
        report=report,
        metric_names=list(report.tasks[0].arms[0].metrics),
        layers={name: meaning for name, meaning in _LAYERS.items() if name in used},
        plots=[
            (recall_bars(result, max(report.ks), name=f"bars{place}"), recall_curves(result, name=f"curves{place}"))
            for place, result in enumerate(report.tasks)
        ],
    )
