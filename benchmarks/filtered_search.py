"""Recall and cost of filtered search at several shares of allowed items: docs/serving_speed.md.

    python benchmarks/filtered_search.py --runs runs/benchmark_serving

Asks the published bundle of the built-in dataset with users' own vectors, one user at a time and one thread. Allowed
items are drawn evenly, or are whole categories, which lie together. The switch is the method in service; the table also
has both of its sides alone, and hnswlib's own filter, which calls back into Python for every item that it meets.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from artefacts.paths import RunPaths  # noqa: E402
from serving.bundles.bundle import Bundle  # noqa: E402
from serving.retrieval import exact  # noqa: E402
from serving.retrieval.eligible import EligibleItems, Mask  # noqa: E402
from serving.retrieval.ranking import Rows  # noqa: E402
from serving.retrieval.vector_search import BEAM_COST, search_eligible  # noqa: E402
from serving.retrieval.vectors import read_vectors  # noqa: E402
from twinspire.load_config import load  # noqa: E402

SHARES = (0.9, 0.5, 0.1, 0.02, 0.001)
K, NUM_QUERIES = 50, 200
Queries = npt.NDArray[np.float32]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "complete_journey.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark_serving")
    asked = parser.parse_args()
    settings = load(asked.config)
    paths = RunPaths(asked.runs / settings.name, settings.as_of)
    bundle = Bundle.open(paths.bundles / "current")
    users = read_vectors(paths.vectors / "users")
    rng = np.random.default_rng(1)
    queries = np.ascontiguousarray(users[rng.choice(len(users), NUM_QUERIES)])
    ef = settings.index.ef_search or bundle.manifest.facts.index_report.ef
    print(f"{len(bundle.item_vectors):,} items, k {K}, ef {ef}, {NUM_QUERIES} users\n")
    names = ("allowed", "items", "answered by", "recall", "switch, us", "index alone, us", "recall", "exact alone, us")
    print(f"| {' | '.join(names)} | callback, us |\n|{'---|' * (len(names) + 1)}")
    for share in SHARES:
        for kind, mask in (("evenly", evenly(bundle, share, rng)), ("categories", categories(bundle, share, rng))):
            print(row(bundle, queries, EligibleItems(mask), kind, share, ef=ef))


def evenly(bundle: Bundle, share: float, rng: np.random.Generator) -> Mask:
    """A share of all items."""
    mask: Mask = rng.random(len(bundle.item_vectors)) < share
    return _offered(bundle, mask)


def categories(bundle: Bundle, share: float, rng: np.random.Generator) -> Mask:
    """Whole categories until they have the share."""
    names = np.array([name or "" for name in bundle.categories])
    distinct, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = rng.permutation(len(distinct))
    # Above the wanted share by half at most, so that a single large category does not pass for a small share.
    chosen, size = [], 0
    for number in order:
        if size + counts[number] <= share * len(names) * 1.5 and size < share * len(names):
            chosen.append(number)
            size += counts[number]
    return _offered(bundle, np.isin(numbers, chosen))


def row(bundle: Bundle, queries: Queries, eligible: EligibleItems, kind: str, share: float, *, ef: int) -> str:
    """One line of the table."""

    def ours(beam_cost: float) -> Callable[[Queries], Rows]:
        return lambda query: search_eligible(
            bundle.index, bundle.ranked, query_embeddings=query, known=None, eligible=eligible, k=K, ef=ef,
            max_fetch=len(bundle.ranked) if beam_cost == 0 else 2000, beam_cost=beam_cost,
        )[0]  # fmt: skip

    def exactly(query: Queries) -> Rows:
        return exact.search(query, bundle.ranked, k=K, offered=eligible.mask)[0]

    def callback(query: Queries) -> Rows:
        bundle.index._graph.set_ef(ef)
        try:
            return bundle.index._graph.knn_query(
                bundle.index._asked(query),
                k=min(K, eligible.num_items),
                num_threads=1,
                filter=lambda item: eligible.mask[item],
            )[0]
        except RuntimeError:
            # Fewer than k within its beam.
            return np.full((1, K), -1, np.int32)
        finally:
            bundle.index._ef = None

    wanted = np.concatenate([exactly(queries[n : n + 1]) for n in range(NUM_QUERIES)])
    found, taken = timed(ours(BEAM_COST), queries)
    by_index, index_taken = timed(ours(0.0), queries)
    _, exact_taken = timed(exactly, queries)
    _, callback_taken = timed(callback, queries[:20])
    fetch = K / max(eligible.num_items / len(bundle.ranked), 1e-9) * 1.25
    side = "index" if max(fetch, ef) * BEAM_COST <= eligible.num_items else "exact"
    return (
        f"| {share:.1%}, {kind} | {eligible.num_items:,} | {side} | {recall(found, wanted):.4f} | {taken:,.0f} | "
        f"{index_taken:,.0f} | {recall(by_index, wanted):.4f} | {exact_taken:,.0f} | {callback_taken:,.0f} |"
    )


def timed(search: Callable[[Queries], Rows], queries: Queries) -> tuple[Rows, float]:
    """Lists of all queries, asked one at a time, and the CPU of one, microseconds."""
    search(queries[:1])
    begun = time.process_time()
    found = [search(queries[number : number + 1]) for number in range(len(queries))]
    return np.concatenate(found), (time.process_time() - begun) / len(queries) * 1e6


def recall(found: Rows, wanted: Rows) -> float:
    """Share of the exact lists that was found."""
    hits = [len(np.intersect1d(one[one >= 0], other[other >= 0])) for one, other in zip(found, wanted, strict=True)]
    return float(np.sum(hits) / max((wanted >= 0).sum(), 1))


def _offered(bundle: Bundle, mask: Mask) -> Mask:
    mask[bundle.withdrawn] = False
    return mask


if __name__ == "__main__":
    main()
