"""The console keeps the output of libraries back, and shows it with an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from artefacts.console import progress

HELD = """
import os
from artefacts.console import held_back
with held_back():
    os.write(2, b"chatter")
    {}
os.write(2, b"after")
"""
QUIET = """
import logging, warnings
from artefacts.console import quiet_libraries
quiet_libraries()
logging.warning("root chatter")
logging.getLogger("apache_beam.io").warning("beam chatter")
warnings.warn("deprecated chatter", DeprecationWarning)
logging.getLogger("feast").error("store is gone")
"""


def errors_of(code: str, **environment: str) -> str:
    """What a program writes to standard error."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, check=False, capture_output=True, text=True
    ).stderr


def test_output_is_discarded_when_a_step_succeeds() -> None:
    assert errors_of(HELD.format("pass")) == "after"


def test_output_is_shown_with_the_error() -> None:
    shown = errors_of(HELD.format("raise ImportError('no such library')"))
    assert shown.startswith("chatter")
    assert "ImportError: no such library" in shown


def test_nothing_is_held_back_in_verbose_mode() -> None:
    assert errors_of(HELD.format("pass"), TWINSPIRE_VERBOSE="1") == "chatterafter"


def test_libraries_log_errors_only() -> None:
    shown = errors_of(QUIET)
    assert "store is gone" in shown
    assert "chatter" not in shown


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", total=2) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
