"""Waiting for what another process does: a change to a folder, its end, or a condition that only polling shows."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IN_MODIFY, IN_MOVED_TO, IN_CREATE = 0x002, 0x080, 0x100
# Between two polls of a condition: short compared with a request, long compared with a poll.
LOOK_SECONDS = 0.01


@contextmanager
def changes(folder: Path, process: subprocess.Popen[Any]) -> Iterator[Iterator[None]]:
    """Yields at once, and each time that files directly in a folder have changed, until a process ends."""
    inotify = ctypes.CDLL(None, use_errno=True)
    watched, ended = inotify.inotify_init1(os.O_CLOEXEC), os.pidfd_open(process.pid)
    try:
        if inotify.inotify_add_watch(watched, os.fsencode(folder), IN_MODIFY | IN_MOVED_TO | IN_CREATE) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))

        def seen() -> Iterator[None]:
            yield
            while ended not in (ready := select.select([watched, ended], [], [])[0]):
                os.read(ready[0], 1 << 16)
                yield

        yield seen()
    finally:
        os.close(watched)
        os.close(ended)


def ends_within(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Waits for the end of a process, for so long at most."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def wait_until(
    holds: Callable[[], object], *, process: subprocess.Popen[Any] | None = None, seconds: float = 60
) -> None:
    """Looks at a condition until it holds, for what gives no sign when it changes: a server's answer, `/proc`.

    Args:
        holds: The condition.
        process: Fails at once when it has ended.
        seconds: Fails after so long, which is far beyond what a slow machine needs.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        if process is None:
            select.select([], [], [], LOOK_SECONDS)
        else:
            assert not ends_within(process, LOOK_SECONDS), f"the process ended with {process.returncode}"
