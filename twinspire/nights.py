"""How did the last nights go? One file a night for programs, one for its log, and a table for people.

runs/<dataset>/nights/2017-12-01.json    how the latest run of that night went
runs/<dataset>/nights/2017-12-01.log     what happened, a JSON object a line, all runs of that night
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from artefacts.files import replace_text
from artefacts.locks import holder_of
from artefacts.paths import RunPaths
from twinspire.config import Config
from twinspire.pipeline.night import HELD_OUT_SUMMARY, Night


@contextmanager
def night_log(paths: RunPaths) -> Iterator[Any]:
    """A logger that appends a JSON object a line to the night's log."""
    paths.night.parent.mkdir(parents=True, exist_ok=True)
    with paths.night.with_suffix(".log").open("a", encoding="utf-8") as file:
        processors: list[structlog.typing.Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
        yield structlog.wrap_logger(structlog.WriteLogger(file), processors=processors)


def write_summary(
    config: Config,
    paths: RunPaths,
    night: Night,
    steps: Sequence[dict[str, Any]],
    *,
    outcome: str,
    seconds: float,
    now: dt.datetime,
) -> None:
    """Writes how a night went: `outcome` is published, refused, failed, or unfinished: at work, or killed at it."""
    rows = [step for step in steps if step["name"] == "bundle"]
    summary = {
        "day": str(paths.as_of),
        "outcome": outcome,
        "bundle": paths.bundle_name.read_text() if rows else None,
        "parent": None if night.parent is None else str(night.parent),
        "goes_on": night.goes_on,
        "why": night.why,
        "seconds": round(seconds, 1),
        "run_at": now.isoformat(),
        "configuration_digest": config.digest(),
        "recall": _recall(paths),
        "steps": list(steps),
    }
    replace_text(paths.night, json.dumps(summary, indent=2))


def _recall(paths: RunPaths) -> dict[str, Any] | None:
    """What the fit before reached on the new days, and both on the users held out of today's."""
    path = paths.model / HELD_OUT_SUMMARY
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def status_of(config: Config, paths: RunPaths, num_nights: int) -> dict[str, Any]:
    """What is served, how the last nights went, what is at work."""
    from serving.bundle_folder import published

    files = sorted((paths.root / "nights").glob("????-??-??.json"))[-num_nights:]
    events = sorted((paths.tables / "events").glob("????-??-??.parquet"))
    return {
        "dataset": config.name,
        "served": published(paths.bundles),
        "last_day_with_events": events[-1].stem if events else None,
        "at_work": holder_of(paths.root),
        "nights": [json.loads(file.read_text()) for file in reversed(files)],
    }


def print_status(found: dict[str, Any]) -> None:
    """The same, for people."""
    from rich.table import Table

    from artefacts.console import console

    at_work = found["at_work"]
    console().print(f"served            {found['served'] or 'nothing yet'}")
    console().print(f"last day of data  {found['last_day_with_events'] or 'none yet'}")
    console().print(
        "at work           "
        + (f"{at_work['command']}, process {at_work['process']} since {at_work['since']}" if at_work else "nothing")
    )
    if not found["nights"]:
        console().print("\nno night yet: `twinspire daily` does the first one")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("night", "outcome", "bundle", "fit", "seconds", "peak MB", "recall of the fit before", "slowest step"):
        table.add_column(name, justify="right" if name in ("seconds", "peak MB") else "left")
    for night in found["nights"]:
        table.add_row(*_row(night))
    console().print("\n", table)


def _row(night: dict[str, Any]) -> Iterator[str]:
    steps = [step for step in night["steps"] if step["done_now"]]
    slowest = max(steps, key=lambda step: step["seconds"], default=None)
    recall = night["recall"]
    yield night["day"]
    yield night["outcome"]
    yield night["bundle"] or "-"
    yield f"on from {night['parent']}" if night["goes_on"] else "full"
    yield f"{night['seconds']:,.0f}"
    yield f"{max((step['peak_memory_bytes'] for step in steps), default=0) / 1e6:,.0f}"
    yield "-" if recall is None else f"@{recall['k']} {recall['next_day']:.4f} of {recall['num_users']:,} users"
    yield "-" if slowest is None else f"{slowest['name']}, {slowest['seconds']:.0f} s"
