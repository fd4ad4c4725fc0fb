"""Where do several processes count? In a folder in memory, which ends with them, or with the next server's start.

A server that is killed cannot remove its folder. It holds its lock while it or a worker of it lives, for a lock
goes over to whom is forked: what nobody holds is of nobody.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from artefacts.locks import locked

PREFIX = "twinspire-counts-"


def memory() -> Path:
    """Where no full disk stops a count, and a read-only one does not matter; elsewhere where there is no such place."""
    found = Path("/dev/shm")
    return found if os.access(found, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def counts_folder(parent: Path) -> Iterator[Path]:
    """An empty folder of this server's own, which is gone after the block; what killed servers left goes first.

    Args:
        parent: Of the folders of all servers; `memory()`, but for tests.
    """
    remove_left_over(parent)
    with ExitStack() as held:
        folder = _locked_folder(parent, held)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(parent: Path) -> list[Path]:
    """Removes the folders of servers of this user of which no process lives any more; returns them."""
    removed = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        # Gone meanwhile, or of a server that lives.
        with suppress(FileNotFoundError, BlockingIOError):
            if not _is_own(folder):
                continue
            with locked(folder, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _locked_folder(parent: Path, held: ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # A server that starts at the same time may take it for left over before it is locked.
        with suppress(FileNotFoundError):
            held.enter_context(locked(folder))
            if folder.exists():
                return folder


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of this user: anybody may put a link, or a folder of that name, into such a place."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
