"""Files of the run folder: small ones are replaced atomically, JSON has no NaN, numbered ones are complete.

A small file is written to a temporary name, then renamed, so that no reader sees half of one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all; its folder is made if it is not there.

    Args:
        path: The file; what it held stays where writing fails.
        text: What it will hold.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file next to a file, which it replaces at the end of the block; its folder is made if need be.

    Args:
        path: The file; what it held stays where the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def signature_of(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file is replaced or written; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def json_text(
    value: object,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    default: Callable[[Any], object] | None = None,
) -> str:
    """A value as JSON: every JSON that is written comes from here, since Python's own may hold NaN, which JSON has not.

    Args:
        value: Of dicts, lists, tuples and plain values; a number that is not finite becomes null.
        indent: Spaces of each level; None writes one line.
        sort_keys: Whether keys are sorted.
        ensure_ascii: Whether other letters are escaped.
        default: Makes other values plain.
    """
    plain = without_nan(value)
    return json.dumps(  # noqa: TID251
        plain, indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii, default=default, allow_nan=False
    )


def json_value(text: str) -> Any:
    """What `json_text` wrote."""
    return json.loads(text)


def without_nan(value: object) -> Any:
    """The value with None in place of every number that is not finite, at any depth."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sync_folder(path: Path) -> None:
    """Has a file, or the names in a folder, on disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def all_files(folder: Path, *, advice: str) -> list[Path]:
    """The Parquet files of a finished job, by name.

    Args:
        folder: What the job has written.
        advice: What to do where a file is missing.

    Raises:
        ValueError: There are none, or fewer than their names promise.
    """
    files = sorted(folder.glob("*.parquet"))
    # Beam ends names with -00003-of-00008: without the last files, the rows that are there would have no gap.
    promised = {int(file.stem.rpartition("-of-")[2]) for file in files if "-of-" in file.stem}
    if not files or promised != {len(files)}:
        raise ValueError(f"{folder}: has {len(files)} of {max(promised, default=1)} files; {advice}")
    return files
