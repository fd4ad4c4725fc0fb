"""The HTML page of a comparison, and the files of a report: one page that fetches nothing, JSON, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from artefacts.files import json_text, json_value
from evaluation.learning_curves import Epochs, curves_of
from evaluation.render import html, plots
from evaluation.render import tuning as trials
from evaluation.render.headline import (
    SliceRow,
    best_challenger,
    headline,
    other_lines,
    outcome,
    slice_rows,
    verdict_document,
)
from evaluation.render.table import print_daily, problems
from evaluation.report import Difference, Layer, Protocol, Report, to_json
from evaluation.statistics import Decision, Interval
from evaluation.tuning import Tuning
from features.schema import in_words_of

JSON, PAGE, VERDICT = "ab.json", "ab.html", "verdict.json"
DAILY_JSON, DAILY_PAGE, TABLE = "report.json", "report.html", "table.txt"
TABLE_WIDTH = 80
_COLOURS = {"won": "good", "lost": "bad", "open": ""}
_BADGES: dict[Decision, str] = {"ship": "good", "do not ship": "bad", "undecided": "open"}

PROTOCOLS: Final[dict[Protocol, str]] = {
    "after-cut": "Everything before a cut is known to every arm; what happens in the window after it is to be found.",
    "rolling": "Several cuts, one after the other: before each, every arm is made again of what was known then. A user "
    "counts once, with the mean over the windows that have a figure.",
    "leave-last-out": "The last item of each user is to be found from all that came before it.",
    "given": "What was known and what is to be found were given with the comparison.",
}
LAYERS: Final[dict[Layer, str]] = {
    "exact": "exact search over all items: what the model itself is worth",
    "index": "an approximate index over the same vectors: what the index loses",
    "server": "the running server, asked like any client",
    "baseline": "no model: what it has to beat",
    "file": "lists of another system, read from a file",
}
ESTIMATORS: Final = {
    "IPS": "inverse propensity scoring: each logged reward counts as often as the arm would have shown the item, over "
    "how often it was shown; right on average, wide where the log seldom shows what the arm would",
    "SNIPS": "the same, over the sum of the weights instead of the number of rows: narrower, for a small bias",
    "doubly robust": "a model of rewards, corrected by IPS where it errs: right on average if either of them is",
}
METRICS: Final = {
    "recall": "hits among the first k, over all that is relevant to the user (more than k included)",
    "ndcg": "hits weighted by 1 / log2(place + 1), over the best possible list of min(k, relevant) items",
    "hit_rate": "share of users with at least one hit among the first k",
    "precision": "hits among the first k, over k",
    "mrr": "mean of 1 / place of the first hit, 0 without one in the list",
    "value_recall": "what the hits among the first k are worth, over what all relevant items are worth",
    "novelty": "how seldom the listed items are bought: mean of -log2 of an item's share of the events before the cut; "
    "describes lists, and is neither better nor worse",
    "diversity": "share of the pairs of listed items that are of different categories; describes lists",
    "families": "how many different families the first k items are of; describes lists",
    "head_share": "share of the listed items that are among the most popular ones, which have a third of all events; "
    "describes lists",
    "coverage": "share of the catalogue that is among anyone's first k",
    "gini": "how unevenly items are listed: 0 where all are alike, towards 1 where all lists hold the same few",
}


def write_comparison(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes `ab.json`, the self-contained `ab.html` and `verdict.json` into a folder, which is made if need be.

    Args:
        report: The figures.
        folder: Where to.

    Returns:
        The paths of the first two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    json_path, html_path = folder / JSON, folder / PAGE
    json_path.write_text(to_json(report), encoding="utf-8")
    html_path.write_text(comparison_page(report), encoding="utf-8")
    verdict = json_text(verdict_document(report), indent=1)
    (folder / VERDICT).write_text(verdict, encoding="utf-8")
    return json_path, html_path


def write_daily(
    reports: Sequence[Report], folder: Path, *, epochs: Epochs, tuning: Tuning | None = None
) -> tuple[Path, Path]:
    """Writes `report.json`, the self-contained `report.html` and `table.txt` into a folder, which is made if need be.

    Args:
        reports: Of one cut, one for each task; `tasks` of the JSON.
        folder: Where to.
        epochs: Of the fit that is evaluated; `epochs` of the JSON, and learning curves on the page.
        tuning: Trials of settings, for the page; None where there were none.

    Returns:
        The paths of the first two.
    """
    from rich.console import Console

    folder.mkdir(parents=True, exist_ok=True)
    json_path, html_path = folder / DAILY_JSON, folder / DAILY_PAGE
    json_path.write_text(daily_json(reports, epochs=epochs), encoding="utf-8")
    html_path.write_text(daily_page(reports, epochs=epochs, tuning=tuning), encoding="utf-8")
    with (folder / TABLE).open("w", encoding="utf-8") as file:
        print_daily(reports, Console(file=file, width=TABLE_WIDTH))
    return json_path, html_path


def daily_json(reports: Sequence[Report], *, epochs: Epochs) -> str:
    """The daily report as JSON: dataset, cut, under `tasks` a report for each task, under `epochs` those of the fit."""
    tasks = [json_value(to_json(report)) for report in reports]
    document = {"dataset": reports[0].dataset, "cut": reports[0].cuts[0], "tasks": tasks, "epochs": epochs}
    return json_text(document, indent=1)


def comparison_page(report: Report) -> str:
    """The page of `twinspire ab`: the verdict first, then everything that speaks for and against it.

    Args:
        report: The figures; all arms have one reference arm.

    Returns:
        HTML text; names in it are escaped.
    """
    drawings = [
        (f"{report.metric}: difference of each arm, with intervals", plots.difference_forest(report, name="main")),
        ("recall against the number of items retrieved, by arm", plots.recall_by_length(report, name="curves")),
        ("all metrics: differences in percent, with intervals", plots.metric_forest(report, name="all")),
    ]
    by_latency = plots.recall_by_latency(report, name="latency")
    if by_latency:
        drawings.insert(2, (f"{report.metric} against latency, by arm", by_latency))
    best = best_challenger(report)
    return _render(
        [report],
        [drawings],
        title=f"{report.dataset}: comparison of arms by {report.metric}",
        heading=f"{report.dataset}: may another arm replace {report.arms[0].letter}?",
        headline=headline(report),
        others=other_lines(report),
        best=best,
        partitions=_partitions(report),
        curves=[],
        tuning=None,
    )


def daily_page(reports: Sequence[Report], *, epochs: Epochs, tuning: Tuning | None = None) -> str:
    """The page of the daily report: a section for each task, then the learning curves, then what was tuned.

    Args:
        reports: Of one cut, one for each task.
        epochs: Of the fit that is evaluated.
        tuning: Trials of settings; None where there were none.

    Returns:
        HTML text; names in it are escaped.
    """
    first = reports[0]
    drawings = [
        [
            (f"{report.metric} by arm, with intervals", plots.recall_bars(report, name=f"bars{place}")),
            (
                "recall against the number of items retrieved, by arm",
                plots.recall_by_length(report, name=f"curves{place}"),
            ),
        ]
        for place, report in enumerate(reports)
    ]
    return _render(
        reports,
        drawings,
        title=f"{first.dataset}: retrieval report, cut {first.cuts[0][:10]}",
        heading=f"{first.dataset}: which arm retrieves better?",
        headline=None,
        curves=_learning_curves(epochs, k=max(first.ks)),
        tuning=None if tuning is None else trials.of_page(tuning),
    )


def _learning_curves(epochs: Epochs, *, k: int) -> list[tuple[str, str]]:
    """Loss, recall and coverage by epoch: what a drawing shows, and the drawing."""
    figures = {"loss": "loss", f"recall_at_{k}": f"recall@{k}", "distinct_items": "distinct items in the top lists"}
    found = {label: curves_of(epochs, figure) for figure, label in figures.items()}
    return [
        (f"{label} by epoch", plots.learning_curves(curves, label, name=f"epochs{place}"))
        for place, (label, curves) in enumerate(found.items())
        if curves
    ]


@dataclass(frozen=True)
class _Group:
    """One row of a table of slices.

    Attributes:
        name: Of the group.
        of_reference: Recall of the reference arm in it.
        rows: Of every other arm, in order.
    """

    name: str
    of_reference: Interval
    rows: tuple[SliceRow, ...]


@dataclass(frozen=True)
class _Partition:
    """A partition, its drawing, and its groups."""

    about: str
    drawing: str
    groups: tuple[_Group, ...]


def _partitions(report: Report) -> list[_Partition]:
    of_arms = [list(slice_rows(report, other)) for other in report.comparisons]
    found: dict[str, list[_Group]] = {}
    for rows in zip(*of_arms, strict=True):
        found.setdefault(rows[0].about, []).append(_Group(rows[0].group, rows[0].of_reference, rows))
    return [
        _Partition(about, plots.slice_forest(report, about, name=f"slices{place}"), tuple(groups))
        for place, (about, groups) in enumerate(found.items())
    ]


def _render(reports: Sequence[Report], drawings: Sequence[Sequence[tuple[str, str]]], **values: Any) -> str:
    layers = {arm.layer for report in reports for arm in report.arms}
    layers |= {layer for report in reports for check in report.layers for layer in (check.upper, check.lower)}
    estimators = {row.estimator for report in reports for row in report.off_policy}
    return html.template("page.html.j2").render(
        reports=reports,
        plots=drawings,
        badges=_BADGES,
        colours=_COLOURS,
        colour=_colour,
        problems=problems(reports[0]),
        protocol=PROTOCOLS[reports[0].protocol],
        meanings=_meanings(reports[0]),
        layers={name: meaning for name, meaning in LAYERS.items() if name in layers},
        estimators={name: meaning for name, meaning in ESTIMATORS.items() if name in estimators},
        **values,
    )


def _colour(report: Report, name: str, found: Difference) -> str:
    return _COLOURS[outcome(name, found, alpha=report.alpha)]


def _meanings(report: Report) -> dict[str, str]:
    """What the metrics of a report are, in its order: such as `recall@k` -> words."""
    names = [name.partition("@") for name in (*report.arms[0].metrics, *report.arms[0].lists)]
    found = {name + (f"{at}k" if at else ""): METRICS.get(name) for name, at, _ in names}
    return {name: in_words_of(report.event_name, meaning) for name, meaning in found.items() if meaning}
