"""The test stand of a soak: runs with two bundles, a Redis, a small disk for exposures, and the server."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from artefacts.paths import RunPaths
from benchmarks.serving.synthetic import write_synthetic
from serving.bundles.folder import list_bundles, published
from twinspire.load_config import load

ROOT = Path(__file__).parents[2]
NUM_ITEMS, NUM_WORKERS = 2_000, 2
DISK_BYTES = 64 << 20
PATIENCE_SECONDS = 120.0


class SoakError(Exception):
    """An expected event did not happen."""


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for something.

    Raises:
        SoakError: It does not come about.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SoakError(f"waited {PATIENCE_SECONDS:.0f} seconds in vain for {what}")
        time.sleep(0.1)


class Redis:
    """A `redis-server` that saves its data to a file on request.

    Args:
        folder: Of the file.
        port: Of this machine.
    """

    def __init__(self, folder: Path, port: int) -> None:
        """Starts nothing yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self._command = ["redis-server", "--port", str(port), "--dir", str(folder), "--save", "", "--bind", "127.0.0.1"]
        self.port = port

    def start(self) -> None:
        """Starts it with what was saved, and waits until it answers."""
        if shutil.which("redis-server") is None:
            raise SystemExit("no redis-server on this machine; on Debian: apt-get install redis-server")
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(lambda: self.process.poll() is not None or self._reply("ping") == "PONG", "an answer of redis-server")
        # The answer may have been another one's.
        if self.process.poll() is not None:
            raise SystemExit(f"redis-server did not start at port {self.port}; choose another --redis-port")

    def save(self) -> None:
        """Writes its data to its file."""
        if self._reply("save") != "OK":
            raise SoakError("redis-server could not save its data")

    def end(self) -> None:
        """Kills it: what it has not saved is lost."""
        self.process.kill()
        self.process.wait()

    def _reply(self, command: str) -> str:
        ran = subprocess.run(["redis-cli", "-p", str(self.port), command], capture_output=True, text=True, check=False)
        return ran.stdout.strip()


@dataclass
class Disk:
    """The folder of exposures on a file system of its own, or where that cannot be had, under a limit of file sizes.

    Attributes:
        folder: Where exposures go.
        workers: The processes that write them, for the limit.
        is_own: Whether it is a file system.
    """

    folder: Path
    workers: Callable[[], list[int]]
    is_own: bool

    def fill(self) -> None:
        """Fills the disk."""
        if not self.is_own:
            self._limit(1_000)
            return
        with (self.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 12)):
                pass

    def make_room(self) -> None:
        """Frees the disk."""
        if self.is_own:
            (self.folder / "filler").unlink()
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        for pid in self.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path, workers: Callable[[], list[int]]) -> Iterator[Disk]:
    """Mounts a small file system in memory at an empty folder, if this user may."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ran = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "soak", str(folder)], capture_output=True, check=False
    )
    try:
        yield Disk(folder, workers, ran.returncode == 0)
    finally:
        if ran.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


@dataclass
class Stand:
    """The server under test with what it depends on, by the names that faults need.

    Attributes:
        paths: Of the runs.
        versions: Two bundles.
        redis: The online store.
        flags: Of every command.
    """

    paths: RunPaths
    versions: tuple[str, str]
    redis: Redis
    flags: list[str]
    disk: Disk = field(init=False)
    process: subprocess.Popen[str] = field(init=False)
    address: str = field(init=False)

    @contextmanager
    def serving(self, *, requests_per_second: float, log: Path) -> Iterator[None]:
        """Starts the server, and kills it at the end if it is still there."""
        settings = {
            "serving.log_exposures": "true",
            "serving.exposure_flush_seconds": "2",
            "serving.requests_per_second": str(requests_per_second),
            "serving.body_seconds": "3",
        }
        command = [sys.executable, "-m", "twinspire", "serve", *self.flags, "--workers", str(NUM_WORKERS)]
        command += ["--port", "0", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
        with small_disk(self.paths.exposures, self.workers) as self.disk, log.open("w") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line.startswith("listening on "):
                raise SoakError(f"{' '.join(command)} did not start: {log.read_text()}")
            self.address = line.split()[-1]
            try:
                yield
            finally:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(60)
                self.process.stdout.close()

    def workers(self) -> list[int]:
        """Processes that answer, including those that drain; none once the server has ended."""
        pid = self.process.pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def memory(self) -> dict[str, float]:
        """Memory of all processes, MB of 10^6 bytes; in `Pss` a shared page counts once, in `Rss` once for each."""
        found = {"Pss": 0.0, "Rss": 0.0}
        for pid in (self.process.pid, *self.workers()):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                for name in found:
                    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
                    found[name] += 0.0 if match is None else int(match[1]) * 1024 / 1e6
        return found

    def get(self, path: str) -> str:
        """The answer of a path, over a connection of its own."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def counted(self, name: str) -> float:
        """A metric without labels."""
        match = re.search(rf"^twinspire_{name} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return 0.0 if match is None else float(match[1])


@contextmanager
def made(runs: Path, redis_port: int) -> Iterator[Stand]:
    """Makes runs with two bundles, unless they are there; Redis runs during the block."""
    redis = Redis(runs / "redis", redis_port)
    redis.start()
    try:
        config = write_synthetic(runs / "source", num_items=NUM_ITEMS)
        # The feature store holds the address, so that later runs need the same.
        settings = ["features.online_store=redis", f"features.redis_connection=localhost:{redis_port}"]
        settings += ["features.example_days=3", "training.example_days=3"]
        flags = ["--config", str(config), "--runs", str(runs)]
        flags += [part for setting in settings for part in ("--set", setting)]
        loaded = load(config, settings)
        paths = RunPaths(runs / loaded.name, loaded.as_of)
        for seed in (1, 2):
            if not paths.bundles.is_dir() or len(_versions(paths)) < seed:
                command = [sys.executable, "-m", "twinspire", "run", *flags, "--now", "2024-03-01"]
                subprocess.run([*command, "--set", f"seed={seed}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                redis.save()
        first = published(paths.bundles)
        assert first is not None
        second = next(version for version in _versions(paths) if version != first)
        yield Stand(paths, (first, second), redis, flags)
    finally:
        redis.process.send_signal(signal.SIGCONT)
        redis.end()


def _versions(paths: RunPaths) -> list[str]:
    return [entry.version for entry in list_bundles(paths.bundles) if entry.problem is None]


def environment() -> str:
    """The machine, in a sentence."""
    return f"{os.cpu_count()} cores, {os.uname().machine}, Python {sys.version.split()[0]}"
