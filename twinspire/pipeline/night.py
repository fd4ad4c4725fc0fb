"""Night: does a day's fit go on from an earlier one, and from which?"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinspire.config import Config
from twinspire.load_config import ConfigError, load
from twinspire.paths import RunPaths
from twinspire.steps import StepRecord

if TYPE_CHECKING:
    from features.schema_changes import SchemaChange

# What a state fits to: other shapes, methods or columns make another model of it.
FITTED = ("dataset", "towers", "training", "sparcode")
PUBLISH = "publish"
# In the folder of a model: the columns of the source that it was fitted on.
COLUMNS_FILE = "columns.json"


@dataclass(frozen=True)
class Night:
    """How a day's run begins.

    Attributes:
        parent: The day whose fit is gone on from, or judged beside; None where there is none.
        goes_on: Whether the fit goes on from it; otherwise it begins anew.
        why: In words.
        changes: What changed in the columns of the source since the parent, a line each.
        parent_digest: Of the parent's published bundle step; part of the digest of what is made from it.
    """

    parent: dt.date | None
    goes_on: bool
    why: str
    parent_digest: str
    changes: tuple[str, ...] = ()


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
        changes = _schema_changes(config, earlier)
        said = tuple(map(str, changes))
        why = "asked for" if full else _why_anew(config, earlier, changes)
        if why is None:
            return Night(day, True, f"goes on from {day}", record.digest, said)
        return Night(day, False, f"fits everything anew: {why}", record.digest, said)
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


def _schema_changes(config: Config, earlier: RunPaths) -> list[SchemaChange]:
    """What changed since a fit in the columns of the source, which is only looked at."""
    from features.ingest import open_source
    from features.schema_changes import SchemaFacts, schema_changes

    path = earlier.model / COLUMNS_FILE
    if not path.exists():
        return []
    before = SchemaFacts(**json.loads(path.read_text()))
    return schema_changes(
        before, SchemaFacts.of(open_source(config.ingest.source, schema=config.dataset), config.dataset)
    )


def _why_anew(config: Config, earlier: RunPaths, changes: Sequence[SchemaChange]) -> str | None:
    """Why a state cannot be gone on from, or should not; None if it can."""
    try:
        kept = load(earlier.model / "config.yaml")
    except (ConfigError, OSError) as error:
        return f"the configuration of {earlier.as_of} cannot be read ({error})"
    changed = [name for name in FITTED if _read_by_fit(kept, name) != _read_by_fit(config, name)]
    if changed:
        return f"{' and '.join(changed)} changed since {earlier.as_of}"
    if breaking := [change.column for change in changes if change.needs_full]:
        return f"{', '.join(breaking)} changed since {earlier.as_of}"
    lineage = json.loads((earlier.model / "lineage.json").read_text())
    age = (config.as_of - dt.date.fromisoformat(lineage["full_fit"])).days
    every = config.daily.full_every_days
    if every is not None and age >= every:
        return f"the last full fit, of {lineage['full_fit']}, is {age} days old"
    return None


def _read_by_fit(config: Config, name: str) -> object:
    """A section of the configuration, without what only cuts SparCode's tables."""
    if name == "sparcode" and config.sparcode is not None:
        return config.sparcode.model_dump(exclude=set(config.sparcode.of_tables()))
    return getattr(config, name)
