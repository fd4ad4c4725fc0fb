"""Files of the run folder: small ones are replaced atomically, numbered ones are checked to be complete.

A small file is written to a temporary name, then renamed, so that no reader sees half of one.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all; its folder is made if it is not there.

    Args:
        path: The file; what it held stays where writing fails.
        text: What it will hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
