"""Where does a report end up? Two files in a folder, one for programs and one for people."""

from __future__ import annotations

from pathlib import Path

from evaluation.html import to_html
from evaluation.report import Report, to_json


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes `report.json` and the self-contained `report.html` into a folder, which is made if need be.

    Args:
        report: The figures.
        folder: Where to.

    Returns:
        The two paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    json_path, html_path = folder / "report.json", folder / "report.html"
    json_path.write_text(to_json(report), encoding="utf-8")
    html_path.write_text(to_html(report), encoding="utf-8")
    return json_path, html_path
