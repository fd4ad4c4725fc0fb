"""Where does a comparison of arms end up? A page for people, all figures and a short verdict for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluation.ab.headline import best_challenger, headline, winner
from evaluation.ab.html import to_html
from evaluation.ab.report import ABReport, Comparison
from evaluation.report import to_json, without_nan

JSON, PAGE, VERDICT = "ab.json", "ab.html", "verdict.json"


def write_comparison(report: ABReport, folder: Path) -> tuple[Path, Path]:
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
    html_path.write_text(to_html(report), encoding="utf-8")
    verdict = json.dumps(verdict_document(report), indent=1, allow_nan=False)
    (folder / VERDICT).write_text(verdict, encoding="utf-8")
    return json_path, html_path


def verdict_document(report: ABReport) -> dict[str, Any]:
    """What a program has to know to go on, ready for JSON.

    Args:
        report: The figures.

    Returns:
        `decision` on the best challenger, whose letter is `challenger`; `winner`, the letter of the arm that the
        verdicts choose, None while they are undecided; `challengers`, one entry each. A figure that does not exist is
        None.
    """
    best = best_challenger(report)
    document: dict[str, Any] = {
        "headline": headline(report),
        "decision": best.verdict.decision if best else None,
        "challenger": best.letter if best else None,
        "winner": winner(report),
        "dataset": report.dataset,
        "protocol": report.protocol,
        "task": report.task,
        "cuts": report.cuts,
        "metric": report.metric,
        "alpha": report.alpha,
        "margin": report.margin,
        "num_users": report.num_users,
        "arms": {arm.letter: arm.name for arm in report.arms},
        "challengers": [_challenger(report, comparison) for comparison in report.comparisons],
    }
    found: dict[str, Any] = without_nan(document)
    return found


def _challenger(report: ABReport, comparison: Comparison) -> dict[str, Any]:
    found = comparison.metrics[report.metric]
    return {
        "letter": comparison.letter,
        "name": comparison.name,
        "decision": comparison.verdict.decision,
        "reasons": comparison.verdict.reasons,
        "metric": report.metric,
        "difference": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "num_users": found.interval.num_users,
        "p_value": found.p_value,
        "adjusted_p": found.adjusted_p,
        "smallest_detectable": comparison.smallest_detectable,
        "users_needed": comparison.users_needed,
        "lost_slices": comparison.lost_slices,
        "findings": [check.finding for check in report.layers if check.letter == comparison.letter and check.finding],
    }
