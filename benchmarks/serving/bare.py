"""Cost of the index, the online store and the encoder by themselves, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artefacts.paths import RunPaths
from features.store import Store
from serving.bundles.bundle import Bundle
from serving.retrieval.index_recall import measure_recall
from serving.retrieval.vectors import read_vectors
from twinspire.load_config import load

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
    """Queries the published bundle's graph with users' own vectors."""
    settings = load(config)
    paths = RunPaths(runs / settings.name, settings.as_of)
    bundle = Bundle.open(paths.bundles / "current")
    users = read_vectors(paths.vectors / "users")
    rng = np.random.default_rng(1)
    queries = np.ascontiguousarray(users[rng.choice(len(users), NUM_QUERIES)])
    ef = settings.index.ef_search or bundle.manifest.facts.index_report.ef
    recall = measure_recall(bundle.index, bundle.ranked, query_embeddings=queries[:100], k=k, ef=ef)
    cpu = _cpu(lambda number: bundle.index.search(queries[number : number + 1], k=k, ef=ef))
    size = (bundle.folder / "index.hnsw").stat().st_size
    return Bare(len(bundle.item_vectors), ef, recall, cpu, size)


def user_costs(config: Path, runs: Path) -> dict[str, tuple[float, float]]:
    """Median time of one user's read of the online store and of encoding it, microseconds: hot, and after a search.

    A search walks through more of the index than a core's cache holds, and what comes after it finds nothing there.
    """
    settings = load(config)
    paths = RunPaths(runs / settings.name, settings.as_of)
    store, bundle = Store.open(paths.features), Bundle.open(paths.bundles / "current")
    encoder = bundle.encoder
    ids = encoder.user_ids.ids(np.arange(1, min(NUM_QUERIES + 1, len(encoder.user_ids))))
    rows, moments = [store.read_online([user_id]) for user_id in ids], np.zeros(1, np.int64)
    calls: dict[str, Callable[[int], object]] = {
        "reading": lambda number: store.read_online([ids[number % len(ids)]]),
        "encoding": lambda number: encoder.encode_users(rows[number % len(rows)], as_of_seconds=moments),
    }

    ef = settings.index.ef_search or bundle.manifest.facts.index_report.ef

    def search(number: int) -> None:
        query = bundle.ranked[number % len(bundle.ranked)][None]
        bundle.index.search(np.ascontiguousarray(query), k=100, ef=ef)

    def nothing(number: int) -> None:
        pass

    return {name: (_median(call, nothing), _median(call, search)) for name, call in calls.items()}


def _median(call: Callable[[int], object], before: Callable[[int], None]) -> float:
    times = []
    for number in range(NUM_QUERIES):
        before(number)
        begun = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - begun)
    return float(np.median(times)) * 1e6


def _cpu(call: Callable[[int], object]) -> float:
    for number in range(20):
        call(number)
    begun = time.process_time()
    for number in range(NUM_QUERIES):
        call(number)
    return (time.process_time() - begun) / NUM_QUERIES * 1e6
