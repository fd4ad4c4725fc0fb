"""What does a comparison of arms look like in a browser? One file, nothing fetched, plots drawn in as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.ab.glossary import ESTIMATORS, LAYERS, PROTOCOLS, meanings
from evaluation.ab.headline import best_challenger, headline, other_lines, p_text
from evaluation.ab.outcomes import SliceRow, arm_of, outcome, slice_metric, slice_rows
from evaluation.ab.plots import difference_forest, metric_forest, recall_by_latency, recall_by_length, slice_forest
from evaluation.ab.report import ABReport
from evaluation.ab.table import count_text, milliseconds, problems, rows_text
from evaluation.page import render
from evaluation.statistics import Interval
from evaluation.verdict import Decision

_COLOURS = {"won": "good", "lost": "bad", "open": ""}
_BADGES: dict[Decision, str] = {"ship": "good", "do not ship": "bad", "undecided": "open"}


def to_html(report: ABReport) -> str:
    """A comparison as one self-contained HTML document.

    Args:
        report: The figures.

    Returns:
        HTML text; names in it are escaped.
    """
    best = best_challenger(report)
    estimators = {row.estimator for row in report.off_policy}
    layers = {layer for check in report.layers for layer in (check.upper, check.lower)}
    return render(
        "ab.html.j2",
        filters={"p": p_text, "ms": milliseconds, "rows": rows_text, "count": count_text},
        report=report,
        headline=headline(report),
        others=other_lines(report),
        best=best,
        badges=_BADGES,
        colours=_COLOURS,
        plots=_plots(report),
        colour=lambda name, found: _COLOURS[outcome(name, found, alpha=report.alpha)],
        partitions=_partitions(report),
        slice_metric=slice_metric(report),
        a=arm_of(report, "A"),
        problems=problems(report),
        protocol=PROTOCOLS[report.protocol],
        meanings=meanings(report),
        layers={name: meaning for name, meaning in LAYERS.items() if name in layers},
        estimators={name: meaning for name, meaning in ESTIMATORS.items() if name in estimators},
    )


@dataclass(frozen=True)
class _Group:
    """One row of a table of slices.

    Attributes:
        name: Of the group.
        of_a: Recall of A in it.
        rows: Of every other arm, in order.
    """

    name: str
    of_a: Interval
    rows: tuple[SliceRow, ...]


@dataclass(frozen=True)
class _Partition:
    """What divides, its drawing, and its groups."""

    about: str
    drawing: str
    groups: tuple[_Group, ...]


def _partitions(report: ABReport) -> list[_Partition]:
    of_arms = [list(slice_rows(report, other)) for other in report.comparisons]
    found: dict[str, list[_Group]] = {}
    for rows in zip(*of_arms, strict=True):
        found.setdefault(rows[0].about, []).append(_Group(rows[0].group, rows[0].of_a, rows))
    return [
        _Partition(about, slice_forest(report, about, name=f"slices{place}"), tuple(groups))
        for place, (about, groups) in enumerate(found.items())
    ]


def _plots(report: ABReport) -> list[tuple[str, str]]:
    """What a drawing shows, in words, and the drawing."""
    by_latency = recall_by_latency(report, name="latency")
    return [
        (f"{report.metric}: difference of each arm to A, with intervals", difference_forest(report, name="main")),
        ("recall against the number of items retrieved, by arm", recall_by_length(report, name="curves")),
        *([(f"{report.metric} against latency, by arm", by_latency)] if by_latency else []),
        ("all metrics: differences to A in percent of A's figure, with intervals", metric_forest(report, name="all")),
    ]
