"""Which bundle was published when, and which one before it? The pointer is the truth, this history is advice.

    bundles/published.jsonl   a line for each publication, appended just before the pointer moves

A line says which bundle the pointer named when it was written. The next line, or for the last one the pointer itself,
thereby tells whether the pointer did move; a process may have been killed between the two. A line that cannot be read,
such as the half one of a process killed while writing, counts as not there.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from serving.manifest import Declaration
from serving.version_names import VERSION_PATTERN

FILE_NAME = "published.jsonl"
Reason = Literal["bundle", "promote", "rollback"]


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
    tells of, such as one by hand, counts as a publication.

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
