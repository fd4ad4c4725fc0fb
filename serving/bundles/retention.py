"""Retention: removes bundles that expired, and the online features that no bundle names any more.

A bundle that expires is first renamed to `.removing-<version>`, which no reader looks at, then deleted. So a killed
removal leaves a whole bundle or a hidden folder, which the next removal deletes together with what killed writers left.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from artefacts import files, locks
from features import online_versions
from features.store import repository
from serving.bundles.folder import Entry, list_bundles, no_folder, published, read, size_of, version_before

_LEFT_OVER = (".writing-", ".publishing-", ".removing-")


@dataclass(frozen=True)
class Removal:
    """One folder that goes."""

    name: str
    """A version, or the folder of a killed process."""
    size_bytes: int
    """Of all its files."""
    reason: str
    """Why it goes."""


def prune(
    bundles: Path,
    *,
    keep: int | None,
    max_age_days: int | None,
    now: dt.datetime,
    pinned: Collection[str] = (),
    dry_run: bool = False,
) -> list[Removal]:
    """Removes bundles beyond a number or an age, and what killed processes left.

    What is needed stays: the published bundle, the one that a rollback would serve, those that arms are pinned to, and
    those that a process of this machine has open, such as a server.

    Args:
        bundles: Folder of all bundles.
        keep: How many stay, the latest written; None for any number.
        max_age_days: How old they may be; None for any age. What either limit excludes goes.
        now: The moment that ages are counted to.
        pinned: Versions that arms are pinned to.
        dry_run: Whether to remove nothing.

    Returns:
        What went, or would.

    Raises:
        BundleError: There is no such folder.
        ValueError: A limit is out of range.
    """
    if not bundles.is_dir():
        raise no_folder(bundles)
    # No bundle may be published between the decision to remove it and its removal.
    with locks.locked(bundles):
        entries = list_bundles(bundles)
        created = {entry.version: entry.created for entry in entries}
        needed = _needed(bundles, entries) | set(pinned)
        going = expired(created, keep=keep, max_age_days=max_age_days, now=now, never=needed)
        removals = _left_over(bundles)
        removals += [
            Removal(entry.version, entry.size_bytes, going[entry.version])
            for entry in entries
            if entry.version in going and not _is_in_use(bundles / entry.version)
        ]
        if not dry_run:
            for removal in removals:
                _remove(bundles / removal.name)
    return removals


def remove(bundles: Path, versions: Collection[str], *, pinned: Collection[str] = (), reason: str) -> list[Removal]:
    """Removes some bundles regardless of retention; the published one, pinned ones and those in use stay.

    Args:
        bundles: Folder of all bundles.
        versions: Which; those that are not there are left out.
        pinned: Versions that arms are pinned to.
        reason: Why they go.

    Returns:
        What went.

    Raises:
        BundleError: There is no such folder.
    """
    if not bundles.is_dir():
        raise no_folder(bundles)
    with locks.locked(bundles):
        served = published(bundles)
        going = [
            entry
            for entry in list_bundles(bundles)
            if entry.version in versions
            and entry.version not in (served, *pinned)
            and not _is_in_use(bundles / entry.version)
        ]
        for entry in going:
            _remove(bundles / entry.version)
    return [Removal(entry.version, entry.size_bytes, reason) for entry in going]


def prune_features(
    features: Path, bundles: Path, *, gone: Collection[str] = (), dry_run: bool = False
) -> tuple[list[Removal], list[str]]:
    """Removes the versions of online features that no bundle names.

    Args:
        features: The run's `features/` folder.
        bundles: Folder of all bundles.
        gone: Bundles that are taken for removed.
        dry_run: Whether to remove nothing.

    Returns:
        What went, or would; and why something could not, which the next call tries again.
    """
    entries = [entry for entry in list_bundles(bundles) if entry.version not in gone] if bundles.is_dir() else []
    named = {entry.manifest.facts.features_version for entry in entries if entry.manifest is not None}
    days = {entry.version[:10] for entry in entries if entry.manifest is None}
    removals, problems = [], []
    for version in online_versions.expired(features, named, days):
        size = size_of(repository(features, version))
        try:
            if not dry_run:
                online_versions.remove(features, version)
        except Exception as error:  # Of whatever store.
            problems.append(f"online features {version} cannot be removed now: {error}")
        else:
            removals.append(Removal(f"online features {version}", size, "no bundle names them"))
    return removals, problems


def expired(
    created: Mapping[str, dt.datetime],
    *,
    keep: int | None,
    max_age_days: int | None,
    now: dt.datetime,
    never: Collection[str],
) -> dict[str, str]:
    """Versions that go, each with the reason.

    Args:
        created: Version -> when it was written.
        keep: How many stay, the latest written; those of `never` count where they are among them.
        max_age_days: How old they may be.
        now: The moment that ages are counted to.
        never: What stays anyway.

    Raises:
        ValueError: A limit is out of range.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 1 bundle")
    if max_age_days is not None and max_age_days < 0:
        raise ValueError(f"max_age_days is {max_age_days}, expected 0 or more days")
    latest_first = sorted(created, key=lambda version: (created[version], version), reverse=True)
    going = {}
    for place, version in enumerate(latest_first):
        if version in never:
            continue
        if keep is not None and place >= keep:
            going[version] = f"beyond the {keep} latest"
        elif max_age_days is not None and now - created[version] > dt.timedelta(days=max_age_days):
            going[version] = f"older than {max_age_days} days"
    return going


def _needed(bundles: Path, entries: list[Entry]) -> set[str]:
    served = published(bundles)
    if served is None:
        # Without a pointer the latest is the one to promote.
        return {entry.version for entry in entries[:1]}
    before = version_before(read(bundles), served)
    return {served} if before is None else {served, before}


def _left_over(bundles: Path) -> list[Removal]:
    """Folders of killed processes. Publishing and removing hold the lock of all bundles, which is held here."""
    found = []
    for folder in sorted(bundles.iterdir()):
        if folder.name.startswith(_LEFT_OVER) and folder.is_dir() and not _is_in_use(folder):
            found.append(Removal(folder.name, size_of(folder), "left by a killed run"))
    return found


def _is_in_use(folder: Path) -> bool:
    """Whether a process is filling it, or has it open to answer from it (`Bundle.open`)."""
    try:
        with locks.locked(folder, wait=False):
            return False
    except (BlockingIOError, FileNotFoundError):
        # Not there any more: its writer has just given it its name, or given up.
        return True


def _remove(folder: Path) -> None:
    if not folder.name.startswith(_LEFT_OVER):
        folder = folder.rename(folder.with_name(f".removing-{folder.name}"))
        # Else a power failure could keep the deletions and lose the name.
        files.sync_folder(folder.parent)
    shutil.rmtree(folder)
