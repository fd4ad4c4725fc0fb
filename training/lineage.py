"""Night: does a day's fit go on from an earlier one, and from which?"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artefacts.config import ConfigError
from artefacts.paths import RunPaths
from serving.bundles.manifest import day_of
from twinspire.config import Config
from twinspire.load_config import load

if TYPE_CHECKING:
    from features.schema_changes import SchemaChange

# What a state fits to: other shapes, methods or columns make another model of it.
FITTED = ("dataset", "towers", "training", "sparcode")
PUBLISH = "publish"
# In the folder of a model: the columns of the source that it was fitted on.
COLUMNS_FILE = "columns.json"
# There too: how the fit came to be, and how it compares with the one before.
LINEAGE_FILE, HELD_OUT_SUMMARY = "lineage.json", "held_out.json"


@dataclass(frozen=True)
class Night:
    """How a day's run begins.

    Attributes:
        parent: The day whose fit is gone on from, or judged beside; None where there is none.
        goes_on: Whether the fit goes on from it; otherwise it begins anew.
        why: In words.
        parent_bundle: Version of the parent's bundle; part of the digest of what is made from it.
        changes: What changed in the columns of the source since the parent, a line each.
    """

    parent: dt.date | None
    goes_on: bool
    why: str
    parent_bundle: str | None
    changes: tuple[str, ...] = ()


def night_of(config: Config, paths: RunPaths, *, full: bool) -> Night:
    """Looks for the fit behind the bundle that is served, or was served before a day.

    After a rollback that is the one rolled back to. Asked again for a day that is published already, it is the one that
    this day went on from.

    Args:
        config: Of the day.
        paths: Of the day.
        full: Whether a fit on all days is asked for.
    """
    version = _served_before(paths)
    if version is None:
        return Night(None, False, "fits everything: no bundle was published before", None)
    day = day_of(version)
    earlier = RunPaths(paths.root, day)
    fitted = earlier.bundle_name.read_text() if earlier.bundle_name.exists() else None
    if fitted != version or not (earlier.model / LINEAGE_FILE).exists():
        return Night(None, False, f"fits everything: the fit behind {version} is not here any more", None)
    changes = _schema_changes(config, earlier)
    said = tuple(map(str, changes))
    why = "asked for" if full else _why_anew(config, earlier, changes)
    if why is None:
        return Night(day, True, f"goes on from {day}", version, said)
    return Night(day, False, f"fits everything anew: {why}", version, said)


def read_lineage(model: Path) -> dict[str, Any]:
    """How a fit came to be.

    Returns:
        `parent`, whether it `goes_on` from it, the day of the last `full_fit`, `held_out_share` and, since SparCode
        chooses them, the `sparcode_epochs` of the last full fit.
    """
    found: dict[str, Any] = json.loads((model / LINEAGE_FILE).read_text())
    return found


def _served_before(paths: RunPaths) -> str | None:
    """The bundle that was served before the day's own."""
    from serving.bundles.folder import published, read
    from serving.bundles.manifest import BundleError, read_manifest

    if not paths.bundles.is_dir():
        return None
    version = published(paths.bundles)
    while version is not None and day_of(version) >= paths.as_of:
        try:
            version = read_manifest(paths.bundles / version).facts.parent
        except BundleError:
            version = None
    if version is None:
        earlier = [line.version for line in read(paths.bundles) if day_of(line.version) < paths.as_of]
        version = max(earlier, key=day_of, default=None)
    return version


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
    lineage = read_lineage(earlier.model)
    age = (config.as_of - dt.date.fromisoformat(lineage["full_fit"])).days
    every = config.daily.full_every_days
    if every is not None and age >= every:
        return f"the last full fit, of {lineage['full_fit']}, is {age} days old"
    return None


def _read_by_fit(config: Config, name: str) -> object:
    """A section of the configuration, without what only cuts SparCode's tables."""
    if name == "sparcode" and config.sparcode is not None:
        return config.sparcode.of_fit()
    return getattr(config, name)
