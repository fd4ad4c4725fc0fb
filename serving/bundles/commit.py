"""Of which commit is the code that runs?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SECONDS = 10


def code_commit(file: Path = Path(__file__)) -> str | None:
    """Commit of a file's git work tree.

    Args:
        file: One of the code; it must be tracked, because an installed copy may lie inside somebody else's work tree.

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
    # A hook's GIT_DIR would speak of another repository, and a lock taken here could stop somebody's commit.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *arguments]
    try:
        ran = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, timeout=_SECONDS, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
