"""What does an ablation look like to people? Markdown for the documentation, tables for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.ablation import NDCG, RECALL, AblationReport, ArmRow, Cost, in_group
from evaluation.table import difference_text, figure

if TYPE_CHECKING:
    from rich.console import Console


COST_HEADINGS = ("index, MB", "build, s", "query p50 / p99, ms")


def markers(dataset: str) -> tuple[str, str]:
    """The lines between which the tables of a dataset stand in a Markdown file."""
    return f"<!-- ablations of {dataset}: begin -->", f"<!-- ablations of {dataset}: end -->"


def write_markdown(report: AblationReport, path: Path) -> None:
    """Puts the tables into a Markdown file, between the dataset's markers; what stands around them stays.

    A file without the markers gets them at its end, a file that does not exist is made.

    Args:
        report: The figures.
        path: The file.

    Raises:
        ValueError: The file has one of the markers, has them more than once, or in the wrong order.
    """
    begin, end = markers(report.dataset)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in text and end not in text:
        text = f"{text}\n{begin}\n{end}\n" if text else f"{begin}\n{end}\n"
    found = (text.count(begin), text.count(end))
    if found != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(f"{path}: has {found[0]} of {begin!r} and {found[1]} of {end!r}, expected one of each in turn")
    before, after = text[: text.index(begin)], text[text.index(end) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{begin}\n\n{to_markdown(report)}\n{after}", encoding="utf-8")


def to_markdown(report: AblationReport) -> str:
    """A headline, the table of arms and one of the slices for each way to divide users or items."""
    parts = [headline(report), _markdown(*arm_table(report))]
    for about in report.slices:
        parts += [f"Recall by {about}:", _markdown(*slice_table(report, about))]
    if report.failed:
        parts.append("\n".join(["Without figures:", "", *(f"- {arm}: {why}" for arm, why in report.failed.items())]))
    return "\n".join(f"{part}\n" for part in parts)


def print_ablation(report: AblationReport, console: Console) -> None:
    """Prints a headline, the table of arms and one of the slices for each way to divide users or items."""
    console.print(headline(report), markup=False, highlight=False)
    headings, rows = arm_table(report)
    # Notes are sentences; the file has them.
    _print(console, f"{report.dataset}: arms", headings[:-1], [row[:-1] for row in rows])
    for about in report.slices:
        _print(console, f"recall by {about}", *slice_table(report, about))


def headline(report: AblationReport) -> str:
    """What the figures are of."""
    cuts = ", ".join(report.cuts)
    seeds = f"seed {report.seeds[0]}" if len(report.seeds) == 1 else f"{len(report.seeds)} seeds"
    return (
        f"{report.dataset}: {report.window_days} days from {cuts} on, {seeds}; {report.num_users:,} users with "
        f"something new to find, {report.num_items:,} candidates, intervals of {report.level:.0%}."
    )


def arm_table(report: AblationReport) -> tuple[list[str], list[list[str]]]:
    """An arm a row: recall, its seeds, its paired difference, NDCG, training time, costs and what is different."""
    has_costs = any(arm.cost is not None for arm in report.arms)
    headings = [
        "arm",
        f"recall@{report.k}",
        "seeds",
        "difference",
        "to",
        f"NDCG@{report.k}",
        "training, s",
        *(COST_HEADINGS if has_costs else ()),
        "what is different",
    ]
    return headings, [_arm_cells(arm, has_costs=has_costs) for arm in report.arms]


def slice_table(report: AblationReport, about: str) -> tuple[list[str], list[list[str]]]:
    """An arm a row, a group a column: recall within it, with a star where the interval of the difference excludes 0."""
    names = report.slices[about]
    keys = [in_group(about, name) for name in names]
    counts = [report.arms[0].figures[key].num_users for key in keys]
    headings = [f"{name} ({count:,} users)" for name, count in zip(names, counts, strict=True)]
    return ["arm", *headings], [[arm.name, *(_slice_cell(arm, key) for key in keys)] for arm in report.arms]


def _arm_cells(arm: ArmRow, *, has_costs: bool) -> list[str]:
    seeds = arm.recall_by_seed
    return [
        arm.name,
        figure(arm.figures[RECALL].mean),
        f"{figure(min(seeds))}–{figure(max(seeds))}" if len(seeds) > 1 else "",
        difference_text(arm.differences[RECALL]) if arm.differences else "",
        arm.against or "",
        figure(arm.figures[NDCG].mean),
        "" if arm.training_seconds != arm.training_seconds else f"{arm.training_seconds:.0f}",
        *(_cost_cells(arm.cost) if has_costs else ()),
        arm.note,
    ]


def _cost_cells(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return ("", "", "")
    return (
        f"{cost.size_bytes / 1e6:.1f}",
        f"{cost.build_seconds:.1f}",
        f"{cost.median_ms:.2f} / {cost.p99_ms:.2f}",
    )


def _slice_cell(arm: ArmRow, name: str) -> str:
    difference = arm.differences.get(name)
    differs = difference is not None and (difference.low > 0 or difference.high < 0)
    return figure(arm.figures[name].mean) + ("*" if differs else "")


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """A bar would end the cell, a star begin emphasis, and a line break end the table."""
    return " ".join(cell.replace("|", "\\|").replace("*", "\\*").split())


def _print(console: Console, title: str, headings: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if place else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(table)
