"""Locks: one run of a dataset at a time, and a lock on a folder; the system frees both when their holder dies."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from artefacts.files import json_text

LOCK_FILE = ".lock"


class BusyError(RuntimeError):
    """Another run holds the lock; the message names it."""


@contextmanager
def only_run(root: Path, *, command: str, now: dt.datetime) -> Iterator[None]:
    """Keeps other runs of a dataset out while the block lasts. Processes that are forked meanwhile do not hold it.

    Args:
        root: Folder of the dataset's runs, made if it is not there.
        command: The command that runs, for the message that another one shows.
        now: Moment of the run.

    Raises:
        BusyError: Another run is in progress.
    """
    # Takes 50 ms to import, and only runs need it.
    from filelock import FileLock, Timeout

    root.mkdir(parents=True, exist_ok=True)
    path = root / LOCK_FILE
    holder = {"command": command, "process": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()}
    with ExitStack() as held:
        # Who looks at the lock takes it for a moment, but only under the folder's lock: that look keeps no run out.
        with locked(root):
            try:
                held.enter_context(FileLock(path, blocking=False))
            except Timeout:
                other = json.loads(path.read_text(encoding="utf-8"))
                raise BusyError(
                    f"{root}: {other['command']} is at work here (process {other['process']} on {other['host']}, since "
                    f"{other['since']}); wait until it has ended, or stop it"
                ) from None
            path.write_text(json_text(holder), encoding="utf-8")
        yield


def holder_of(root: Path) -> dict[str, Any] | None:
    """The run in progress: its command, process, host and since; None if there is none."""
    from filelock import FileLock, Timeout

    path = root / LOCK_FILE
    if not path.exists():
        return None
    with locked(root):
        try:
            with FileLock(path, blocking=False):
                return None
        except Timeout:
            holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return holder


class Hold:
    """A shared lock of a folder, from now until this object is gone; it keeps `locked` out, and no other hold.

    Processes that are forked meanwhile hold it too, until the last of them lets go. Where the file system knows no such
    locks, nothing is held.

    Args:
        folder: Which.

    Raises:
        OSError: There is no such folder, or it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        """Waits for who has the folder for itself."""
        self._descriptor: int | None = None
        self._descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def __del__(self) -> None:
        """Lets go, by closing alone: unlocking would do so for processes that were forked, too."""
        if self._descriptor is not None:
            os.close(self._descriptor)


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a folder during the block; it leaves no file behind. Not to be taken twice by one thread.

    Processes that are forked meanwhile hold it too, until the block or the last of them ends.

    Args:
        folder: Its file system must know `flock`, as local ones do.
        wait: Whether to wait for another holder.

    Raises:
        BlockingIOError: Another holds it, and `wait` is false.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            # Closing alone would leave it to a process that was forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
