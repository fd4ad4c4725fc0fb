"""Differences between two bundles: configuration, schema, figures, items, users and sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from artefacts.files import json_text
from features import columns
from features.encoding import Encoder
from serving.bundles.bundle import CONFIG, ENCODER, ITEMS, check_files
from serving.bundles.folder import size_of
from serving.bundles.manifest import BundleError, Manifest, read_manifest

# Ids that are named, at most, of those that came or went.
NUM_NAMED = 5
# Shown elsewhere, or a list of points that does not fit a line.
_NOT_COMPARED: dict[str, Any] = {"configuration_digest": True, "sparcode_report": {"curve"}, "served": {"tried"}}

Changes = dict[str, dict[str, Any]]
"""Dotted key -> `old`, `new` and, of numbers, their `difference`; a side that lacks the key is left out."""


@dataclass(frozen=True)
class Exchange:
    """Which ids came and which went."""

    num_added: int
    """Ids in the new bundle only."""
    num_removed: int
    """Ids in the old bundle only."""
    added: dict[str, str | None]
    """A few of them, in the order of their rows: id -> name, None where there is none."""
    removed: dict[str, str | None]
    """As `added`."""


@dataclass(frozen=True)
class BundleDiff:
    """What is in one bundle and not in the other."""

    old: str
    """Version of the one."""
    new: str
    """Version of the other."""
    configuration: Changes
    """Of the resolved configuration."""
    dataset_schema: Changes
    """Of the columns and how they enter the towers."""
    facts: Changes
    """Of what the makers knew."""
    metrics: Changes
    """Of the quality figures."""
    items: Exchange
    """Of the catalogue."""
    users: Exchange
    """Of the users with a row of their own."""
    size_bytes: Changes
    """Of each file, and of the whole as `total`."""


def compare(old: Path, new: Path) -> BundleDiff:
    """Compares two bundles, after checking that every file is as it was written.

    Raises:
        BundleError: One of them is damaged.
    """
    left, right = _checked(old), _checked(new)
    facts = [found.facts.model_dump(mode="json", exclude=_NOT_COMPARED) for found in (left, right)]
    schemas = [found.dataset_schema.model_dump(mode="json") for found in (left, right)]
    sizes = [
        {"total": size_of(folder)} | {name: entry.size_bytes for name, entry in found.files.items()}
        for folder, found in ((old, left), (new, right))
    ]
    return BundleDiff(
        old=left.bundle_version,
        new=right.bundle_version,
        configuration=changes(_configuration(old), _configuration(new)),
        dataset_schema=changes(*schemas),
        facts=changes(*facts),
        metrics=changes(left.metrics, right.metrics),
        items=exchange(_items(old), _items(new)),
        users=exchange(_users(old), _users(new)),
        size_bytes=changes(*sizes),
    )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """Leaves of two trees that are not equal, or only in one of them."""
    before, after = dict(leaves(old)), dict(leaves(new))
    found: Changes = {}
    for key in [*before, *(key for key in after if key not in before)]:
        sides = {name: side[key] for name, side in (("old", before), ("new", after)) if key in side}
        if len(sides) == 2 and sides["old"] == sides["new"]:
            continue
        if len(sides) == 2 and all(_is_number(value) for value in sides.values()):
            sides["difference"] = sides["new"] - sides["old"]
        found[key] = sides
    return found


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no section; a list is a value, and so is an empty section."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def exchange(old: Mapping[str, str | None], new: Mapping[str, str | None]) -> Exchange:
    """What came and what went between two maps of id -> name."""
    added = [name for name in new if name not in old]
    removed = [name for name in old if name not in new]
    return Exchange(
        len(added),
        len(removed),
        {name: new[name] for name in added[:NUM_NAMED]},
        {name: old[name] for name in removed[:NUM_NAMED]},
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BundleError(f"{folder / CONFIG}: not valid YAML ({error}); make the bundle again") from None
    if not isinstance(found, dict):
        raise BundleError(f"{folder / CONFIG}: holds {type(found).__name__}, expected a mapping; make the bundle again")
    # YAML has days of its own; as text they are what JSON can hold.
    plain: dict[str, Any] = json.loads(json_text(found, default=str))
    return plain


def _items(folder: Path) -> dict[str, str | None]:
    found = pq.read_table(folder / ITEMS, columns=[columns.ITEM_ID, columns.ITEM_NAME]).to_pydict()
    return dict(zip(found[columns.ITEM_ID], found[columns.ITEM_NAME], strict=True))


def _users(folder: Path) -> dict[str, str | None]:
    ids = Encoder.load(folder / ENCODER).user_ids
    return dict.fromkeys(ids.ids(range(1, len(ids))))
