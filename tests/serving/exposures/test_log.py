"""The exposure log writes every list, and requests continue where it cannot."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features.forgotten import Forgotten
from serving.exposures import log as module
from serving.exposures.files import Exposure, exposure_files, read_exposures, write_exposures
from serving.exposures.log import TRIED_ROWS, ExposureLog
from tests import forking

REPOSITORY = Path(__file__).parents[2]
DAY = dt.date(2024, 1, 31)
MIDNIGHT = 1_706_745_600  # 2024-02-01 00:00 UTC
NEVER = 3600.0
# Longer than anything takes that a test waits for.
PATIENCE = 30.0


def shown(user: str, moment: float = MIDNIGHT - 1) -> Exposure:
    """Takes three of a queue."""
    return Exposure(moment, user, "a", "v", "fused", 2, (), ["i1", "i2"])


class Counts:
    """What a log counts, and somebody to wait for it."""

    def __init__(self) -> None:
        self.written, self.dropped = 0, 0
        self._changed = threading.Condition()

    def wrote(self, number: int) -> None:
        with self._changed:
            self.written += number
            self._changed.notify_all()

    def lost(self, number: int) -> None:
        with self._changed:
            self.dropped += number
            self._changed.notify_all()

    def wait(self, written: int = 0, dropped: int = 0) -> None:
        def reached() -> bool:
            return self.written >= written and self.dropped >= dropped

        with self._changed:
            assert self._changed.wait_for(reached, PATIENCE), (self.written, self.dropped)


class Lines(logging.Handler):
    """Lines of the log, and somebody to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.texts.append(record.getMessage())
            self._changed.notify_all()

    def wait(self, number: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.texts) >= number, PATIENCE), self.texts
        return self.texts


@pytest.fixture
def lines() -> Any:
    handler, logger = Lines(), logging.getLogger("serving.exposures.log")
    logger.addHandler(handler)
    # Commands that ran before in this process keep the root logger at errors.
    logger.setLevel(logging.WARNING)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def opened(folder: Path, counts: Counts, **changes: Any) -> ExposureLog:
    options = {"flush_seconds": NEVER, "max_rows": 1000} | changes
    return ExposureLog(folder, count_written=counts.wrote, count_dropped=counts.lost, **options)


def users(folder: Path, first: dt.date = dt.date.min, end: dt.date = dt.date.max) -> list[str]:
    return [user for batch in read_exposures(folder, first, end) for user in batch.column("user_id").to_pylist()]


def test_closing_writes_the_rest_in_order_by_day(tmp_path: Path, counts: Counts) -> None:
    log = opened(tmp_path, counts)
    log.add([shown("u1"), shown("u2")])
    log.add([])
    log.add([shown("u3"), shown("u4", MIDNIGHT), shown("u5")])
    assert exposure_files(tmp_path) == []
    log.close()
    assert users(tmp_path, DAY, dt.date(2024, 2, 1)) == ["u1", "u2", "u3", "u5"]
    assert users(tmp_path, dt.date(2024, 2, 1)) == ["u4"]
    assert (counts.written, counts.dropped) == (5, 0)
    log.close()


def test_rows_after_closing_are_dropped(tmp_path: Path, counts: Counts) -> None:
    log = opened(tmp_path, counts)
    log.close()
    log.add([shown("u1")])
    assert (exposure_files(tmp_path), counts.dropped) == ([], 1)


def test_so_many_rows_are_written_at_once_and_fewer_after_a_time(tmp_path: Path, counts: Counts) -> None:
    log = opened(tmp_path / "rows", counts, max_rows=3)
    log.add([shown("u1"), shown("u2")])
    log.add([shown("u3"), shown("u4")])
    counts.wait(written=4)
    log.close()
    log = opened(tmp_path / "time", counts, flush_seconds=0.01)
    log.add([shown("u1")])
    counts.wait(written=5)
    log.close()
    assert len(exposure_files(tmp_path / "rows")) == len(exposure_files(tmp_path / "time")) == 1


def test_long_lists_are_written_before_they_fill_the_queue(tmp_path: Path, counts: Counts) -> None:
    log = opened(tmp_path, counts, queue_items=12)
    log.add([shown("u1"), shown("u2")])
    counts.wait(written=2)
    log.close()


def test_threads_add_at_once_and_nothing_is_lost(tmp_path: Path, counts: Counts) -> None:
    log = opened(tmp_path, counts, max_rows=100)

    def add(thread: int) -> None:
        for number in range(300):
            log.add([shown(f"{thread} {number}")])

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = users(tmp_path)
    assert (len(found), counts.written, counts.dropped) == (1200, 1200, 0)
    for number in range(4):
        assert [user for user in found if user.startswith(f"{number} ")] == [f"{number} {row}" for row in range(300)]


def test_a_process_that_starts_again_overwrites_nothing(tmp_path: Path, counts: Counts) -> None:
    for number in range(3):
        log = opened(tmp_path, counts)
        log.add([shown(f"u{number}")])
        log.close()
    assert sorted(users(tmp_path)) == ["u0", "u1", "u2"]
    assert [path.name[16:] for path in exposure_files(tmp_path)] == ["-000000.parquet"] * 3


def test_rows_beyond_the_queue_are_dropped_while_writes_fail_and_the_rest_is_written_later(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    folder = tmp_path / "exposures"
    folder.write_text("in the way")
    log = opened(folder, counts, flush_seconds=0.02, queue_items=10)
    log.add([shown("u1"), shown("u2")])
    [line] = lines.wait(1)
    assert line.startswith(f"exposures cannot all be written to {folder} (")
    assert line.endswith("); what finds no room is dropped, requests are answered")
    log.add([shown(f"u{number}") for number in range(3, 7)])
    assert counts.dropped == 3
    folder.unlink()
    counts.wait(written=3)
    assert lines.wait(2)[1] == "exposures are written again; 3 were dropped"
    log.add([shown("u7")])
    log.close()
    assert users(folder) == ["u1", "u2", "u3", "u7"]
    assert (counts.written, counts.dropped, len(lines.texts)) == (4, 3, 2)


def test_rows_that_cannot_be_written_before_the_end_are_dropped_and_reported(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    folder = tmp_path / "exposures"
    folder.write_text("in the way")
    log = opened(folder, counts)
    log.add([shown("u1"), shown("u2")])
    log.close()
    assert (counts.written, counts.dropped) == (0, 2)
    assert lines.texts[1:] == ["2 exposures could not be written before the end and are dropped"]


FULL_DISK = """
import json, logging, resource, sys, threading
from pathlib import Path
from serving.exposures.log import ExposureLog
from serving.exposures.files import Exposure, exposure_files, read_exposures
import datetime as dt

folder, texts, logged, written = Path(sys.argv[1]), [], threading.Semaphore(0), threading.Semaphore(0)

class Handler(logging.Handler):
    def emit(self, record):
        texts.append(record.getMessage())
        logged.release()

logging.getLogger("serving.exposures.log").addHandler(Handler())
dropped = []
log = ExposureLog(
    folder, flush_seconds=0.02, max_rows=1, queue_items=7,
    count_written=lambda number: written.release(number), count_dropped=dropped.append,
)
shown = [Exposure(1_706_745_600, f"u{number}", "a", "v", "fused", 2, (), ["i1", "i2"]) for number in range(4)]
log.add(shown[:1])
assert written.acquire(timeout=30)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
log.add(shown[1:])
assert logged.acquire(timeout=30)
left = [path.name for path in folder.rglob("*.tmp")]
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert written.acquire(timeout=30) and logged.acquire(timeout=30)
log.close()
found = [user for batch in read_exposures(folder, dt.date.min, dt.date.max) for user in batch["user_id"].to_pylist()]
print(json.dumps({"texts": texts, "dropped": dropped, "found": found}))
"""


def test_a_full_disk_loses_only_rows_beyond_the_queue(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path / "exposures")]
    ran = forking.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=120)
    found = json.loads(ran.stdout)
    assert found["found"] == ["u0", "u1", "u2"]
    assert found["dropped"] == [1]
    assert "File too large" in found["texts"][0]
    assert found["texts"][1:] == ["exposures are written again; 1 were dropped"]
    assert list(tmp_path.rglob("*.tmp")) == []


def test_while_nothing_can_be_written_a_few_rows_are_tried_and_then_all_that_wait_in_order(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def write(table: pa.Table, path: Path) -> None:
        tried.append(table.num_rows)
        if len(tried) <= 3:
            raise OSError(28, "No space left on device")
        write_exposures(table, path)

    monkeypatch.setattr(module, "write_exposures", write)
    log = opened(tmp_path, counts, flush_seconds=0.02)
    shown_users = [f"u{number}" for number in range(TRIED_ROWS + 50)]
    log.add([shown(user) for user in shown_users])
    counts.wait(written=len(shown_users))
    log.add([shown("last")])
    log.close()
    # All of them, a few twice and in vain, a few, and the rest; then as before.
    assert tried == [TRIED_ROWS + 50, TRIED_ROWS, TRIED_ROWS, TRIED_ROWS, 50, 1]
    assert users(tmp_path) == [*shown_users, "last"]
    assert counts.dropped == 0


def test_a_row_that_no_file_can_hold_is_dropped_and_the_next_are_written(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    log = opened(tmp_path, counts, max_rows=1)
    log.add([shown("\ud800")])
    counts.wait(dropped=1)
    log.add([shown("u2")])
    log.close()
    assert (users(tmp_path), counts.written, counts.dropped) == (["u2"], 1, 1)
    assert "UnicodeEncodeError" in lines.texts[0]


def test_forgotten_users_are_not_written(tmp_path: Path, counts: Counts) -> None:
    people = tmp_path / "forgotten.json"
    log = opened(tmp_path / "exposures", counts, max_rows=1, forgotten=people)
    log.add([shown("u1")])
    counts.wait(written=1)
    Forgotten().and_also(["u1"]).save(people)
    log.add([shown("u1"), shown("u2")])
    log.close()
    assert users(tmp_path / "exposures") in (["u1", "u2"], ["u2", "u1"])
    assert (counts.written, counts.dropped) == (2, 0)


@pytest.mark.parametrize("asked", [["u1", "u2"], ["u1"]])
def test_a_user_forgotten_during_a_write_is_not_in_the_file(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    people, written = tmp_path / "forgotten.json", []

    def write(table: pa.Table, path: Path) -> None:
        write_exposures(table, path)
        written.append(table.column("user_id").to_pylist())
        if len(written) == 1:
            Forgotten().and_also(["u1"]).save(people)

    monkeypatch.setattr(module, "write_exposures", write)
    log = opened(tmp_path / "exposures", counts, forgotten=people)
    log.add([shown(user) for user in asked])
    log.close()
    assert written[0] == asked
    assert users(tmp_path / "exposures") == asked[1:]
    assert counts.written == len(asked) - 1


def test_a_list_of_the_forgotten_that_cannot_be_read_holds_all_back(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    people = tmp_path / "forgotten.json"
    people.write_text("{")
    log = opened(tmp_path / "exposures", counts, flush_seconds=0.02, forgotten=people)
    log.add([shown("u1"), shown("u2")])
    [line] = lines.wait(1)
    assert "forgotten.json: cannot be read" in line
    assert exposure_files(tmp_path / "exposures") == []
    Forgotten().and_also(["u1"]).save(people)
    counts.wait(written=1)
    log.close()
    assert users(tmp_path / "exposures") == ["u2"]


def test_requests_are_answered_where_no_thread_can_be_started(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    log = opened(tmp_path, counts)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        log.add([shown("u1")])
    assert counts.dropped == 1
    log.add([shown("u2")])
    log.close()
    assert users(tmp_path) == ["u2"]
