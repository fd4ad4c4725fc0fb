"""Soak test of the server under load and faults; checks every answer and writes the figures into docs/soak.md.

    make benchmark-soak MINUTES=10
    python -m benchmarks.soak --minutes 1 --out /tmp/soak.md

A dataset is made first, with two bundles and its features in a Redis that is started here. Two workers then answer a
client with constant load, while one fault after the other is injected. Exit status 1 if a well-formed request failed,
if an answer mixed bundles, if an expected event did not happen, or if a list in an answer is neither logged nor counted
as dropped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.soak.phases import PHASES, Others
from benchmarks.soak.report import Row, Soak, read_load, write_report
from benchmarks.soak.stand import ROOT, SoakError, Stand, environment, made
from serving.exposures.files import read_exposures

CONNECTIONS = 8
# Of one address; the load stays well below it, and a burst does not.
ALLOWED_PER_SECOND = 300.0
LOST = re.compile(r"(\d+) exposures could not be written before the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all phases together")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark_soak", help="made where not there yet")
    parser.add_argument("--redis-port", type=int, default=7399, help="the same for the same runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak.md", help="page whose figures are replaced")
    asked = parser.parse_args()
    with made(asked.runs, asked.redis_port) as stand:
        found = soak(stand, asked.minutes * 60, asked.rate, asked.runs)
    write_report(asked.out, found)
    for failure in found.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(bool(found.failures))


def soak(stand: Stand, seconds: float, rate: float, folder: Path) -> Soak:
    """All phases in turn, and the end."""
    log, samples = folder / "server.log", folder / "load.csv"
    found = Soak(environment(), rate, CONNECTIONS, seconds / 60)
    with stand.serving(requests_per_second=ALLOWED_PER_SECOND, log=log), samples.open("w") as out:
        command = [sys.executable, "-m", "benchmarks.soak.load", stand.address, str(rate), str(CONNECTIONS)]
        load = subprocess.Popen(command, cwd=ROOT, stdout=out)
        try:
            for name, phase in PHASES.items():
                _do(found, stand, name, lambda phase=phase: phase(stand, seconds / len(PHASES)))
            dropped = int(stand.counted("exposures_dropped_total"))
            _do(found, stand, "SIGTERM", lambda: _stop(stand, load))
            load.wait(60)
        finally:
            load.kill()
            load.wait()
        lines = log.read_text()
        found.dropped = dropped + sum(int(number) for number in LOST.findall(lines))
        batches = read_exposures(stand.paths.exposures, dt.date.min, dt.date.max, columns=["k"])
        found.logged = sum(batch.num_rows for batch in batches)
    read_load(found, samples)
    if "Traceback" in lines:
        found.failures.append(f"{log} has a trace")
    return found


def _do(found: Soak, stand: Stand, name: str, phase: object) -> None:
    assert callable(phase)
    memory, begun = stand.memory(), time.monotonic()
    print(f"{name} ...", flush=True)
    try:
        others = phase()
    except SoakError as error:
        found.failures.append(f"{name}: {error}")
        others = Others(note=str(error))
    print(f"    {others.note} {dict(others.statuses)}", flush=True)
    found.rows.append(Row(name, begun, time.monotonic(), others, memory, stand.memory()))


def _stop(stand: Stand, load: subprocess.Popen[bytes]) -> Others:
    """Ends the server under load."""
    begun = time.monotonic()
    stand.process.send_signal(signal.SIGTERM)
    status = stand.process.wait(60)
    seconds = time.monotonic() - begun
    load.wait(60)
    if status not in (0, -signal.SIGTERM):
        raise SoakError(f"the server ended with {status}")
    return Others(note=f"ended after {seconds:.1f} s")


if __name__ == "__main__":
    main()
