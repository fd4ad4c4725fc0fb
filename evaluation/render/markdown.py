"""Tables of a comparison in Markdown, put between two lines of a file whose other text stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.render.table import ablation_columns, ablation_facts, slice_table
from evaluation.report import Report


def write_markdown(report: Report, path: Path) -> None:
    """Puts the tables of an ablation into a Markdown file, between the dataset's markers; the text around them stays.

    A file without the markers gets them at its end, a file that does not exist is made.

    Args:
        report: The figures.
        path: The file.

    Raises:
        ValueError: The file has one of the markers, has them more than once, or in the wrong order.
    """
    replace_between(path, *markers(report.dataset), to_markdown(report))


def replace_between(path: Path, begin: str, end: str, tables: str) -> None:
    """Puts tables between two lines of a Markdown file; the text around them stays.

    A file without the lines gets them at its end, a file that does not exist is made.

    Args:
        path: The file.
        begin: Line before the tables.
        end: Line after them.
        tables: Markdown.

    Raises:
        ValueError: The file has one of the lines, has them more than once, or in the wrong order.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in text and end not in text:
        text = f"{text}\n{begin}\n{end}\n" if text else f"{begin}\n{end}\n"
    found = (text.count(begin), text.count(end))
    if found != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(f"{path}: has {found[0]} of {begin!r} and {found[1]} of {end!r}, expected one of each in turn")
    before, after = text[: text.index(begin)], text[text.index(end) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{begin}\n\n{tables}\n{after}", encoding="utf-8")


def markers(dataset: str) -> tuple[str, str]:
    """The lines between which a Markdown file holds the tables of a dataset."""
    return f"<!-- ablations of {dataset}: begin -->", f"<!-- ablations of {dataset}: end -->"


def to_markdown(report: Report) -> str:
    """A headline, the table of arms, and one for each partition of users or items."""
    columns = ablation_columns(report)
    rows = [[column.cell(arm) for column in columns] for arm in report.arms]
    parts = [ablation_facts(report), markdown_table([column.heading for column in columns], rows)]
    for about in report.arms[0].slices:
        parts += [f"Recall by {about}:", markdown_table(*slice_table(report, about))]
    if report.failed:
        parts.append("\n".join(["Without figures:", "", *(f"- {arm}: {why}" for arm, why in report.failed.items())]))
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    return "\n".join(f"{part}\n" for part in parts)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown.

    Args:
        headings: Of the columns.
        rows: Their cells, as many in each row.
    """
    lines = [[*headings], ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """A bar would end the cell, a star begin emphasis, and a line break end the table."""
    return " ".join(cell.replace("|", "\\|").replace("*", "\\*").split())
