"""Multi-worker serving: one parent opens bundles, forked workers answer from one socket and one copy of a bundle.

The parent opens and verifies a bundle, and forks workers that share its memory; a page is copied where one of them
writes to it. What must not cross a fork (connections of the feature store, threads, event loops) a worker makes itself,
and asks every retriever once before it takes requests. When another bundle is published, the workers of the one before
continue until all new ones take requests, and then drain. A worker that dies is replaced.

A socket connects each worker to its parent: the worker reports that it is ready, or why it cannot be; the parent
reports the state of bundles. When the parent ends, the socket closes, and the worker stops, too.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NoReturn

from starlette.types import ASGIApp

from artefacts.files import json_text
from serving.live import LOOK_SECONDS, Live, Refusal, may_pass
from serving.recommender import Recommender
from serving.web import server
from serving.web.metrics import Metrics, counts_folder, ended, memory, share

READY = b"ready"
PASSING = b"passing: "
"""How a worker's reason begins where it may pass by itself."""
START_SECONDS = 120.0
"""What a worker may take until it is ready."""
STOP_SECONDS = server.KEEP_ALIVE_SECONDS + server.DRAIN_SECONDS + 5.0
"""What it may take to stop before it is killed."""
MAX_DEATHS, WITHIN_SECONDS = 5, 60.0
"""After more deaths within that many seconds, workers are not replaced until enough of them are older."""
PARENT = "parent"
_STOP = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = {*_STOP, signal.SIGCHLD}
_LOOK_AT_SIGNALS_SECONDS = 0.2
_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)

MakeApp = Callable[[Live, Metrics, Callable[[], object]], ASGIApp]
"""Makes the application of a worker from bundles, metrics, and what it has to call when it starts."""


class WorkerError(ValueError):
    """A worker never became ready; the message has the reason.

    Args:
        message: The reason.
        may_pass: Whether it may pass by itself.
    """

    def __init__(self, message: str, *, may_pass: bool) -> None:
        """Takes both."""
        super().__init__(message)
        self.may_pass = may_pass


class _StopError(BaseException):
    """The server is to stop while it waits for workers; not an `Exception`, so that no handler of errors catches it."""


@dataclass(frozen=True)
class Worker:
    """A process that answers, as its parent knows it."""

    pid: int
    place: str
    """Which of those that run at the same time."""
    channel: socket.socket


def run(live: Callable[[], Live], make_app: MakeApp, host: str, port: int, *, num_workers: int) -> None:
    """Serves with several processes until SIGTERM or SIGINT.

    Args:
        live: Opens the bundles without asking them anything.
        make_app: Makes the application; called in each worker.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one. The address is printed once all workers are ready.
        num_workers: How many processes answer.

    Raises:
        OSError: The address is in use or not one of this machine.
        WorkerError: The published bundle cannot be answered from.
    """
    with counts_folder(memory()) as folder, server.bind(host, port) as listener:
        Workers(live(), make_app, listener, num_workers=num_workers, folder=folder).run()


class Workers:
    """The parent.

    Args:
        live: Bundles, opened and not asked anything.
        make_app: Makes the application of a worker.
        listener: Where connections come from.
        num_workers: How many processes answer.
        folder: Empty; where processes count.
    """

    def __init__(
        self, live: Live, make_app: MakeApp, listener: socket.socket, *, num_workers: int, folder: Path
    ) -> None:
        """Starts nothing yet."""
        self._live, self._make_app, self._listener, self._num_workers = live, make_app, listener, num_workers
        self._folder, self._place = folder, PARENT
        share(folder, lambda: self._place)
        self._metrics = Metrics(folder)
        self._answering: list[Worker] = []
        self._leaving: dict[Worker, float] = {}
        self._deaths: deque[float] = deque()
        self._reported: bytes = b""
        self._must_stop = False

    def run(self) -> None:
        """Starts workers, and keeps them at work until SIGTERM or SIGINT; those under way are drained then.

        Raises:
            WorkerError: One of the first workers does not become ready.
        """
        # Waited for in one place, instead of interrupting what is under way.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        # A thread of a library that does not block them, as one that is older, may be given a signal while this one is
        # busy: without a handler that would end the process at once.
        handlers = {number: signal.signal(number, self._note) for number in _STOP}
        try:
            self._answering = self._start(self._num_workers)
            server.announce(self._listener)
            self._keep()
        except _StopError:
            pass
        finally:
            self._stop()
            # In this order: a signal that was seen and not taken is ours still.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._must_stop = True

    def _keep(self) -> None:
        next_look = 0.0
        while True:
            received = signal.sigtimedwait(_SIGNALS, LOOK_SECONDS)
            if self._must_stop or (received is not None and received.si_signo in _STOP):
                return
            self._reap()
            self._replace()
            if time.monotonic() >= next_look:
                self._live.look(self._take_over)
                next_look = time.monotonic() + LOOK_SECONDS
            self._report()

    def _take_over(self, new: Recommender) -> None:
        """Starts workers that answer from a bundle, and has the others leave once all of them are ready."""
        before, self._answering = self._answering, self._start(self._num_workers, new)
        for worker in before:
            self._dismiss(worker)

    def _replace(self) -> None:
        missing = self._num_workers - len(self._answering)
        now = time.monotonic()
        while self._deaths and self._deaths[0] < now - WITHIN_SECONDS:
            self._deaths.popleft()
        if not missing or len(self._deaths) > MAX_DEATHS:
            return
        try:
            self._answering += self._start(missing)
        except WorkerError as error:
            self._died(str(error))
        else:
            self._metrics.workers_replaced.inc(missing)

    def _start(self, number: int, new: Recommender | None = None) -> list[Worker]:
        started: list[Worker] = []
        ready: list[Worker] = []
        try:
            with _frozen():
                for _ in range(number):
                    started.append(self._fork(new, started))
            for worker in started:
                self._wait_for(worker)
                ready.append(worker)
        except BaseException:
            for worker in started:
                # One that is ready answers already, so that it has to drain.
                is_ready = worker in ready or _reply(worker, 0.0) == READY
                self._dismiss(worker, signal.SIGTERM if is_ready else signal.SIGKILL)
            raise
        return started

    def _wait_for(self, worker: Worker) -> None:
        deadline, reply = time.monotonic() + START_SECONDS, None
        while reply is None and time.monotonic() < deadline:
            if self._must_stop or signal.sigpending() & _STOP:
                raise _StopError
            reply = _reply(worker, _LOOK_AT_SIGNALS_SECONDS)
        if reply != READY:
            late = f"it was not ready within {START_SECONDS:.0f} seconds"
            is_passing = reply is None or reply.startswith(PASSING)
            why = late if reply is None else reply.removeprefix(PASSING).decode() or "it died"
            raise WorkerError(f"a worker cannot answer: {why}", may_pass=is_passing)

    def _fork(self, new: Recommender | None, siblings: list[Worker]) -> Worker:
        taken = {worker.place for worker in (*self._answering, *self._leaving, *siblings)}
        place = next(str(number) for number in count() if str(number) not in taken)
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        with warnings.catch_warnings():
            # jemalloc's and Arrow's threads, which both start again in a child; no thread of ours runs.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            pid = os.fork()
        if pid:
            theirs.close()
            return Worker(pid, place, ours)
        ours.close()
        for other in (*self._answering, *self._leaving, *siblings):
            other.channel.close()
        self._place = place
        self._work(theirs, new)

    def _work(self, channel: socket.socket, new: Recommender | None) -> NoReturn:
        """What a worker does, in its own process, which always ends here."""
        code, is_ready = 1, False

        def ready() -> None:
            nonlocal is_ready
            is_ready = True
            channel.sendall(READY + b"\n")

        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if new is not None:
                self._live.take(new)
            self._live.warm_up(is_new=new is not None)
            app = self._make_app(self._live, self._metrics, lambda: _listen(channel, self._live))
            server.serve(app, self._listener, ready=ready)
            code = 0
        except BaseException as error:
            if is_ready:
                traceback.print_exc()
            else:
                reason = f"{type(error).__name__}: {error}\n".encode()
                channel.sendall(PASSING + reason if may_pass(error) else reason)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not the parent's clean-up, which others still need.
            os._exit(code)

    def _dismiss(self, worker: Worker, how: signal.Signals = signal.SIGTERM) -> None:
        os.kill(worker.pid, how)
        self._leaving[worker] = time.monotonic() + STOP_SECONDS

    def _reap(self) -> None:
        """Reaps exited workers, and kills those that do not stop in time."""
        now = time.monotonic()
        for worker, deadline in list(self._leaving.items()):
            if self._has_ended(worker) is not None:
                del self._leaving[worker]
            elif now > deadline:
                _log.error("worker %d does not stop and is killed", worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
        for worker in list(self._answering):
            status = self._has_ended(worker)
            if status is not None:
                self._answering.remove(worker)
                self._died(f"worker {worker.pid} ended with {_exit_of(status)}")

    def _has_ended(self, worker: Worker) -> int | None:
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if not pid:
            return None
        worker.channel.close()
        ended(self._folder, worker.place)
        return os.waitstatus_to_exitcode(status)

    def _died(self, why: str) -> None:
        self._deaths.append(time.monotonic())
        if len(self._deaths) > MAX_DEATHS:
            _log.error(
                "%s; %d others answer, and it is not replaced yet: more than %d have died within %.0f seconds",
                why, len(self._answering), MAX_DEATHS, WITHIN_SECONDS,
            )  # fmt: skip
        else:
            _log.error("%s; it is replaced", why)

    def _report(self) -> None:
        state = _to_line(self._live)
        if state == self._reported:
            return
        self._reported = state
        for worker in self._answering:
            try:
                worker.channel.send(state, socket.MSG_DONTWAIT)
            except OSError:
                continue  # It has died, which is found out elsewhere.

    def _stop(self) -> None:
        self._listener.close()
        for worker in self._answering:
            self._dismiss(worker)
        self._answering = []
        while self._leaving:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            self._reap()


def _reply(worker: Worker, seconds: float) -> bytes | None:
    """What a worker reports within some time; empty once it has died, None where it reports nothing."""
    readable, _, _ = select.select([worker.channel], [], [], seconds)
    return worker.channel.recv(1 << 16).strip() if readable else None


def _listen(channel: socket.socket, live: Live) -> None:
    """Follows what the parent reports, in its own thread."""

    def run() -> None:
        with channel.makefile("rb") as lines:
            for line in lines:
                live.adopt_state(*_from_line(line))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=run, name="parent", daemon=True).start()


def _to_line(live: Live) -> bytes:
    refusal = live.refusal
    plain = None if refusal is None else [refusal.bundle_version, refusal.reason, refusal.moment.isoformat()]
    return json_text([plain, live.num_swaps]).encode() + b"\n"


def _from_line(line: bytes) -> tuple[Refusal | None, int]:
    plain, num_swaps = json.loads(line)
    refusal = None if plain is None else Refusal(plain[0], plain[1], dt.datetime.fromisoformat(plain[2]))
    return refusal, num_swaps


@contextmanager
def _frozen() -> Iterator[None]:
    """Keeps the children's garbage collectors from writing to, and so from copying, what was there before them."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _exit_of(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
