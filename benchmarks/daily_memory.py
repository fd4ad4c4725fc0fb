"""Seconds and peak memory of each step of a one-day run, after histories of several lengths.

With `--train`: the cost of a full fit of one epoch for histories of several lengths, with equally many events a day.
Every step runs in a process of its own, whose peak begins with what it imports. The history is built before that.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.config import pick
from artefacts.paths import RunPaths
from features.config import FeaturesSections, IngestSections
from training.config import TrainSections
from twinspire.config import Config
from twinspire.load_config import load

START = dt.date(2020, 1, 1)
NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
CONFIG = """
name: made_up
as_of: {as_of}
dataset: {{item_columns: {{aisle: categorical}}, user_columns: {{age: categorical}},
          user_statistics_of: [aisle], item_statistics_of: [age]}}
ingest:
  source:
    kind: tables
    events: {{path: {data}/events}}
    users: {{path: {data}/users.parquet}}
    items: {{path: {data}/items.parquet}}
towers: {{counterpart: {{source: statistic, item_fields: [aisle], user_fields: [age]}}}}
features: {{example_days: {example_days}, history_length: 50}}
training: {{example_days: {example_days}, {training}}}
"""
VALIDATED = "validation_days: 1"
# All events are examples: of first meetings there are the fewer, the longer the history.
WHOLE = "validation_days: 0, epochs: 1, examples: all"
FITS = {
    "all held": WHOLE,
    "spans of 120 days": f"{WHOLE}, keep_in_memory: false",
    "spans of 30 days": f"{WHOLE}, keep_in_memory: false, shuffle_days: 30",
}
STEPS = ("ingest", "snapshots", "the rest of features")


def main() -> None:
    """Prints a line for each history and step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--events", type=int, default=5_000, help="events of a day")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--train", action="store_true", help="measure a full fit on all days")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measured(arguments.step, arguments.folder)))
        return
    print(f"{arguments.events:,} events a day, {arguments.users:,} users, {arguments.items:,} items")
    print(f"{'days before':>11}  {'distinct pairs':>14}  {'run':<11}  {'step':<20}  {'seconds':>7}  {'peak MB':>7}")
    for num_days in arguments.days:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_source(folder / "data", num_days, arguments)
            if arguments.train:
                report_fits(folder, num_days)
                continue
            set_day(folder, num_days)
            in_process("history", folder)
            write_day(folder / "data", num_days, arguments)
            set_day(folder, num_days + 1)
            report(folder, num_days, "a new day")
            write_day(folder / "data", num_days - 2, arguments, name="late", num_events=3)
            report(folder, num_days, "late events")


def report(folder: Path, num_days: int, run: str) -> None:
    """Runs the steps and prints their seconds and memory."""
    for step in STEPS:
        seconds, peak = in_process(step, folder)
        pairs = pq.read_metadata(opened(folder)[1].pairs).num_rows if step != "ingest" else 0
        print_line(num_days, pairs, run, step, seconds, peak)


def report_fits(folder: Path, num_days: int) -> None:
    """Joins the examples of all days, fits them as in `FITS`, and prints seconds and memory."""
    set_day(folder, num_days, example_days=num_days, training=WHOLE)
    in_process("history", folder)
    pairs = pq.read_metadata(opened(folder)[1].pairs).num_rows
    for how, training in FITS.items():
        set_day(folder, num_days, example_days=num_days, training=training)
        print_line(num_days, pairs, "full fit", how, *in_process("train", folder))


def print_line(num_days: int, pairs: int, run: str, step: str, seconds: float, peak: float) -> None:
    """Prints one row of the table."""
    print(f"{num_days:11d}  {pairs or '':>14}  {run:<11}  {step:<20}  {seconds:7.2f}  {peak:7.0f}", flush=True)


def in_process(step: str, folder: Path) -> tuple[float, float]:
    """Seconds of a step, and the peak memory in MB of the process that did it."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    ran = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True)
    seconds, peak = json.loads(ran.stdout.splitlines()[-1])
    return seconds, peak


def measured(step: str, folder: Path) -> tuple[float, float]:
    """Runs a step."""
    action = actions(folder)[step]
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def actions(folder: Path) -> dict[str, Callable[[], object]]:
    """The work of a step, whose imports are made before the clock starts."""
    import feast  # noqa: F401  # takes seconds, and is otherwise imported when it is first needed

    from beam_jobs.snapshot_days import write_snapshots
    from features.steps import make_features, make_tables

    config, paths = opened(folder)
    features = pick(FeaturesSections, config)

    def history() -> None:
        make_tables(pick(IngestSections, config), paths, now=NOW)
        # Rows of every midnight, as after as many nightly runs.
        days = (config.as_of - START).days
        every = features.features.model_copy(update={"example_days": days})
        write_snapshots(replace(features, features=every), config.beam, paths)
        make_features(features, paths)

    def fit() -> None:
        # Not together with Feast: TensorFlow would be in the peak of the other steps.
        from training.steps import train

        train(pick(TrainSections, config), paths)

    return {
        "train": fit,
        "history": history,
        "ingest": lambda: make_tables(pick(IngestSections, config), paths, now=NOW),
        "snapshots": lambda: write_snapshots(features, config.beam, paths),
        "the rest of features": lambda: make_features(features, paths),
    }


def opened(folder: Path) -> tuple[Config, RunPaths]:
    """The configuration and the paths of its run."""
    config = load(folder / "config.yaml", ())
    return config, RunPaths(folder / "runs" / config.name, config.as_of)


def set_day(folder: Path, num_days: int, *, example_days: int = 3, training: str = VALIDATED) -> None:
    """Moves the cut behind so many days; sets which of them are fitted, and how."""
    as_of = START + dt.timedelta(days=num_days)
    text = CONFIG.format(as_of=as_of, data=folder / "data", example_days=example_days, training=training)
    (folder / "config.yaml").write_text(text)


def write_source(folder: Path, num_days: int, sizes: argparse.Namespace) -> None:
    """Writes users, items and a file of events a day."""
    (folder / "events").mkdir(parents=True)
    users = np.arange(sizes.users)
    pq.write_table(
        pa.table({"user_id": np.char.mod("u%d", users), "age": np.char.mod("age %d", users % 6)}),
        folder / "users.parquet",
    )
    items = np.arange(sizes.items)
    pq.write_table(
        pa.table({"item_id": np.char.mod("i%d", items), "aisle": np.char.mod("aisle %d", items % 40)}),
        folder / "items.parquet",
    )
    for day in range(num_days):
        write_day(folder, day, sizes)


def write_day(
    folder: Path, day: int, sizes: argparse.Namespace, *, name: str = "day", num_events: int | None = None
) -> None:
    """Writes one day of events to a file; a user's items come back, so that pairs grow more slowly than events."""
    rng = np.random.default_rng([day, num_events or 0])
    n = num_events or sizes.events
    user = rng.integers(sizes.users, size=n)
    item = (user * 7 + (sizes.items * rng.random(n) ** 4).astype(int)) % sizes.items
    moment = ((START - dt.date(1970, 1, 1)).days + day) * 86_400 + rng.integers(86_400, size=n)
    table = {"user_id": np.char.mod("u%d", user), "item_id": np.char.mod("i%d", item), "timestamp": moment}
    pq.write_table(pa.table(table | {"value": rng.random(n)}), folder / "events" / f"{name}-{day:04d}.parquet")


if __name__ == "__main__":
    main()
