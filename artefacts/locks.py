"""Is somebody else writing this dataset's runs? One lock a dataset, which the system frees when its holder dies."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOCK_FILE = ".lock"
LOOK_SECONDS = 1.0


class BusyError(RuntimeError):
    """Another run holds the lock; the message says which."""


@contextmanager
def only_run(root: Path, *, command: str, now: dt.datetime) -> Iterator[None]:
    """Keeps other runs of a dataset out while the block lasts.

    Args:
        root: Folder of the dataset's runs, made if it is not there.
        command: What is being run, for the message that another one shows.
        now: Moment of the run.

    Raises:
        BusyError: Another run is at work.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK_FILE).open("a+", encoding="utf-8") as file:
        if not _taken(file):
            holder = _read(file) or {"command": "another run", "process": "?", "host": "?", "since": "?"}
            raise BusyError(
                f"{root}: {holder['command']} is at work here (process {holder['process']} on {holder['host']}, since "
                f"{holder['since']}); wait until it has ended, or stop it"
            )
        holder = {"command": command, "process": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()}
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _taken(file: Any) -> bool:
    """Takes the lock; tries again for a moment, as somebody may only be looking whether it is held."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS / 20)
        else:
            return True


def holder_of(root: Path) -> dict[str, Any] | None:
    """Which run is at work: command, process, host and since; None if none is."""
    path = root / LOCK_FILE
    if not path.exists():
        return None
    with path.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(file)
        return None


def _read(file: Any) -> dict[str, Any] | None:
    file.seek(0)
    try:
        found: dict[str, Any] = json.loads(file.read())
    except ValueError:
        # Taken a moment ago, and not yet signed.
        return None
    return found


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a folder during the block; it leaves no file behind. Not to be taken twice by one thread.

    Args:
        folder: Its file system must know `flock`, as local ones do.
        wait: Whether to wait for whoever holds it.

    Raises:
        BlockingIOError: Somebody holds it, and `wait` is false.
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
