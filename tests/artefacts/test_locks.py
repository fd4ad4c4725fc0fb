"""Does one run keep others out, and only while it lives?"""

from __future__ import annotations

import datetime as dt
import fcntl
import threading
from pathlib import Path

import pytest

from artefacts.locks import LOCK_FILE, BusyError, holder_of, only_run

NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
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


def test_somebody_who_only_looks_keeps_no_run_out(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    with (tmp_path / LOCK_FILE).open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, [looking.fileno(), fcntl.LOCK_UN]).start()
        with only_run(tmp_path, command="twinspire daily", now=NOW):
            assert holder_of(tmp_path) is not None
