"""Warm-start plan of a day's fit: which earlier fit it starts from, or why it is a full retrain."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from artefacts.config import as_read, keys_of
from artefacts.paths import RunPaths
from serving.bundles.manifest import day_of
from training.config import WarmStartSections

if TYPE_CHECKING:
    from features.schema_changes import SchemaChange

# What a state fits to: other shapes, methods or columns make another model of it.
FITTED = ("dataset", "towers", "training", "sparcode")
PUBLISH = "publish"
# In the folder of a model: the columns of the source that it was fitted on, and what its fit read of the configuration.
COLUMNS_FILE, SECTIONS_FILE = "columns.json", "sections.json"
# There too: how the fit came to be, and how it compares with the previous one.
LINEAGE_FILE, HELD_OUT_SUMMARY = "lineage.json", "held_out.json"


@dataclass(frozen=True)
class WarmStartPlan:
    """How a day's fit begins.

    Attributes:
        parent: The day of the fit that this one starts from, or is compared with; None where there is none.
        is_warm_start: Whether the fit starts from the parent's state; otherwise it is a full retrain.
        why: In words.
        parent_bundle: Version of the parent's bundle; part of the digest of what is made from it.
        changes: What changed in the columns of the source since the parent, a line each.
    """

    parent: dt.date | None
    is_warm_start: bool
    why: str
    parent_bundle: str | None
    changes: tuple[str, ...] = ()


def night_of(sections: WarmStartSections, paths: RunPaths, *, full: bool) -> WarmStartPlan:
    """Looks for the fit behind the bundle that is served, or was served before a day.

    After a rollback that is the one rolled back to. Asked again for a day that is published already, it is the one that
    this day started from.

    Args:
        sections: What decides on a warm start.
        paths: Of the day.
        full: Whether a full retrain is asked for.
    """
    version = _served_before(paths)
    if version is None:
        return WarmStartPlan(None, False, "full retrain: no bundle was published before", None)
    day = day_of(version)
    earlier = RunPaths(paths.root, day)
    fitted = earlier.bundle_name.read_text() if earlier.bundle_name.exists() else None
    if fitted != version or not (earlier.model / LINEAGE_FILE).exists():
        return WarmStartPlan(None, False, f"full retrain: the fit behind {version} is not here any more", None)
    changes = _schema_changes(sections, earlier)
    lines = tuple(map(str, changes))
    why = "asked for" if full else _why_full(sections, paths, earlier, changes)
    if why is None:
        return WarmStartPlan(day, True, f"warm start from {day}", version, lines)
    return WarmStartPlan(day, False, f"full retrain: {why}", version, lines)


def read_lineage(model: Path) -> dict[str, Any]:
    """How a fit came to be.

    Returns:
        `parent`, whether the fit `is_warm_start` from it, the day of the last `full_fit`, `held_out_share`, the number
        of `epochs` by fit, and what the last full fit chose: `sparcode_epochs`, `factor_weight`, `factor_powers`.
    """
    found: dict[str, Any] = json.loads((model / LINEAGE_FILE).read_text())
    # The name of the key in fits of earlier versions.
    if "goes_on" in found:
        found["is_warm_start"] = found.pop("goes_on")
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


def _schema_changes(sections: WarmStartSections, earlier: RunPaths) -> list[SchemaChange]:
    """What changed since a fit in the columns of the source, of which only the columns are read."""
    from features.ingest import open_source
    from features.schema_changes import SchemaFacts, schema_changes

    path = earlier.model / COLUMNS_FILE
    if not path.exists():
        return []
    before = SchemaFacts(**json.loads(path.read_text()))
    source = open_source(sections.source, schema=sections.dataset)
    return schema_changes(before, SchemaFacts.of(source, sections.dataset))


def _why_full(
    sections: WarmStartSections, paths: RunPaths, earlier: RunPaths, changes: Sequence[SchemaChange]
) -> str | None:
    """Why a fit cannot start from an earlier state, or should not; None if it can."""
    try:
        kept = _read_by_fit(earlier.model)
    except (OSError, ValueError) as error:
        return f"the configuration of {earlier.as_of} cannot be read ({error})"
    now = as_read(sections)
    changed = [name for name in FITTED if kept[name] != now[name]]
    if changed:
        return f"{' and '.join(changed)} changed since {earlier.as_of}"
    if breaking := [change.column for change in changes if change.needs_full]:
        return f"{', '.join(breaking)} changed since {earlier.as_of}"
    last_full = read_lineage(earlier.model)["full_fit"]
    age = (paths.as_of - dt.date.fromisoformat(last_full)).days
    every = sections.full_every_days
    if every is not None and age >= every:
        return f"the last full fit, of {last_full}, is {age} days old"
    return None


def _read_by_fit(model: Path) -> dict[str, Any]:
    """The sections that an earlier fit read, with today's defaults for keys that it did not know.

    Raises:
        OSError: They are not there, as in fits of earlier versions.
        ValueError: They are not valid today.
    """
    found = json.loads((model / SECTIONS_FILE).read_text())
    kinds, keys = get_type_hints(WarmStartSections), keys_of(WarmStartSections)
    kept = {}
    for name in (name for name, key in keys.items() if key in FITTED):
        kind: TypeAdapter[Any] = TypeAdapter(kinds[name])
        try:
            kept[keys[name]] = kind.dump_python(kind.validate_python(found[keys[name]]), mode="json")
        except (KeyError, ValidationError) as error:
            raise ValueError(f"{keys[name]} in {SECTIONS_FILE}: {error}") from None
    return kept
