"""The exposure log: a bounded queue, and a thread that writes it to files while requests are answered.

What cannot be written now is kept and tried again; what finds no room meanwhile is dropped and counted. Requests are
still answered.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pyarrow as pa

from artefacts.files import signature_of
from features.forgotten import NOBODY, Forgotten, are_of
from serving.exposures.files import DAY, Exposure, to_table, write_exposures

# An item id that waits takes some 70 bytes.
QUEUE_ITEMS = 1_000_000
# Less than what one of several processes may take to stop once it is drained, before it is killed.
CLOSE_SECONDS = 4.0
TRIED_ROWS = 100
_log = logging.getLogger(__name__)


class ExposureLog:
    """Takes exposures from any thread and writes them in one of its own, which the first of them starts.

    Processes are to be forked before that. Each writes under a random name, so that none overwrites what another, or
    itself before a restart, has left.

    Args:
        folder: Where the folders of days go.
        flush_seconds: How often what waits is written.
        max_rows: So many that wait are written at once.
        forgotten: The list of people who are to be forgotten, whose exposures are not written; None knows of none.
        count_written: Called with numbers of exposures that are on disk.
        count_dropped: Called with numbers of those that are lost.
        queue_items: Most exposures and items of theirs, taken together, that wait or are being written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_seconds: float,
        max_rows: int,
        forgotten: Path | None = None,
        count_written: Callable[[int], object] = lambda number: None,
        count_dropped: Callable[[int], object] = lambda number: None,
        queue_items: int = QUEUE_ITEMS,
    ) -> None:
        """Writes nothing yet."""
        self._folder, self._flush_seconds, self._max_rows = folder, flush_seconds, max_rows
        self._count_written, self._count_dropped = count_written, count_dropped
        self._queue_items = queue_items
        self._people = _People(forgotten)
        self._changed = threading.Condition()
        # Of all threads, under the lock.
        self._waiting: list[Exposure] = []
        self._num_items = 0
        self._num_dropped = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        # Of the writing thread; adding only looks.
        self._fails = False
        self._process, self._number = "", 0
        self._in_trouble = False
        self._dropped_told, self._dropped_before = 0, 0

    def add(self, exposures: Sequence[Exposure]) -> None:
        """Takes exposures, or drops and counts those that find no room; never waits for a disk, never raises."""
        num_dropped = 0
        with self._changed:
            is_open = not self._closed and self._started()
            for exposure in exposures:
                if is_open and self._num_items + exposure.size <= self._queue_items:
                    self._waiting.append(exposure)
                    self._num_items += exposure.size
                else:
                    num_dropped += 1
            self._num_dropped += num_dropped
            if self._is_due():
                self._changed.notify()
        if num_dropped:
            self._count_dropped(num_dropped)

    def close(self) -> None:
        """Writes what waits, and accepts nothing after that."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)
            if thread.is_alive():
                _log.error("exposures are still being written after %g seconds; the rest is lost", CLOSE_SECONDS)

    def _started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="exposures", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The system has no threads left.
                return False
            self._thread = thread
        return True

    def _is_due(self) -> bool:
        """Whether what waits is written before its time; what failed is only tried again at its time."""
        is_much = len(self._waiting) >= self._max_rows or 2 * self._num_items >= self._queue_items
        return self._closed or (is_much and not self._fails)

    def _run(self) -> None:
        self._process = secrets.token_hex(8)
        held: list[Exposure] = []
        closed = False
        while not closed:
            with self._changed:
                self._changed.wait_for(self._is_due, self._flush_seconds)
                held += self._waiting
                self._waiting = []
                closed = self._closed
            left, problem = self._write(held)
            with self._changed:
                self._num_items -= sum(exposure.size for exposure in held) - sum(exposure.size for exposure in left)
                num_dropped = self._num_dropped
            held, self._fails = left, bool(left)
            self._tell(problem, num_dropped)
        if held:
            self._lose(len(held))
            _log.error("%d exposures could not be written before the end and are dropped", len(held))

    def _write(self, exposures: Sequence[Exposure]) -> tuple[list[Exposure], str | None]:
        """Writes a file for each day; returns what is to be tried again, and what was wrong."""
        left: list[Exposure] = []
        problem = None
        for day, group in groupby(exposures, attrgetter("day")):
            waiting = list(group)
            while waiting:
                # After a failure a few are tried first: a file of all that waits would cost its time again and again.
                part = waiting[:TRIED_ROWS] if self._fails else waiting
                is_written, wrong = self._write_part(part, self._folder / f"{DAY}{day}")
                problem = wrong or problem
                if not is_written:
                    left += waiting
                    break
                self._fails, waiting = False, waiting[len(part) :]
        return left, problem

    def _write_part(self, rows: Sequence[Exposure], folder: Path) -> tuple[bool, str | None]:
        """Writes a file; whether its rows are done with, and what was wrong."""
        path = folder / f"{self._process}-{self._number:06}.parquet"
        try:
            self._count_written(self._write_known(rows, path))
            self._number += 1
        except (OSError, _ForgottenError) as error:
            with suppress(OSError):  # Perhaps written with rows of forgotten people: written again later.
                path.unlink(missing_ok=True)
            return False, str(error)
        except Exception as error:  # Rows that no file can hold would otherwise be tried for ever.
            self._lose(len(rows))
            return True, f"{type(error).__name__}: {error}"
        return True, None

    def _write_known(self, rows: Sequence[Exposure], path: Path) -> int:
        """Writes the rows of those who are not forgotten; again if the list of forgotten people changed meanwhile."""
        table = to_table(rows)
        while True:
            forgotten = self._people.forgotten()
            kept = table
            if forgotten:
                kept = table.filter(pa.array(~are_of(forgotten, table.column("user_id"))))
            if kept.num_rows:
                write_exposures(kept, path)
            else:
                path.unlink(missing_ok=True)
            if self._people.forgotten() is forgotten:
                return int(kept.num_rows)

    def _lose(self, number: int) -> None:
        with self._changed:
            self._num_dropped += number
        self._count_dropped(number)

    def _tell(self, problem: str | None, num_dropped: int) -> None:
        """A line when it begins to go wrong, and one when all is well again."""
        if problem is None and num_dropped > self._dropped_told:
            problem = f"more than {self._queue_items:,} wait, counted with their items"
        if problem is not None and not self._in_trouble:
            self._in_trouble, self._dropped_before = True, self._dropped_told
            _log.error(
                "exposures cannot all be written to %s (%s); what finds no room is dropped, requests are answered",
                self._folder, problem,
            )  # fmt: skip
        elif problem is None and self._in_trouble:
            self._in_trouble = False
            _log.warning("exposures are written again; %d were dropped", num_dropped - self._dropped_before)
        self._dropped_told = num_dropped


class _ForgottenError(Exception):
    """The list of forgotten people cannot be read."""


class _People:
    """The list of people who are to be forgotten, read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._forgotten = NOBODY

    def forgotten(self) -> Forgotten:
        """The list now; the same object as long as it does not change."""
        seen = None if self._path is None else signature_of(self._path)
        if seen != self._seen:
            try:
                self._forgotten = NOBODY if self._path is None else Forgotten.load(self._path)
            except ValueError as error:
                raise _ForgottenError(str(error)) from None
            self._seen = seen
        return self._forgotten
