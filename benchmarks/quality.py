"""Recall of the main job on the built-in data, over seeds and weeks, with and without co-purchase factors."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

CONFIG = "configs/complete_journey.yaml"
SEED = 20170101
TEST, EARLIER, EARLIEST = "2017-12-01", "2017-11-24", "2017-11-10"
RUNS = [(TEST, SEED, True), (TEST, 1, True), (TEST, 2, True)]
RUNS += [(day, SEED, factors) for day in (EARLIER, EARLIEST) for factors in (True, False)]
ARMS = ("two-tower", "served", "popularity, 28 days", "repeat purchase", "item-kNN", "EASE", "ALS")


def main() -> None:
    """Makes missing runs and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="folder for the runs, some 1 GB each")
    folder = parser.parse_args().runs
    print("| cut | seed | factors | task |", " | ".join(ARMS), "|")
    print("|---|---|---|---|" + "---|" * len(ARMS))
    for cut, seed, factors in RUNS:
        for task, figures in recall(folder, cut=cut, seed=seed, factors=factors).items():
            shown = [f"{figures[arm]:.4f}".removeprefix("0") for arm in ARMS]
            print(f"| {cut} | {seed} | {'yes' if factors else 'no'} | {task} |", " | ".join(shown), "|", flush=True)


def recall(folder: Path, *, cut: str, seed: int, factors: bool) -> dict[str, dict[str, float]]:
    """Mean recall@100 of each arm in each task of one run, which is made if it is not there."""
    runs = folder / f"{cut}_{seed}_{'factors' if factors else 'plain'}"
    report = runs / "complete_journey" / "reports" / cut / "report.json"
    if not report.exists():
        settings = ["--as-of", cut, "--set", f"seed={seed}"] + ([] if factors else ["--set", "towers.factor_dim=0"])
        command = [sys.executable, "-m", "twinspire", "run", "--config", CONFIG, "--runs", str(runs), *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    tasks = json.loads(report.read_text())["tasks"]
    # What is served is named too: `served (fused)`.
    names = {arm["name"]: "served" if arm["name"].startswith("served") else arm["name"] for arm in tasks[0]["arms"]}
    return {
        task["task"]: {names[arm["name"]]: arm["metrics"]["recall@100"]["mean"] for arm in task["arms"]}
        for task in tasks
    }


if __name__ == "__main__":
    main()
