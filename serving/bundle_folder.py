"""Which bundles are there, which one is meant, and which one would a rollback serve?"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from serving import bundle_history as history
from serving.bundle import CURRENT
from serving.manifest import BundleError, Manifest, read_manifest
from serving.version_names import VERSION_PATTERN, day_of

# Versions that a message names; the newest tell what the others look like.
_NUM_NAMED = 5


@dataclass(frozen=True)
class Entry:
    """One bundle, as far as it can be told without reading it whole."""

    version: str
    """Name of its folder."""
    created: dt.datetime
    """When it was written, UTC: by its manifest, or where that cannot be read by its folder."""
    size_bytes: int
    """Of all its files."""
    manifest: Manifest | None
    """What it says about itself; None where that cannot be read."""
    problem: str | None
    """Why not; None where it can."""

    @property
    def as_of(self) -> dt.date:
        """Everything before this day is known to it."""
        return day_of(self.version)


def list_bundles(bundles: Path) -> list[Entry]:
    """All bundles, the latest written first; what else lies in their folder is left out.

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
    version = history.version_before(history.read(bundles), served)
    if version is None:
        raise BundleError(
            f"{bundles}: {history.FILE_NAME} tells of nothing published before {served}, so there is nothing to go "
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
        raise BundleError(f"{bundles}: {asked!r} begins {_named(found)}; give more of the one you mean")
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
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _versions(bundles: Path) -> list[str]:
    """Names of all bundles, the latest day first."""
    if not bundles.is_dir():
        raise no_folder(bundles)
    folders = (path for path in bundles.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted((path.name for path in folders if re.match(VERSION_PATTERN, path.name)), reverse=True)


def _entry(folder: Path) -> Entry:
    manifest, problem = None, None
    try:
        manifest = read_manifest(folder)
        created = manifest.facts.created
    except BundleError as error:
        problem = str(error)
        created = dt.datetime.fromtimestamp(folder.stat().st_mtime, dt.UTC)
    created = created.replace(tzinfo=dt.UTC) if created.tzinfo is None else created.astimezone(dt.UTC)
    return Entry(folder.name, created, size_of(folder), manifest, problem)


def _named(versions: list[str]) -> str:
    more = len(versions) - _NUM_NAMED
    return ", ".join(versions[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
