"""Stopping by signal: SIGTERM, SIGHUP and Ctrl-C end a command with a message, its child processes, and 128 + signal.

The signal raises `StoppedError` in the main thread, so that locks, temporary folders and records are left in order. A
library that is busy in C++, that swallows the error, or whose threads do not end gets `GRACE_SECONDS`; then the process
ends as after a kill, which every step survives.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE_SECONDS = 5.0
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
# The number of no signal.
_NONE = 0
_WORKER_ENDED = re.compile(r"Worker subprocess exited with return code (-?\d+)")
_doing: list[str] = []


class StoppedError(BaseException):
    """A signal asks the command to end; not an `Exception`, which libraries catch."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Names what the message says was stopped, such as `step 'train'`."""
    _doing.append(what)
    try:
        yield
    finally:
        _doing.remove(what)


@contextmanager
def stoppable() -> Iterator[None]:
    """Ends the process by message and exit code if a signal comes while the block runs.

    Signals that are ignored (`nohup`) or have a handler stay as they are, and so do those of processes that are forked.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number, default in _DEFAULTS.items() if is_main and signal.getsignal(number) is default]
    if not ours:
        yield
        return
    stop = _Stop(ours)
    try:
        yield
    except BaseException:
        # A library may have made another error of ours.
        if stop.received:
            stop.end(stop.received[0])
        raise
    finally:
        stop.close()


class _Stop:
    """Handlers of some signals, and the thread that ends the process where they cannot."""

    def __init__(self, ours: list[signal.Signals]) -> None:
        self.received: list[int] = []
        self._what = ""
        # Standard error may be held back when the message is due.
        self._ours, self._errors = ours, os.dup(2)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._process, self._is_over = os.getpid(), threading.Event()
        os.register_at_fork(after_in_child=self._leave_child)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in ours:
            signal.signal(number, self._note)
        self._excepthook, threading.excepthook = threading.excepthook, self._on_error_of_thread
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="signals")
        self._watcher.start()

    def close(self) -> None:
        """Puts the handlers back."""
        if os.getpid() != self._process:
            return
        self._restore()
        threading.excepthook = self._excepthook
        self._is_over.set()
        os.write(self._writing, bytes([_NONE]))
        self._watcher.join()
        for descriptor in (self._reading, self._writing, self._errors):
            os.close(descriptor)
        self._process = 0

    def end(self, number: int) -> NoReturn:
        """Ends this process and its children after a signal."""
        self._end(f"stopped by {signal.Signals(number).name}{self._what or _place()}", 128 + number)

    def _end(self, what: str, code: int) -> NoReturn:
        os.write(
            self._errors, f"error: {what}; what is finished is kept, and the same command does the rest\n".encode()
        )
        for child in _descendants(os.getpid()):
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
        with suppress(Exception):
            sys.stdout.flush()
        # Threads of libraries would keep the interpreter from ending, or abort it.
        os._exit(code)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self.received:
            self.received.append(number)
            self._what = _place()
            raise StoppedError

    def _watch(self) -> None:
        """Waits for a signal, which arrives here even while the main thread is busy."""
        # Signals with other handlers arrive too.
        while (number := os.read(self._reading, 1)[0]) not in self._ours:
            if number == _NONE:
                return
        if not self._is_over.wait(GRACE_SECONDS):
            self.end(number)

    def _on_error_of_thread(self, error: threading.ExceptHookArgs) -> None:
        """Beam's runner would wait without end for a worker process that was ended."""
        if found := _WORKER_ENDED.search(str(error.exc_value)):
            code = int(found[1]) if int(found[1]) > 0 else 128 - int(found[1])
            self._end(f"a worker process ended with exit code {code}{_place()}", code if code > 128 else 1)
        self._excepthook(error)

    def _leave_child(self) -> None:
        if self._process == os.getppid():
            self._restore()

    def _restore(self) -> None:
        signal.set_wakeup_fd(self._before)
        for number in self._ours:
            signal.signal(number, _DEFAULTS[number])


def _place() -> str:
    return f" in {_doing[-1]}" if _doing else ""


def _descendants(process: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            children = [int(child) for child in file.read_text().split()]
            found += [*children, *(below for child in children for below in _descendants(child))]
    return found
