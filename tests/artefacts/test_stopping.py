"""Signals end a command with a message, its own exit code, and without leaving processes behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

SIGNALS = [("TERM", 143), ("HUP", 129), ("INT", 130)]


def ended(body: str, number: str = "TERM") -> subprocess.CompletedProcess[str]:
    """A program that sends itself a signal in a step; `body` is what it does then."""
    code = f"""
import os, signal, subprocess, sys, threading, time
from artefacts.stopping import doing, stoppable
def stop():
    os.kill(os.getpid(), signal.SIG{number})
with stoppable(), doing("step 'train'"):
    {body}
"""
    return forking.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_a_step_with_a_message_and_its_own_exit_code(number: str, code: int) -> None:
    ran = ended("try: stop()\n    finally: print('in order')", number)
    assert (ran.returncode, ran.stdout) == (code, "in order\n")
    assert ran.stderr == (
        f"error: stopped by SIG{number} in step 'train'; what is finished is kept, and the same command does the rest\n"
    )


BUSY = {
    "an error made of it": "try: stop()\n    except BaseException: raise RuntimeError('Query interrupted')",
    "a thread that does not end": "threading.Thread(target=threading.Event().wait).start(); stop()",
    "a child": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); stop()",
}


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_what_libraries_do_does_not_keep_a_step_from_ending(body: str) -> None:
    ran = ended(body)
    assert ran.returncode == 143
    assert "stopped by SIGTERM in step 'train'" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        "try: stop()\n    except BaseException: threading.Event().wait()",
        # As a library in C++: the main thread runs no Python.
        "import ctypes; threading.Timer(0, stop).start(); ctypes.CDLL(None).sleep(300)",
    ],
)
def test_a_step_that_does_not_heed_the_signal_is_ended_all_the_same(body: str) -> None:
    ran = ended(body)
    assert ran.returncode == 143
    assert "stopped by SIGTERM in step 'train'" in ran.stderr


def test_children_end_with_the_step() -> None:
    ran = ended("print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid, flush=True); stop()")
    assert ran.returncode == 143
    stat = Path(f"/proc/{int(ran.stdout)}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_forked_child_keeps_the_usual_signals_and_the_parent_continues() -> None:
    # From 3.12 on, Python warns of a fork beside the thread that watches for signals.
    quiet = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)"
    ran = ended(f"{quiet}\n    child = os.fork()\n    if not child: stop()\n    print(os.waitpid(child, 0)[1])")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{int(signal.SIGTERM)}\n", "")


def test_ignored_signals_stay_ignored() -> None:
    code = """
import os, signal
from artefacts.stopping import stoppable
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stoppable():
    os.kill(os.getpid(), signal.SIGHUP)
"""
    assert forking.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(("code", "expected"), [(143, 143), (-15, 143), (1, 1)])
def test_a_worker_process_of_beam_that_is_ended_ends_the_step(code: int, expected: int) -> None:
    ran = ended(
        f"def run(): raise RuntimeError('Worker subprocess exited with return code {code}')\n"
        "    threading.Thread(target=run).start(); threading.Event().wait()"
    )
    assert ran.returncode == expected
    assert f"error: a worker process ended with exit code {expected} in step 'train'; what is finished" in ran.stderr


def test_handlers_are_put_back_when_a_command_is_over() -> None:
    from artefacts.stopping import stoppable

    before = signal.getsignal(signal.SIGTERM)
    files = len(os.listdir("/proc/self/fd"))
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) is not before
    with pytest.raises(ValueError, match="a mistake"), stoppable():
        raise ValueError("a mistake")
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(os.listdir("/proc/self/fd")) == files
