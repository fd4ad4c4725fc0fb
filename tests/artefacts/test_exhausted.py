"""A full disk or exhausted memory is recognised, whichever library raised the error."""

from __future__ import annotations

import sqlite3

import pytest

from artefacts.console import ExhaustedError, exhausted, exhausted_step

NO_ROOM, NO_MEMORY = "there is no room to write", "memory ran out"


def beam_error() -> Exception:
    text = "Traceback (most recent call last):\n  File ...\nOSError: [Errno 27] Error writing bytes to file"
    return RuntimeError(text)


def with_cause() -> Exception:
    error = RuntimeError("a stage failed")
    error.__cause__ = MemoryError()
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), f"{NO_ROOM} ([Errno 28] No space left on device)"),
        (sqlite3.OperationalError("database or disk is full"), f"{NO_ROOM} (database or disk is full)"),
        (beam_error(), f"{NO_ROOM} (OSError: [Errno 27] Error writing bytes to file)"),
        (MemoryError("std::bad_alloc"), f"{NO_MEMORY} (std::bad_alloc)"),
        (RuntimeError("Out of Memory Error: 3 MB\nSee also https://example.org"), f"{NO_MEMORY} (Out of Memory"),
        (with_cause(), f"{NO_MEMORY} (MemoryError)"),
        (ImportError("operations.so: cannot map zero-fill pages"), f"{NO_MEMORY} (operations.so: cannot map"),
        (ImportError("a.so: failed to map segment from shared object"), f"{NO_MEMORY} (a.so: failed to map segment"),
    ],
)
def test_exhausted_disk_and_memory_are_named_with_the_line_of_the_error(error: Exception, message: str) -> None:
    assert (exhausted(error) or "").startswith(message)


@pytest.mark.parametrize(
    "error", [ValueError("no"), FileNotFoundError(2, "No such file"), RuntimeError("5 items in a room of 4")]
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert exhausted(error) is None


def test_an_error_met_while_a_failed_step_is_written_about_does_not_hide_the_step() -> None:
    of_step = ExhaustedError("step 'features': memory ran out")
    later = MemoryError()
    later.__context__ = of_step
    assert exhausted_step(later) is of_step
    assert exhausted_step(with_cause()) is None
