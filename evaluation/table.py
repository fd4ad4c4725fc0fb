"""What does the report look like on a terminal? 100 columns are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.report import ArmResult, Report, TaskResult
from evaluation.statistics import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_report(report: Report, console: Console) -> None:
    """Prints a headline and a table for each task.

    Args:
        report: The figures.
        console: A rich console.
    """
    console.print(
        f"{report.dataset}: cut {report.cut}, the {report.window_days} days after it, read once; "
        f"{report.num_users:,} users, {report.num_items:,} items, intervals of {report.level:.0%}",
        markup=False,
        highlight=False,
    )
    for result in report.tasks:
        console.print()
        console.print(task_table(report, result))


def task_table(report: Report, result: TaskResult) -> Table:
    """One task: an arm a row, recall at every k, at the largest one with its interval; ndcg, mrr and coverage.

    Args:
        report: Gives the ks.
        result: The task.

    Returns:
        A rich table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    largest = max(report.ks)
    title = f"{result.task}: {result.num_users:,} users with something relevant"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("arm", no_wrap=True)
    table.add_column("layer")
    headings = [*(f"recall\n@{k}" for k in report.ks), f"ndcg\n@{largest}", "mrr", f"cover\n@{largest}"]
    for heading in [*headings, f"recall@{largest}\nover {result.reference or 'reference'}"]:
        table.add_column(Text(heading), justify="right")
    for arm in result.arms:
        table.add_row(*(Text(cell) for cell in _cells(arm, report.ks)))
    return table


def figure(value: float) -> str:
    """Four decimals, without the leading zero; a dash where there is no figure."""
    if value != value:
        return "-"
    sign = "-" if value < 0 else ""
    return sign + f"{abs(value):.4f}".removeprefix("0")


def interval_text(interval: Interval) -> str:
    """Mean and interval in a cell, such as `.0786 [.0743, .0829]`."""
    return f"{figure(interval.mean)} [{figure(interval.low)}, {figure(interval.high)}]"


def difference_text(interval: Interval) -> str:
    """Mean difference with its sign and interval, such as `+.0121 [+.0090, +.0153]`."""
    mean, low, high = (
        figure(value) if value != value or value < 0 else f"+{figure(value)}"
        for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} [{low}, {high}]"


def _cells(arm: ArmResult, ks: tuple[int, ...]) -> list[str]:
    largest = max(ks)
    recalls = [
        _two_lines(interval_text(arm.metrics[f"recall@{k}"]))
        if k == largest
        else figure(arm.metrics[f"recall@{k}"].mean)
        for k in ks
    ]
    difference = arm.differences.get(f"recall@{largest}")
    return [
        arm.name,
        arm.layer,
        *recalls,
        figure(arm.metrics[f"ndcg@{largest}"].mean),
        figure(arm.metrics["mrr"].mean),
        f"{arm.coverage[largest]:.2%}",
        "" if difference is None else _two_lines(difference_text(difference)),
    ]


def _two_lines(interval: str) -> str:
    """The interval below its mean."""
    return interval.replace(" [", "\n[")
