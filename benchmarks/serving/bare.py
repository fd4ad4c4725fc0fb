"""What do the index and the online store cost by themselves, in this process?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beam_jobs.embed import read_vectors
from features.store import Store
from serving.bundle import Bundle
from serving.index import measure_recall
from twinspire.load_config import load
from twinspire.paths import RunPaths

NUM_QUERIES = 500


@dataclass(frozen=True)
class Bare:
    """hnswlib alone."""

    num_items: int
    ef: int
    recall: float
    """Of the exact top k."""
    cpu_us: float
    """Of a query, alone, one thread."""
    index_bytes: int


def bare_search(config: Path, runs: Path, *, k: int) -> Bare:
    """Asks the published bundle's graph with users' own vectors."""
    settings = load(config)
    paths = RunPaths(runs / settings.name, settings.as_of)
    bundle = Bundle.open(paths.bundles / "current")
    users = read_vectors(paths.vectors / "users")
    rng = np.random.default_rng(1)
    queries = np.ascontiguousarray(users[rng.choice(len(users), NUM_QUERIES)])
    ef = settings.index.ef_search
    recall = measure_recall(bundle.index, bundle.ranked, query_embeddings=queries[:100], k=k, ef=ef)
    cpu = _cpu(lambda number: bundle.index.search(queries[number : number + 1], k=k, ef=ef))
    size = (bundle.folder / "index.hnsw").stat().st_size
    return Bare(len(bundle.item_vectors), ef, recall, cpu, size)


def read_cost(config: Path, runs: Path) -> float:
    """CPU of one user's read of the online store, microseconds."""
    settings = load(config)
    paths = RunPaths(runs / settings.name, settings.as_of)
    store, bundle = Store.open(paths.features), Bundle.open(paths.bundles / "current")
    ids = bundle.encoder.user_ids.ids(np.arange(1, min(NUM_QUERIES + 1, len(bundle.encoder.user_ids))))
    return _cpu(lambda number: store.read_online([ids[number % len(ids)]]))


def _cpu(call: Callable[[int], object]) -> float:
    for number in range(20):
        call(number)
    begun = time.process_time()
    for number in range(NUM_QUERIES):
        call(number)
    return (time.process_time() - begun) / NUM_QUERIES * 1e6
