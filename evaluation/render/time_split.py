"""Tables of a time-split benchmark: one for each data set and task, and a summary of all, for people and programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.render.formats import difference_text, figure
from evaluation.render.markdown import markdown_table
from evaluation.render.table import daily_columns, facts, print_rows
from evaluation.report import Report
from evaluation.statistics import Interval

if TYPE_CHECKING:
    from rich.console import Console

BEGIN, END = "<!-- time-split benchmarks: begin -->", "<!-- time-split benchmarks: end -->"
DEFAULTS, TUNED = "defaults", "tuned"
"""Settings: those of the product, and those of a file next to a configuration."""


@dataclass(frozen=True)
class Outcome:
    """What came out for one data set, task and group of settings.

    Attributes:
        dataset: Name of the data set.
        task: In its words.
        settings: `defaults`, the product's, or `tuned`.
        num_users: With something relevant.
        metric: That of all figures, such as `recall@100`.
        learned: Of the learned towers alone.
        served: Of what is served by default.
        ease: Of EASE.
        best_name: The best baseline by this metric, the oracle apart.
        best: Its figure.
        learned_over_ease: Paired difference.
        served_over_best: The same.
        oracle: On a world, the mean of its oracle; None elsewhere.
    """

    dataset: str
    task: str
    settings: str
    num_users: int
    metric: str
    learned: Interval
    served: Interval
    ease: Interval
    best_name: str
    best: Interval
    learned_over_ease: Interval
    served_over_best: Interval
    oracle: float | None


@dataclass(frozen=True)
class Measured:
    """A data set.

    Attributes:
        dataset: Its name.
        reports: One for each task, every arm compared with EASE.
        outcomes: Rows of the summary.
    """

    dataset: str
    reports: tuple[Report, ...]
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Benchmark:
    """All data sets.

    Attributes:
        command: What made it.
        data_sets: Those with figures.
        failed: Data set -> why it has none.
    """

    command: str
    data_sets: tuple[Measured, ...]
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


def print_summary(found: Benchmark, console: Console) -> None:
    """Prints the row of every data set, task and group of settings.

    Args:
        found: The figures.
        console: A rich console.
    """
    headings, rows = summary(found)
    print_rows(console, "summary", headings, rows, num_text=2, ranks=[0, 0, 5, 2, 0, 4, 3, 6, 0, 7])


def summary(found: Benchmark) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table over all data sets."""
    headings = [
        "data set", "task", "users", "learned\nalone", "learned alone\nover EASE", "EASE", "served", "best\nbaseline",
        "served over\nthe best baseline", "served, of\nthe oracle",
    ]  # fmt: skip
    rows = [
        [
            one.dataset if one.settings == DEFAULTS else f"{one.dataset}, {one.settings}",
            one.task,
            f"{one.num_users:,}",
            figure(one.learned.mean),
            difference_text(one.learned_over_ease).replace(" [", "\n["),
            figure(one.ease.mean),
            figure(one.served.mean),
            f"{figure(one.best.mean)}\n{one.best_name}",
            difference_text(one.served_over_best).replace(" [", "\n["),
            f"{one.served.mean / one.oracle:.1%}" if one.oracle else "",
        ]
        for measured in found.data_sets
        for one in measured.outcomes
    ]
    return headings, rows


def to_markdown(found: Benchmark) -> str:
    """The command, the summary, and of each data set a table for each task and what else is to be known."""
    headings, rows = summary(found)
    metrics = sorted({one.metric for measured in found.data_sets for one in measured.outcomes})
    parts = [f"    {found.command}", f"Summary, {' and '.join(metrics)}:", _table(headings, rows)]
    if found.failed:
        parts.append("\n".join(["Without figures:", "", *(f"- {name}: {why}" for name, why in found.failed.items())]))
    for measured in found.data_sets:
        parts.append(f"### {measured.dataset}")
        for report in measured.reports:
            columns = daily_columns(report)
            cells = [[column.cell(arm) for column in columns] for arm in report.arms]
            parts += [facts(report), _table([column.heading for column in columns], cells)]
        parts.append("\n".join(f"- {note}" for note in measured.reports[0].notes))
    return "\n".join(f"{part}\n" for part in parts)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([heading.replace("\n@", "@") for heading in headings], rows)
