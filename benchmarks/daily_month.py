"""Warm starts against full fits over a month of the built-in dataset, and what a stale model loses: docs/daily.md.

    python benchmarks/daily_month.py --from 2017-10-01 --nights 29 --full-every 7

Runs `twinspire daily` night by night, then fully retrains some of the nights in folders of their own, and evaluates all
of them on the day after each night: recall of items that are new to the household, exact search, over the users who
met any. A stale model is the first night's with each day's own user features, as in a server whose model is never
retrained.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy import sparse

from artefacts.paths import RunPaths
from evaluation.metrics import find_hits, recall_at_k
from evaluation.statistics import Interval, mean_interval, paired_difference
from features import columns
from features.columns import day_range
from features.encoding import Encoder, moments_of
from features.tables import read_events
from serving.retrieval import exact
from serving.retrieval.exported_tower import ExportedTower
from serving.retrieval.vectors import read_vectors
from twinspire.load_config import load

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "complete_journey.yaml"
K = 100
SAMPLES = 1000
Floats = npt.NDArray[np.float64]


def main() -> None:
    """Runs the missing nights, evaluates all, and prints the tables of docs/daily.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="first", type=dt.date.fromisoformat, default=dt.date(2017, 10, 1))
    parser.add_argument("--nights", type=int, default=29)
    parser.add_argument("--full-every", type=int, default=7, help="nights from one full fit to the next")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "daily_month")
    parser.add_argument("--now", default="2018-02-01")
    asked = parser.parse_args()
    name = load(CONFIG).name
    days = day_range(asked.first, asked.first + dt.timedelta(days=asked.nights))
    warm, full = asked.runs / "warm", asked.runs / "full"
    for day in days:
        run_night(warm, day, asked.now)
    retrained = days[asked.full_every :: asked.full_every]
    for day in retrained:
        fit_anew(warm / name, full / str(day), day, asked.now, name=name)
    evaluated = days[:-1]
    arms: dict[str, dict[dt.date, Floats]] = {"warm": {}, "stale": {}, "full": {}}
    for day in evaluated:
        paths = RunPaths(warm / name, day)
        question = Question(paths)
        arms["warm"][day] = question.recall(paths)
        arms["stale"][day] = question.recall(RunPaths(warm / name, days[0]))
        if day in retrained:
            arms["full"][day] = question.recall(RunPaths(full / str(day) / name, day))
    report(arms, warm / name, full, name, days)


def run_night(runs: Path, day: dt.date, now: str, *flags: str) -> None:
    """One night as a scheduler runs it; a finished night is skipped."""
    command = [sys.executable, "-m", "twinspire", "daily", "--date", str(day), "--config", str(CONFIG)]
    command += ["--runs", str(runs), "--now", now, *flags]
    print(f"{day}:", " ".join(flags) or "warm start", flush=True)
    ran = subprocess.run(command, cwd=ROOT, check=False)
    # A night that fails a gate is part of the month: the previous bundle stays live.
    if ran.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}")


def fit_anew(root: Path, runs: Path, day: dt.date, now: str, *, name: str) -> None:
    """A full fit of a day over the same tables and features, which are linked."""
    target = runs / name
    if not target.exists():
        target.mkdir(parents=True)
        for shared in ("tables", "features"):
            shutil.copytree(root / shared, target / shared, copy_function=os.link)
        (target / "steps").mkdir()
        shutil.copy(root / "steps" / "ingest.json", target / "steps")
        (target / "steps" / str(day)).mkdir()
        for name in ("features.json", "features.txt"):
            shutil.copy(root / "steps" / str(day) / name, target / "steps" / str(day))
    for step in ("train", "embed"):
        command = [sys.executable, "-m", "twinspire", step, "--as-of", str(day), "--config", str(CONFIG)]
        subprocess.run([*command, "--runs", str(runs), "--now", now], cwd=ROOT, check=True)


class Question:
    """The users of an evaluation: all who met something new on the day after a night.

    Args:
        paths: Of a night, whose features and tables are there.
    """

    def __init__(self, paths: RunPaths) -> None:
        """Reads the users, their known items and the events of the next day."""
        self.users = pq.read_table(paths.catalogue(paths.as_of) / "users.parquet")
        items = pq.read_table(paths.catalogue(paths.as_of) / "items.parquet", columns=[columns.ITEM_ID])
        self.item_ids = items.column(0).to_pylist()
        row_of_user = {name: row for row, name in enumerate(self.users.column(columns.USER_ID).to_pylist())}
        row_of_item = {name: row for row, name in enumerate(self.item_ids)}
        pairs = pq.read_table(paths.pairs, columns=[columns.USER_ID, columns.ITEM_ID])
        self.shape = (len(row_of_user), len(row_of_item))
        self.seen = self._matrix(pairs, row_of_user, row_of_item).astype(np.float32)
        events = read_events(paths.tables, first_day=paths.as_of, end_day=paths.as_of + dt.timedelta(days=1))
        came = self._matrix(events, row_of_user, row_of_item)
        self.relevant = sparse.csr_array(came - came.multiply(self.seen > 0)).astype(bool)
        self.relevant.eliminate_zeros()
        self.asked = np.flatnonzero(np.diff(self.relevant.indptr))

    def _matrix(self, table: Any, users: dict[str, int], items: dict[str, int]) -> sparse.csr_array:
        rows = [users[name] for name in table.column(columns.USER_ID).to_pylist()]
        places = [items[name] for name in table.column(columns.ITEM_ID).to_pylist()]
        found = sparse.csr_array((np.ones(len(rows), np.int32), (rows, places)), shape=self.shape)
        found.data[:] = 1
        return found

    def recall(self, model: RunPaths) -> Floats:
        """Recall of the users asked for, by a night's towers and item vectors: [users of the catalogue], nan if not."""
        encoder = Encoder.load(model.model / "encoder")
        some = self.users.take(self.asked)
        inputs = encoder.encode_users(some, as_of_seconds=moments_of(some))
        vectors = ExportedTower(model.model / "user_tower.tflite").embed(inputs)
        items = read_vectors(model.vectors / "items")
        ids = encoder.item_ids.rows(np.asarray(self.item_ids, dtype=object))
        # Items that the model does not know cannot be found by it.
        table = np.where(ids[:, None] > 0, items[np.maximum(ids - 1, 0)], 0.0).astype(np.float32)
        ranked, _ = exact.search(vectors, table, k=K, exclude=self.seen[self.asked])
        found = np.full(self.shape[0], np.nan)
        found[self.asked] = recall_at_k(find_hits(ranked, self.relevant[self.asked]), K)
        return found


def report(arms: dict[str, dict[dt.date, Floats]], warm: Path, full: Path, name: str, days: list[dt.date]) -> None:
    """Prints the tables."""
    print("\n| nights | arm | recall@100 of the next day | paired difference to warm |\n|---|---|---|---|")
    weeks = [list(arms["warm"])[begin : begin + 7] for begin in range(0, len(arms["warm"]), 7)]
    for week in [list(arms["warm"]), *weeks]:
        label = f"{week[0]} to {week[-1]}" if week is not list(arms["warm"]) else "all"
        for arm in ("warm", "full", "stale"):
            shared = [day for day in week if day in arms[arm]]
            if not shared:
                continue
            own, other = (np.concatenate([arms[which][day] for day in shared]) for which in (arm, "warm"))
            mean = mean_interval(own, num_samples=SAMPLES, seed=1)
            difference = None if arm == "warm" else paired_difference(own, other, num_samples=SAMPLES, seed=1)
            print(f"| {label} ({len(shared)} nights) | {arm} | {_text(mean)} | {_text(difference, signed=True)} |")
    print(
        "\n| night | fit | ingest | features | train | embed | index | bundle | gates | whole, s | peak MB | outcome |"
    )
    print("|" + "---|" * 12)
    for day in days:
        night = json.loads((warm / "nights" / f"{day}.json").read_text())
        steps = {step["name"]: step for step in night["steps"]}
        seconds = [f"{steps[part]['seconds']:.0f}" if part in steps else "" for part in PARTS]
        peak = max(step["peak_memory_bytes"] for step in night["steps"]) / 1e6
        fit = "warm start" if night["is_warm_start"] else "full"
        print(f"| {day} | {fit} | {' | '.join(seconds)} | {night['seconds']:.0f} | {peak:,.0f} | {night['outcome']} |")
    took = [json.loads(file.read_text())["seconds"] for file in full.glob(f"*/{name}/steps/*/train.json")]
    print(f"\nA full fit alone took {np.mean(took):.0f} s ({len(took)} of them).")


PARTS = ("ingest", "features", "train", "embed", "index", "bundle", "gates")


def _text(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    form = "{:+.4f}" if signed else "{:.4f}"
    return f"{form.format(interval.mean)} [{form.format(interval.low)}, {form.format(interval.high)}]"


if __name__ == "__main__":
    main()
