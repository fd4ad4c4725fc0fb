"""The folder of all bundles: list, find, publication history and rollback target."""

from __future__ import annotations

import datetime as dt
import difflib
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from serving.bundles.bundle import CURRENT
from serving.bundles.manifest import BundleError, Declaration, Manifest, day_of, read_manifest
from serving.config import VERSION_PATTERN

# Versions that a message names; the newest show what the others look like.
_NUM_NAMED = 5
FILE_NAME = "published.jsonl"
Reason = Literal["bundle", "promote", "rollback"]


@dataclass(frozen=True)
class Entry:
    """One bundle, as far as it is known without reading it whole."""

    version: str
    """Name of its folder."""
    created: dt.datetime
    """When it was written, UTC: by its manifest, or where that cannot be read by its folder."""
    size_bytes: int
    """Of all its files."""
    manifest: Manifest | None
    """Its manifest; None where that cannot be read."""
    problem: str | None
    """Why not; None where it can."""

    @property
    def as_of(self) -> dt.date:
        """Everything before this day is known to it."""
        return day_of(self.version)


def list_bundles(bundles: Path) -> list[Entry]:
    """All bundles, the latest written first; other files in their folder are left out.

    Raises:
        BundleError: There is no such folder.
    """
    entries = [_entry(bundles / version) for version in _versions(bundles)]
    return sorted(entries, key=lambda entry: (entry.created, entry.version), reverse=True)


def published(bundles: Path) -> str | None:
    """What the pointer names, whether that is there or not; None where there is no pointer."""
    pointer = bundles / CURRENT
    return pointer.readlink().name if pointer.is_symlink() else None


def rollback_target(bundles: Path) -> str:
    """Version of the bundle that was published before the current one.

    Raises:
        BundleError: There was none, or it was removed.
    """
    if not bundles.is_dir():
        raise no_folder(bundles)
    served = published(bundles)
    if served is None:
        raise BundleError(f"{bundles}: nothing is published, so there is nothing to go back from; promote a bundle")
    version = version_before(read(bundles), served)
    if version is None:
        raise BundleError(
            f"{bundles}: {FILE_NAME} has nothing published before {served}, so there is nothing to go "
            "back to; promote the bundle you want"
        )
    if not (bundles / version).is_dir():
        raise BundleError(
            f"{bundles}: {version}, which was published before {served}, was removed; promote another bundle"
        )
    return version


def find_version(bundles: Path, asked: str) -> str:
    """The version that a person means.

    Args:
        bundles: Folder of all bundles.
        asked: A version, or the beginning of just one, such as its day.

    Raises:
        BundleError: There is no such bundle, or several begin like that.
    """
    versions = _versions(bundles)
    if asked in versions:
        return asked
    found = [version for version in versions if asked and version.startswith(asked)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleError(f"{bundles}: {asked!r} is the beginning of {_named(found)}; give more characters")
    if not versions:
        raise BundleError(f"{bundles}: holds no bundle; make one with `twinspire bundle`")
    near = difflib.get_close_matches(asked, versions, n=1)
    meant = f"did you mean {near[0]}? There " if near else "there "
    raise BundleError(
        f"{bundles}: no bundle {asked!r}; {meant}{'is' if len(versions) == 1 else 'are'} {_named(versions)}"
    )


def no_folder(bundles: Path) -> BundleError:
    """What to raise where the folder of all bundles is not there."""
    return BundleError(f"{bundles}: no such folder; make a bundle with `twinspire bundle`")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; one that is removed meanwhile, or cannot be looked at, counts none."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size


def signature(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Names, sizes and times of all files below a folder; empty where there is none."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            found.add((str(path), status.st_size, status.st_mtime_ns))
    return frozenset(found)


def _versions(bundles: Path) -> list[str]:
    """Names of all bundles, the latest day first."""
    if not bundles.is_dir():
        raise no_folder(bundles)
    folders = (path for path in bundles.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted((path.name for path in folders if is_version(path.name)), reverse=True)


def is_version(name: str) -> bool:
    """Whether a name is one that a bundle can have."""
    try:
        return re.match(VERSION_PATTERN, name) is not None and day_of(name) is not None
    except ValueError:
        return False


def _entry(folder: Path) -> Entry:
    manifest, problem = None, None
    try:
        manifest = read_manifest(folder)
        created = manifest.facts.created
    except BundleError as error:
        problem = str(error)
        created = dt.datetime.combine(day_of(folder.name), dt.time(), dt.UTC)
        with suppress(FileNotFoundError):
            created = dt.datetime.fromtimestamp(folder.stat().st_mtime, dt.UTC)
    created = created.replace(tzinfo=dt.UTC) if created.tzinfo is None else created.astimezone(dt.UTC)
    return Entry(folder.name, created, size_of(folder), manifest, problem)


def _named(versions: list[str]) -> str:
    more = len(versions) - _NUM_NAMED
    return ", ".join(versions[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


class Publication(Declaration):
    """One move of the pointer."""

    version: str = Field(pattern=VERSION_PATTERN)
    """The bundle it was moved to."""
    before: str | None
    """What it named until then; None where there was no pointer."""
    moment: dt.datetime
    """When."""
    reason: Reason
    """By what: the daily bundle, or a person's promotion or rollback."""


def append(bundles: Path, publication: Publication) -> None:
    """Adds a line, to disk before this returns."""
    line = publication.model_dump_json().encode() + b"\n"
    descriptor = os.open(bundles / FILE_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # What a killed process left must not spoil this line too.
            line = b"\n" + line
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(bundles: Path) -> list[Publication]:
    """All lines that can be read, the oldest first; none where there is no history."""
    try:
        lines = (bundles / FILE_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Publication.model_validate_json(line))
        except ValidationError:
            continue
    return found


def version_before(publications: Sequence[Publication], current: str | None) -> str | None:
    """What to go back to: the bundle that was published before the current one.

    A rollback takes the bundle that it left out of the way, so that the next one goes further back. A move that no line
    records, such as one by hand, counts as a publication.

    Args:
        publications: As `read` gives them.
        current: What the pointer names; None where there is none.

    Returns:
        Its version, whether it is still there or not; None where there was none.
    """
    if current is None:
        return None
    way: list[str] = []
    for line, named_next in zip(publications, [*(line.before for line in publications[1:]), current], strict=False):
        if named_next == line.before:
            # It was announced, and the pointer did not move.
            continue
        if line.before is not None and way[-1:] != [line.before]:
            way.append(line.before)
        if line.reason == "rollback":
            del way[-1:]
        if way[-1:] != [line.version]:
            way.append(line.version)
    if way[-1:] != [current]:
        way.append(current)
    return way[-2] if len(way) > 1 else None
