"""A run holds its lock while it lives, and reading the lock blocks no other run."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from artefacts.locks import LOCK_FILE, BusyError, holder_of, locked, only_run

NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
HOLDER = """
import datetime as dt, os, sys
from pathlib import Path
from artefacts.locks import locked, only_run
with {lock}:
    # The forked child reports, when it has dropped what it is to drop. Both live until standard input ends.
    if os.fork() == 0:
        print("forked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def forked_by_a_killed_holder(lock: str) -> Iterator[None]:
    """During the block, a process lives that was forked under a lock; the one that took the lock was killed."""
    command = [sys.executable, "-c", HOLDER.format(lock=lock)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"forked\n"
        holder.kill()
        holder.wait()
        yield


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    with only_run(tmp_path, command="twinspire daily", now=NOW):
        assert (holder_of(tmp_path) or {})["command"] == "twinspire daily"
        with (
            pytest.raises(BusyError, match=r"twinspire daily is at work here \(process \d+ on .*2024-03-01"),
            only_run(tmp_path, command="twinspire run", now=NOW),
        ):
            pass
    assert holder_of(tmp_path) is None
    with only_run(tmp_path, command="twinspire run", now=NOW):
        pass


def test_a_run_that_was_killed_frees_the_lock_although_its_children_live(tmp_path: Path) -> None:
    lock = f"only_run(Path({str(tmp_path)!r}), command='twinspire train', now=dt.datetime(2024, 3, 1))"
    with forked_by_a_killed_holder(lock):
        assert "twinspire train" in (tmp_path / LOCK_FILE).read_text()
        assert holder_of(tmp_path) is None
        with only_run(tmp_path, command="twinspire run", now=NOW):
            assert (holder_of(tmp_path) or {})["command"] == "twinspire run"


def test_the_lock_of_a_folder_is_held_by_the_last_process_that_was_forked_under_it(tmp_path: Path) -> None:
    with (
        forked_by_a_killed_holder(f"locked(Path({str(tmp_path)!r}))"),
        pytest.raises(BlockingIOError),
        locked(tmp_path, wait=False),
    ):
        pass
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_reading_the_lock_blocks_no_run(tmp_path: Path) -> None:
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            holder_of(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(200):
            with only_run(tmp_path, command="twinspire daily", now=NOW):
                assert holder_of(tmp_path) is not None
    finally:
        ended.set()
        looking.join()
