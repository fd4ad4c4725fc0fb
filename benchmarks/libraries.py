"""Item-kNN compared with implicit's, and the permutation test with SciPy's: the figures of decision 8.

    .venv/bin/python benchmarks/libraries.py permutation --users 2500 --comparisons 40 --samples 1600
    .venv/bin/python benchmarks/libraries.py item-knn --events EVENTS --cut 2017-12-01

EVENTS is a Parquet file or folder with user_id, item_id and timestamp, such as runs/complete_journey/tables/events.
`--items` is a Parquet file with the item_id of the whole catalogue. Lists are of items that are new to the user.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import scipy.sparse as sp
from implicit.nearest_neighbours import CosineRecommender
from scipy.stats import permutation_test

from evaluation.baselines.item_knn import cosine_neighbours, item_knn
from evaluation.metrics import find_hits, recall_at_k
from evaluation.split import Split, make_split
from evaluation.statistics import paired_difference, permutation_p_values

K, MIN_BUYERS, WINDOW_DAYS = 100, 10, 7
Ranked = npt.NDArray[np.int32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="command", required=True)
    of_test = parsers.add_parser("permutation")
    for name, value in (("users", 2500), ("comparisons", 40), ("samples", 1600), ("batch", 100)):
        of_test.add_argument(f"--{name}", type=int, default=value)
    of_lists = parsers.add_parser("item-knn")
    of_lists.add_argument("--events", type=Path, required=True)
    of_lists.add_argument("--items", type=Path, help="default: the items of the events")
    of_lists.add_argument("--cut", type=dt.date.fromisoformat, required=True)
    arguments = parser.parse_args()
    if arguments.command == "permutation":
        compare_tests(arguments.users, arguments.comparisons, num_samples=arguments.samples, batch=arguments.batch)
    else:
        compare_lists(read_split(arguments.events, arguments.items, arguments.cut))


def compare_tests(num_users: int, num_comparisons: int, *, num_samples: int, batch: int) -> None:
    """Ours first: the peak of memory never falls again."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.003, 1, (num_users, num_comparisons)) * (rng.random((num_users, num_comparisons)) < 0.3)
    timed("ours", lambda: permutation_p_values(values, num_samples=num_samples, seed=1))
    draw = {"n_resamples": num_samples, "batch": batch, "rng": 1}
    timed(
        f"SciPy, batches of {batch}",
        lambda: permutation_test((values,), np.sum, permutation_type="samples", vectorized=True, axis=0, **draw),
    )


def compare_lists(split: Split) -> None:
    """Prints recall at 100 and its difference to ours for some numbers of neighbours."""
    history = split.history
    ranked = timed(
        "ours, 200",
        lambda: item_knn(history, K, neighbours=cosine_neighbours(history, num_neighbours=200), new_only=True),
    )
    ours = recall(split, ranked)
    print(f"  recall@{K} {np.nanmean(ours):.4f}")
    for neighbours in (20, 100, 200, 500):
        ranked = timed(f"implicit, {neighbours}", lambda neighbours=neighbours: implicit_lists(split, neighbours))
        found = recall(split, ranked)
        apart = paired_difference(found, ours, num_samples=1000, seed=1)
        print(f"  recall@{K} {np.nanmean(found):.4f}, {apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] to ours")


def implicit_lists(split: Split, neighbours: int) -> Ranked:
    columns = np.flatnonzero(np.bincount(split.history.indices, minlength=split.history.shape[1]) >= MIN_BUYERS)
    bought = sp.csr_matrix(split.history[:, columns], dtype=np.float64)
    bought.data[:] = 1
    model = CosineRecommender(K=neighbours)
    model.fit(bought, show_progress=False)
    found, scores = model.recommend(np.arange(bought.shape[0]), bought, N=K, filter_already_liked_items=True)
    return np.where((found >= 0) & (scores > 0), columns[np.maximum(found, 0)], -1).astype(np.int32)


def recall(split: Split, ranked: Ranked) -> npt.NDArray[np.float64]:
    return recall_at_k(find_hits(ranked, split.relevant_new), K)


def read_split(events: Path, items: Path | None, cut: dt.date) -> Split:
    table = ds.dataset(events, format="parquet").to_table(columns=["user_id", "item_id", "timestamp"])
    order = pc.unique(table["item_id"]) if items is None else pq.read_table(items, columns=["item_id"])["item_id"]
    order = order.combine_chunks() if isinstance(order, pa.ChunkedArray) else order
    midnight = dt.datetime.combine(cut, dt.time(), dt.UTC)
    return make_split(table, order.to_numpy(zero_copy_only=False), cut=midnight, window_days=WINDOW_DAYS)


def timed(name: str, call: Callable[[], Any]) -> Any:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = call()
    seconds, grown = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{name}: {seconds:.2f} s, {grown / 1024:.0f} MiB more at the peak")
    return found


if __name__ == "__main__":
    main()
