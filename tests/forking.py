"""Python programs that start by forking a process which has imported the heavy libraries already.

`Popen` and `run` replace those of `subprocess` for commands that begin with `sys.executable`. Importing
TensorFlow, Feast and Beam costs each new interpreter ten seconds; a fork costs a hundredth of one. Each process that
runs tests has one server to fork from, started when it is first needed, and what it forks is a child of the test
process, with its own arguments, environment, working directory and standard streams: it is waited for, signalled and
killed as any other.

What differs from a new interpreter: modules are imported before the program's environment is known, the seed of
Python's string hashes is shared, and the interpreter's options other than `-W`, `-m` and `-c` are refused. A test of
what happens at import, of what a process has loaded, or of a limit to its memory starts a real one, by `subprocess`.

Forking is safe because nothing that runs threads has begun by then: at the end of its imports, the server checks that
Python has one thread and that TensorFlow has no context. What remains are OpenBLAS's idle threads and the allocator's,
whose libraries prepare for a fork by `pthread_atfork`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
# Before Feast, whose import has all that is counted later shared among processes.
PRELOADED = (
    "prometheus_client",
    "feast",
    "duckdb",
    "apache_beam",
    "tensorflow",
    "tf_keras",
    "tensorflow_recommenders",
    "hnswlib",
    "ai_edge_litert.interpreter",
    "implicit",
    "matplotlib.pyplot",
    "scipy.stats",
    "fastapi",
    "uvicorn",
    "twinspire.cli",
    "twinspire.main_job",
)
# As the command sets them before it imports anything.
ENVIRONMENT = {
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "2",
    "MPLBACKEND": "Agg",
}
MAX_MESSAGE_BYTES = 1 << 17
PR_SET_CHILD_SUBREAPER = 36


class Popen(subprocess.Popen[Any]):
    """A program that is forked; the arguments are those of `subprocess.Popen`.

    Args:
        limits: Resource -> soft and hard limit that the program sets itself before it begins; in place of a
            `preexec_fn`, which cannot be handed over.
    """

    def __init__(self, args: Sequence[str], *, limits: dict[int, tuple[int, int]] | None = None, **options: Any):
        """Forks the program."""
        self._limits = limits or {}
        super().__init__(args, **options)

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
        start_new_session, process_group,
    ) -> None:  # fmt: skip
        assert preexec_fn is None, "a function cannot be handed over"
        assert not pass_fds, "only the standard streams are handed over"
        assert not shell, "a program is forked, not a shell"
        request = {
            **_parsed([str(part) for part in args]),
            "cwd": os.fspath(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "new_session": start_new_session,
            "limits": list(self._limits.items()),
        }
        streams = [own if own != -1 else standard for standard, own in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = _server().fork(request, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(
    args: Sequence[str], *, check: bool = False, capture_output: bool = False, timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Forks a program and waits for its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    ran = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        ran.check_returncode()
    return ran


def _parsed(command: list[str]) -> dict[str, Any]:
    """What a command line of the interpreter asks for."""
    interpreter, *rest = command
    if interpreter != sys.executable:
        raise ValueError(f"command begins with {interpreter}, expected {sys.executable}; use subprocess for others")
    options = []
    while rest[0] == "-W":
        options.append(rest[1])
        rest = rest[2:]
    if rest[0] in ("-m", "-c"):
        return {"kind": rest[0], "target": rest[1], "arguments": rest[2:], "warnings": options}
    if rest[0].startswith("-"):
        raise ValueError(f"{rest[0]} is an option that a forked program cannot have; use subprocess")
    return {"kind": "", "target": rest[0], "arguments": rest[1:], "warnings": options}


class _Server:
    """The client's end of a process to fork from.

    What is forked is an orphan at once, and orphans become children of the nearest process above them that asks for
    them: this one, while it waits for an answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, _python_path()))}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self.process.stderr is not None
        if self._socket.recv(MAX_MESSAGE_BYTES) != b"ready":
            raise RuntimeError(f"the process to fork from did not start:\n{self.process.stderr.read()}")
        atexit.register(self.close)

    def close(self) -> None:
        """Ends the process; what it has forked lives on."""
        self._socket.close()
        self.process.communicate()

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        with self._lock:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
                answer = self._socket.recv(MAX_MESSAGE_BYTES)
            finally:
                _adopt_orphans(False)
        if not answer.isdigit():
            raise OSError(answer.decode() or "the process to fork from has ended")
        return int(answer)


def _python_path() -> list[str]:
    return [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]


def _adopt_orphans(adopt: bool) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


_started: list[_Server] = []
_starting = threading.Lock()


def _server() -> _Server:
    with _starting:
        if not _started:
            _started.append(_Server())
        return _started[0]


def _serve(control: socket.socket) -> dict[str, Any]:
    """Forks for each request until the socket closes; returns, in the child alone, what it is to do."""
    control.send(b"ready")
    while True:
        message, streams, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 3)
        if not message:
            os._exit(0)
        answer, to_server = os.pipe()
        start, to_child = os.pipe()
        between = os.fork()
        if not between:
            if os.fork():
                os._exit(0)
            try:
                request: dict[str, Any] = json.loads(message)
                _become(request, streams)
            except Exception as error:
                os.write(to_server, repr(error).encode())
                os._exit(127)
            os.write(to_server, str(os.getpid()).encode())
            for descriptor in (answer, to_server, to_child, control.detach()):
                os.close(descriptor)
            # Ends when the server closes it, by when this is a child of the test process.
            os.read(start, 1)
            os.close(start)
            return request
        os.waitpid(between, 0)
        for descriptor in (to_server, start, *streams):
            os.close(descriptor)
        control.send(os.read(answer, 1 << 12))
        os.close(to_child)
        os.close(answer)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Takes on what a new process would have been given."""
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
    for stream in streams:
        os.close(stream)
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind, limit in request["limits"]:
        resource.setrlimit(kind, tuple(limit))


def _execute(request: dict[str, Any]) -> int:
    """Runs the program as the interpreter would; returns its exit code."""
    kind, target = request["kind"], request["target"]
    sys.warnoptions[:] = request["warnings"]
    for option in request["warnings"]:
        warnings.simplefilter(option)
    sys.argv = ["-c" if kind == "-c" else target, *request["arguments"]]
    sys.path[0] = "" if kind == "-c" else request["cwd"] if kind == "-m" else str(Path(target).parent)
    try:
        if kind == "-m":
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(target, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
        else:
            runpy.run_path(target, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _end(code: int) -> None:
    """Ends as the interpreter does, but that modules are not taken apart, which costs a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    # An interrupt at the keyboard reaches the tests, whose end is this process's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    filters = warnings.filters[:]
    warnings.simplefilter("ignore")
    for name in PRELOADED:
        importlib.import_module(name)
    from tensorflow.python.eager import context

    assert threading.active_count() == 1, threading.enumerate()
    assert context._context is None, "TensorFlow has begun to run"
    gc.collect()
    gc.freeze()
    request = _serve(control)
    warnings.filters[:] = filters
    _end(_execute(request))


if __name__ == "__main__":
    _main()
