"""The manifest of a bundle: one JSON document that describes it and holds the checksum of every file."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from artefacts.files import json_text
from features.schema import Schema
from serving.config import VERSION_PATTERN
from serving.retrieval.index import IndexReport
from serving.second_look.files import SecondLookReport
from serving.served import Served
from serving.sparcode.files import SparCodeReport
from serving.sparse.index import SparseReport


def day_of(version: str) -> dt.date:
    """The day that a bundle's name begins with: everything before it is known to the bundle."""
    return dt.date.fromisoformat(version[:10])


FORMAT_VERSION = 6
FILE_NAME = "manifest.json"
UNSIGNED = "0" * 64
"""What stands in place of a manifest's own checksum while that is computed."""
# Written about the bundle, not part of what it answers: they may name times and machines.
REPORTS = frozenset({"MODEL_CARD.md", "metrics.json"})

_BLOCK_BYTES = 1 << 20
_GIT_SECONDS = 10


class BundleError(ValueError):
    """A bundle cannot be written, published or opened; the message names file, found, expected and what to do."""


class Declaration(BaseModel):
    """A frozen part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileEntry(Declaration):
    """One file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Checksum of its bytes."""
    size_bytes: int = Field(ge=0)
    """Number of its bytes."""


class DataWindow(Declaration):
    """Which events the bundle was made from: `first` up to but not including `end`."""

    first: dt.date
    """Day of the earliest event."""
    end: dt.date
    """Day before which all events lie."""
    num_events: int = Field(ge=0)
    """Events in it."""


class BusinessWeight(Declaration):
    """What the cosine of an item is multiplied by: its business value, tempered."""

    name: str
    """What the value is, such as `margin`."""
    power: float = Field(ge=0, le=1)
    """Exponent of the value (kappa)."""


class Facts(Declaration):
    """What the maker of a bundle knows and its files do not show."""

    dataset: str
    """Name of the dataset."""
    as_of: dt.date
    """Everything before this day (00:00 UTC) is known."""
    created: dt.datetime
    """When the bundle was written."""
    data_window: DataWindow
    """Events it was made from."""
    feature_services: dict[str, str]
    """Tower -> name of the Feast feature service whose values it takes."""
    features_version: str = Field(pattern=VERSION_PATTERN)
    """Version of the online features that its users are read with: those of the moment that it was made for."""
    vocabulary_sizes: dict[str, int]
    """Input -> rows of its table, the unknown row included."""
    index_report: IndexReport
    """Quality and cost of the index."""
    business_weight: BusinessWeight | None
    """By what the index ranks besides the cosine; None if by nothing, and then the bundle holds no weights."""
    sparcode_report: SparCodeReport | None
    """Quality and cost of SparCode's tables; None where the bundle has none."""
    sparse_report: SparseReport | None = None
    """What the sparse index holds; None where the bundle has none."""
    second_look_report: SecondLookReport | None = None
    """What the second look was fitted on; None where the bundle has none."""
    served: Served
    """What answers where neither request nor configuration says it."""
    configuration_digest: str
    """Hash of the resolved configuration."""
    code_version: str
    """Version of the code that made it."""
    commit: str | None
    """Git commit of that code, with `-dirty` after it where files differed from it; None outside a work tree."""
    parent: str | None
    """Version of the bundle that the fit is a warm start from or was compared with; None where there was none."""
    seed: int
    """Seed of the run."""
    package_versions: dict[str, str]
    """Package -> version it was made with."""


class Manifest(Declaration):
    """The whole document."""

    format_version: int
    """Version of the layout that this document describes."""
    manifest_sha256: str = Field(UNSIGNED, pattern="^[0-9a-f]{64}$")
    """Checksum of the bytes of this document, with zeros in this place."""
    bundle_version: str = Field(pattern=VERSION_PATTERN)
    """`as_of` and the first 8 hex digits of a hash over the contents."""
    facts: Facts
    """What its maker knew."""
    dataset_schema: Schema
    """Columns and how they enter the towers."""
    num_items: int = Field(ge=1)
    """Items in the catalogue (N)."""
    num_users: int = Field(ge=1)
    """Rows of the user table, the unknown user included (U)."""
    dimension: int = Field(ge=1)
    """Width of the vectors (D)."""
    metrics: dict[str, Any]
    """Quality figures, as in `metrics.json`."""
    files: dict[str, FileEntry]
    """Path inside the bundle -> entry, for every file but this document."""


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a bundle.

    Raises:
        BundleError: It is missing, cannot be read, has another checksum than it holds, or is of another format version.
    """
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
        raw = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: missing; expected a bundle made by `twinspire bundle`") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error}); look at the disk and who may read it") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); copy the bundle again, or make it again") from None
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != FORMAT_VERSION or isinstance(found, bool):
        shown = repr(found)[:40] if isinstance(found, int | str | None) else f"of {type(found).__name__}"
        raise BundleError(
            f"{path}: format version {shown}, expected {FORMAT_VERSION}; serve it with the code that made it, or "
            "make the bundle again"
        )
    held = raw.get("manifest_sha256")
    digest = checksum_of(content, held) if isinstance(held, str) else None
    if digest is None or digest != held:
        raise BundleError(
            f"{path}: manifest_sha256 is {held!r:.16}, expected {digest or 'a checksum'!r:.16}: it is not as it was "
            "written; copy the bundle again, or make it again"
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        issue = error.errors()[0]
        where = ".".join(str(part) for part in issue["loc"])
        raise BundleError(
            f"{path}: {where}: {issue['msg']} (found {issue['input']!r}); make the bundle again"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a bundle, with its checksum."""
    plain = manifest.model_copy(update={"manifest_sha256": UNSIGNED}).model_dump_json(indent=2).encode()
    digest = hashlib.sha256(plain).hexdigest()
    (folder / FILE_NAME).write_bytes(plain.replace(UNSIGNED.encode(), digest.encode(), 1))


def checksum_of(content: bytes, held: str) -> str:
    """Checksum of a manifest's bytes, with zeros in the place of the one that it holds."""
    return hashlib.sha256(content.replace(held.encode(), UNSIGNED.encode(), 1)).hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Checksum and size of every file under a folder but the manifest, by path inside it.

    Raises:
        BundleError: Something in it is neither a plain file nor a folder.
    """
    return {name: _describe(path) for name, path in files_of(folder).items()}


def files_of(folder: Path) -> dict[str, Path]:
    """Every file under a folder but the manifest, by path inside it.

    Raises:
        BundleError: Something in it is neither a plain file nor a folder.
    """
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{path}: not a plain file; a bundle holds plain files only, remove it")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILE_NAME:
            entries[name] = path
    return entries


def version_of(facts: Facts, files: Mapping[str, FileEntry]) -> str:
    """Name of a bundle: the same for the same contents, whenever and wherever they were made.

    Args:
        facts: Only what gives the contents their meaning: dataset, day, feature services, online features, seed,
            configuration and what is served.
        files: All files; the reports are left out.

    Returns:
        Such as `2017-12-01-0f3c9a71`.
    """
    meaning = facts.model_dump(
        mode="json",
        include={
            "dataset",
            "as_of",
            "feature_services",
            "features_version",
            "seed",
            "configuration_digest",
            "served",
        },
    )
    sums = {name: entry.sha256 for name, entry in files.items() if name not in REPORTS}
    text = json_text([FORMAT_VERSION, meaning, sums], sort_keys=True)
    return f"{facts.as_of.isoformat()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _describe(path: Path) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
        size_bytes = file.tell()
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size_bytes)


def code_commit(file: Path = Path(__file__)) -> str | None:
    """Commit of a file's git work tree.

    Args:
        file: One of the code; it must be tracked, because an installed copy may be inside another project's work tree.

    Returns:
        40 hex digits, with `-dirty` after them where tracked files differ from the commit; None outside a work tree and
        without git.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file, "rev-parse", "--verify", "HEAD")
    changed = _git(file, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _git(file: Path, *arguments: str) -> str | None:
    """What git answers in the folder of a file, on one line; None where it refuses or is not there."""
    # A hook's GIT_DIR would name another repository, and a lock taken here could stop a commit.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
    try:
        ran = subprocess.run(
            command,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
