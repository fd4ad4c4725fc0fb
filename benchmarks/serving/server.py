"""A server under measurement: started by its command, loaded by another process, its CPU and memory from /proc."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """Latencies that clients saw, and the server's CPU time."""

    connections: int
    rate: float | None
    """Requests a second that were sent; None sent as fast as answers came."""
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of the server, per request."""


class Server:
    """`twinspire serve` in a process of its own.

    Args:
        flags: Configuration and runs.
        retriever: What answers.
    """

    def __init__(self, flags: list[str], *, retriever: str) -> None:
        """Starts nothing yet."""
        self._command = [sys.executable, "-m", "twinspire", "serve", *flags, "--port", "0"]
        self._command += ["--set", f"serving.retriever={retriever}"]
        self.start_seconds = 0.0

    def __enter__(self) -> Server:
        """Starts and waits until it listens."""
        begun = time.perf_counter()
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"{' '.join(self._command)} did not start: {line!r}")
        self.address = line.split()[-1]
        self.start_seconds = time.perf_counter() - begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it."""
        self._process.terminate()
        self._process.wait(30)

    def load(self, connections: int, seconds: float, *, k: int, rate: float | None = None) -> Load:
        """Has another process send requests for some time."""
        command = [sys.executable, str(HERE / "client.py"), self.address, str(connections), str(seconds), str(k)]
        before = self._cpu_seconds()
        ran = subprocess.run([*command, str(rate or 0)], check=True, capture_output=True, text=True)
        used = self._cpu_seconds() - before
        figures = json.loads(ran.stdout)
        return Load(
            connections,
            rate,
            figures["per_second"],
            figures["p50_ms"],
            figures["p99_ms"],
            used / figures["requests"] * 1e6,
        )

    def stages(self) -> dict[str, float]:
        """Mean wall-clock time of each stage so far, microseconds."""
        with urllib.request.urlopen(f"{self.address}/metrics") as answer:
            text = answer.read().decode()
        found = {}
        for stage, total in re.findall(r'twinspire_stage_seconds_sum\{stage="(\w+)"\} (\S+)', text):
            count = re.search(rf'twinspire_stage_seconds_count{{stage="{stage}"}} (\S+)', text)
            assert count is not None
            found[stage] = float(total) / float(count[1]) * 1e6
        return found

    def rss_bytes(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
