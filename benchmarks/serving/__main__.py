"""Cost of a request: bare search, every stage, and the server end to end: docs/serving_speed.md.

    make benchmark-serving                       # the built-in catalogue and a synthetic one of 200,000 items
    python benchmarks/serving --only built-in

Both catalogues go through the whole pipeline first, from events to a published bundle. A server in a process of its
own is then loaded by another process: over 1, 8 and 64 connections as fast as it answers, and at half of the most that
it answered, at random moments. CPU is of the server's process, user and system, by /proc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from bare import bare_search, user_costs  # noqa: E402
from report import Figures, write_report  # noqa: E402
from server import Server  # noqa: E402
from synthetic import write_synthetic  # noqa: E402

CONNECTIONS = (1, 8, 64)
K = 100


def main() -> None:
    """Makes missing runs, measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark_serving")
    parser.add_argument("--only", choices=["built-in", "synthetic"])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--items", type=int, default=200_000, help="of the synthetic catalogue")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "serving_speed.md")
    asked = parser.parse_args()
    figures = []
    if asked.only != "synthetic":
        figures.append(measure("built-in", ROOT / "configs" / "complete_journey.yaml", asked.runs, asked.seconds))
    if asked.only != "built-in":
        config = write_synthetic(asked.runs / "synthetic_source", num_items=asked.items)
        figures.append(measure("synthetic", config, asked.runs, asked.seconds))
    write_report(asked.out, figures)


def measure(name: str, config: Path, runs: Path, seconds: float) -> Figures:
    """Everything about one catalogue."""
    flags = ["--config", str(config), "--runs", str(runs)]
    command = [sys.executable, "-m", "twinspire", "run", *flags, "--now", "2024-03-01"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = Figures(name, bare_search(config, runs, k=K), user_costs(config, runs))
    for retriever in ("two_tower", "fused"):
        with Server(flags, retriever=retriever) as server:
            found.memory_bytes, found.start_seconds = server.rss_bytes(), server.start_seconds
            found.loads[retriever] = [server.load(connections, seconds, k=K) for connections in CONNECTIONS]
            most = max(load.per_second for load in found.loads[retriever])
            found.half[retriever] = server.load(64, seconds, k=K, rate=most / 2)
            found.stages[retriever] = server.stages()
    return found


if __name__ == "__main__":
    main()
