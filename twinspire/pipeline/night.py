"""Night: does a day's fit go on from an earlier one, and from which?"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

from twinspire.config import Config
from twinspire.load_config import ConfigError, load
from twinspire.paths import RunPaths
from twinspire.steps import StepRecord

# What a state fits to: other shapes, methods or columns make another model of it.
FITTED = ("dataset", "towers", "training", "sparcode")
PUBLISH = "publish"


@dataclass(frozen=True)
class Night:
    """How a day's run begins.

    Attributes:
        parent: The day whose fit is gone on from, or judged beside; None where there is none.
        goes_on: Whether the fit goes on from it; otherwise it begins anew.
        why: In words.
        parent_digest: Of the parent's published bundle step; part of the digest of what is made from it.
    """

    parent: dt.date | None
    goes_on: bool
    why: str
    parent_digest: str


def night_of(config: Config, paths: RunPaths, *, full: bool) -> Night:
    """Looks for the latest night before a day whose bundle was published.

    Args:
        config: Of the day.
        paths: Of the day.
        full: Whether a fit on all days is asked for.
    """
    days = sorted((day for day in _nights(paths) if day < config.as_of), reverse=True)
    for day in days:
        earlier = RunPaths(paths.root, day)
        record = _record(earlier, PUBLISH)
        if record is None or not (earlier.model / "lineage.json").exists():
            continue
        why = "asked for" if full else _why_anew(config, earlier)
        if why is None:
            return Night(day, True, f"goes on from {day}", record.digest)
        return Night(day, False, f"fits everything anew: {why}", record.digest)
    return Night(None, False, "fits everything: there is no published night before", "")


def _nights(paths: RunPaths) -> list[dt.date]:
    found = []
    for folder in (paths.root / "steps").glob("????-??-??"):
        found.append(dt.date.fromisoformat(folder.name))
    return found


def _record(paths: RunPaths, name: str) -> StepRecord | None:
    try:
        return StepRecord(**json.loads((paths.steps / f"{name}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _why_anew(config: Config, earlier: RunPaths) -> str | None:
    """Why a state cannot be gone on from, or should not; None if it can."""
    try:
        kept = load(earlier.model / "config.yaml")
    except (ConfigError, OSError) as error:
        return f"the configuration of {earlier.as_of} cannot be read ({error})"
    changed = [name for name in FITTED if getattr(kept, name) != getattr(config, name)]
    if changed:
        return f"{' and '.join(changed)} changed since {earlier.as_of}"
    lineage = json.loads((earlier.model / "lineage.json").read_text())
    age = (config.as_of - dt.date.fromisoformat(lineage["full_fit"])).days
    every = config.daily.full_every_days
    if every is not None and age >= every:
        return f"the last full fit, of {lineage['full_fit']}, is {age} days old"
    return None
