"""Whether a forked program behaves as one that a new interpreter runs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking
from tests.once import once
from tests.waiting import changes, ends_within, wait_until

SEEN = """
import json, os, sys

print(json.dumps({
    "arguments": sys.argv, "folder": os.getcwd(), "own": os.environ.get("OWN"), "path": os.environ.get("PATH"),
    "warnings": sys.warnoptions, "parent": os.getppid(), "is_leader": os.getsid(0) == os.getpid(),
    "read": sys.stdin.read(),
}))
"""


def python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def test_a_program_gets_its_arguments_folder_environment_and_streams(tmp_path: Path) -> None:
    command = python("-W", "error", "-c", SEEN, "one", "two words")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with forking.Popen(command, cwd=tmp_path, env={"OWN": "ours"}, start_new_session=True, **streams) as process:
        output, _ = process.communicate("typed")
    assert process.returncode == 0
    assert json.loads(output) == {
        "arguments": ["-c", "one", "two words"],
        "folder": str(tmp_path),
        "own": "ours",
        "path": None,
        "warnings": ["error"],
        "parent": os.getpid(),
        "is_leader": True,
        "read": "typed",
    }


def test_a_script_is_the_main_module_and_finds_modules_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("value = 7\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, neighbour\nassert __name__ == '__main__'\nprint(neighbour.value, sys.argv)\n")
    ran = forking.run(python(script, "x"), capture_output=True, text=True, check=True)
    assert ran.stdout == f"7 {[str(script), 'x']}\n"


@pytest.mark.parametrize(
    ("code", "returned", "errors"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('in words')", 1, "in words\n"),
        ("raise SystemExit", 0, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import warnings; warnings.simplefilter('error'); warnings.warn('late')", 1, "UserWarning: late\n"),
        ("import atexit, sys; atexit.register(print, 'at the end', file=sys.stderr)", 0, "at the end\n"),
    ],
)
def test_a_program_ends_as_it_would(code: str, returned: int, errors: str) -> None:
    for run in (subprocess.run, forking.run):
        ran = run(python("-c", code), capture_output=True, text=True)
        assert ran.returncode == returned
        assert ran.stderr.endswith(errors)
        assert errors or not ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_the_program(number: signal.Signals) -> None:
    # Where tests run in the background of a shell, a new process would ignore an interrupt.
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal, sys; {heed}; print('ready', flush=True); sys.stdin.read()"
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    for popen in (subprocess.Popen, forking.Popen):
        with popen(python("-c", code), **streams) as process:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait() == -number


def test_tensorflow_runs_in_forked_programs_at_the_same_time() -> None:
    code = "import tensorflow as tf; x = tf.ones([50, 50]); print(float(tf.reduce_sum(tf.function(tf.matmul)(x, x))))"
    started = [forking.Popen(python("-c", code), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == ["125000.0\n"] * 2


def test_a_program_gets_its_limits() -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE))"
    command, limits = python("-c", code), {resource.RLIMIT_FSIZE: (4096, 8192)}
    with forking.Popen(command, limits=limits, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == "(4096, 8192)\n"


def test_programs_that_cannot_be_forked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"command begins with ls, expected .*; use subprocess for others"):
        forking.run(["ls"])
    with pytest.raises(ValueError, match="-X is an option that a forked program cannot have; use subprocess"):
        forking.run(python("-X", "dev", "-c", "pass"))
    with pytest.raises(OSError, match="FileNotFoundError"):
        forking.run(python("-c", "pass"), cwd=tmp_path / "gone")


def test_a_change_to_a_folder_is_seen_and_the_end_of_the_process_too(tmp_path: Path) -> None:
    code = "import sys; print(1, file=open(sys.argv[1], 'w'), flush=True); sys.stdin.read()"
    with forking.Popen(python("-c", code, tmp_path / "file"), stdin=subprocess.PIPE) as process:
        with changes(tmp_path, process) as seen:
            next(step for step in seen if (tmp_path / "file").exists())
            assert not ends_within(process, 0)
            process.stdin.close()
            assert list(seen) is not None
        wait_until(lambda: process.poll() == 0)


def test_a_condition_that_never_holds_ends_with_the_process() -> None:
    with (
        forking.Popen(python("-c", "raise SystemExit(3)")) as process,
        pytest.raises(AssertionError, match="the process ended with 3"),
    ):
        wait_until(lambda: False, process=process)


def test_all_processes_get_the_result_made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = []

    def make(folder: Path) -> Path:
        made.append(folder)
        (folder / "file").touch()
        return folder / "file"

    first, second = (once(tmp_path_factory, "test_once", make) for _ in range(2))
    assert first == second
    assert first.exists()
    assert len(made) == 1
