"""How often the next item of a visit is found, asked with the items of the visit so far, in a world.

    twinspire world benchmarks/time_split/world_order.yaml --out data/world_sessions --set name=world_sessions
    twinspire run --config data/world_sessions/config.yaml --set towers.history_encoder=self_attention
    python -m benchmarks.session_recall --config data/world_sessions/config.yaml

A server is asked as it would be while somebody shops: features of last midnight, and the items of the visit in
`recent_items`, the latest first. Visits are those of the week from `as_of` on. The oracle knows the world: which items
follow the last one, and the user's tastes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd

from artefacts.config import pick
from artefacts.paths import RunPaths
from evaluation.render.formats import interval_text
from evaluation.statistics import mean_interval
from evaluation.worlds.content import item_ids, number_of
from evaluation.worlds.truth import Truth
from serving.config import ServeSections
from serving.open import open_recommender
from twinspire.load_config import load

KS = (10, 50)
MOST_USERS = 1_500
PAUSE = pd.Timedelta(minutes=30)
"""What is later than this after the item before begins another visit."""


@dataclass(frozen=True)
class Step:
    """An item of a visit that is not its first."""

    user_id: str
    so_far: tuple[str, ...]
    """The items of the visit before it, the latest first."""
    item_id: str
    day: dt.date


def main() -> None:
    """Prints recall of the next item, over users."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    config = load(options.config, options.overrides)
    assert config.as_of is not None
    assert config.evaluation.world is not None
    recommender = open_recommender(pick(ServeSections, config), RunPaths(options.runs / config.name, config.as_of))
    truth = Truth.open(config.evaluation.world)
    steps = list(steps_of(config.evaluation.world / "events", config.as_of, days=config.evaluation.window_days))
    users = np.random.default_rng(0).permutation(sorted({step.user_id for step in steps}))[:MOST_USERS]
    chosen = set(users.tolist())
    rows, blind = [], {}
    for step in steps:
        if step.user_id not in chosen:
            continue
        asked = {"recent_items": step.so_far, "exclude_known": False, "retriever": "exact"}
        [answer] = recommender.recommend([step.user_id], k=max(KS), **asked).answers
        found = [item["item_id"] for item in answer.items]
        if step.user_id not in blind:
            [answer] = recommender.recommend([step.user_id], k=max(KS), exclude_known=False, retriever="exact").answers
            blind[step.user_id] = [item["item_id"] for item in answer.items]
        without = blind[step.user_id]
        best = oracle_of(truth, step)
        for k in KS:
            hits = (step.item_id in found[:k], step.item_id in without[:k], step.item_id in best[:k])
            rows.append((step.user_id, k, *hits))
    frame = pd.DataFrame(rows, columns=["user", "k", "with the visit", "last night's", "oracle"])
    print(f"{len(chosen):,} users, {len(rows) // len(KS):,} items of visits that are not the first")
    for k, of_k in frame.groupby("k"):
        by_user = of_k.drop(columns="k").groupby("user").mean()
        for name in by_user:
            values = by_user[name].to_numpy(np.float64)
            interval = mean_interval(values, num_samples=1_000, seed=0)
            share = values.mean() / by_user["oracle"].mean()
            print(f"recall@{k} {name}: {interval_text(interval)}, {share:.1%} of the oracle")


def steps_of(events: Path, first: dt.date, *, days: int) -> Iterator[Step]:
    """The items of visits that are not their first, of some days, in time order within a user."""
    for number in range(days):
        day = first + dt.timedelta(days=number)
        frame = pd.read_parquet(events / f"{day}.parquet").sort_values(["user_id", "timestamp"], kind="stable")
        for user, own in frame.groupby("user_id", sort=False):
            visit: list[str] = []
            before = None
            for item, moment in zip(own["item_id"], own["timestamp"], strict=True):
                if before is not None and moment - before > PAUSE:
                    visit = []
                if visit:
                    yield Step(str(user), tuple(reversed(visit)), item, day)
                visit.append(item)
                before = moment


def oracle_of(truth: Truth, step: Step) -> list[str]:
    """The items that are likeliest to come next: those that follow the last one, then those of the user's tastes."""
    items = truth.items
    [row] = np.flatnonzero(items.number == number_of(step.so_far[0]))
    day = (step.day - truth.world.start).days
    [chances] = truth.after(np.array([number_of(step.user_id)]), np.array([row]), day)
    best = np.argsort(-chances, kind="stable")[: max(KS)]
    return item_ids(items.number[best]).to_pylist()


if __name__ == "__main__":
    main()
