"""Time and memory of exact lists and their metrics, compared with the bare products: docs/exact_evaluation.md.

    python benchmarks/exact_evaluation.py --users 100000

One thread. The measurements take turns, some thousand users at a time, so that other load on the machine affects all of
them alike; times are CPU times. Vectors are of unit length: drawn evenly over the sphere, or near the centres of
tastes, with the popular items, towards which all users lean, at the end of the catalogue.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import scipy.sparse as sp  # noqa: E402

from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k  # noqa: E402
from serving.retrieval import exact  # noqa: E402

PAGE = ROOT / "docs" / "exact_evaluation.md"
NUM_EXCLUDED, NUM_RELEVANT, NUM_TASTES = 100, 10, 500
Vectors = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4096)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--turn", type=int, default=4096, help="users between two turns")
    parser.add_argument("--page", action="store_true", help="also write the table into docs/exact_evaluation.md")
    asked = parser.parse_args()
    lines = [
        f"{asked.users:,} users, {asked.items:,} items, {asked.dim} numbers a vector, lists of {asked.k}; one thread.",
        "",
        "| vectors | bare products, s | exact lists | with a history excluded | and metrics | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, draw in (("even", even), ("tastes, popular items last", tastes)):
        rng = np.random.default_rng(1)
        users, items = draw(asked.users, asked.items, asked.dim, rng)
        lines.append(f"| {name} | {row(users, items, asked.k, asked.turn, rng)} |")
    print("\n".join(lines))
    if asked.page:
        write("\n".join(lines))


def even(num_users: int, num_items: int, dim: int, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Evenly over the sphere."""
    return unit(rng.normal(size=(num_users, dim))), unit(rng.normal(size=(num_items, dim)))


def tastes(num_users: int, num_items: int, dim: int, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Near the centres of tastes; later items lean more towards what all users like."""
    centres = rng.normal(size=(NUM_TASTES, dim))
    common = rng.normal(size=dim)
    popularity = np.sort(rng.pareto(1.2, num_items).clip(0, 20) / 20)[:, None]
    users = centres[rng.integers(NUM_TASTES, size=num_users)] + rng.normal(size=(num_users, dim)) / 2 + common / 2
    items = centres[rng.integers(NUM_TASTES, size=num_items)] + rng.normal(size=(num_items, dim)) / 2
    return unit(users), unit(items + 2 * popularity * common)


def unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    """The vectors scaled to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def row(users: Vectors, items: Vectors, k: int, turn: int, rng: np.random.Generator) -> str:
    """Seconds of the products, the others as multiples of them, and the peak of memory so far."""
    spent = np.zeros(4)
    for start in range(0, len(users), turn):
        queries = users[start : start + turn]
        shape = (len(queries), len(items))
        excluded, relevant = drawn(shape, NUM_EXCLUDED, rng), drawn(shape, NUM_RELEVANT, rng)
        turns: list[Callable[[], object]] = [
            partial(products, queries, items),
            partial(exact.search, queries, items, k=k),
            partial(exact.search, queries, items, k=k, exclude=excluded),
            partial(evaluate, queries, items, k, excluded, relevant),
        ]
        for number in np.roll(np.arange(4), start // turn):
            spent[number] += seconds(turns[number])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return " | ".join([f"{spent[0]:.1f}", *(f"{one / spent[0]:.2f}" for one in spent[1:]), f"{peak:,.0f}"])


def drawn(shape: tuple[int, int], num_each: int, rng: np.random.Generator) -> sp.csr_array:
    """So many items for each user."""
    columns = np.sort(rng.integers(shape[1], size=(shape[0], num_each)), axis=1)
    starts = np.arange(0, columns.size + 1, num_each)
    matrix = sp.csr_array((np.ones(columns.size, dtype=bool), columns.ravel().astype(np.int32), starts), shape=shape)
    matrix.sum_duplicates()
    return matrix


def products(queries: Vectors, items: Vectors) -> None:
    """Only the products that `exact.search` makes, into the same kind of memory."""
    room = np.empty(exact.QUERY_BLOCK * exact.ITEM_BLOCK, np.float32)
    for block in blocks(len(items), exact.ITEM_BLOCK):
        for asked in blocks(len(queries), exact.QUERY_BLOCK):
            shape = (asked.stop - asked.start, block.stop - block.start)
            np.matmul(queries[asked], items[block].T, out=room[: shape[0] * shape[1]].reshape(shape))


def blocks(length: int, size: int) -> Iterator[slice]:
    """The whole of `exact.search`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def evaluate(queries: Vectors, items: Vectors, k: int, excluded: sp.csr_array, relevant: sp.csr_array) -> float:
    """Lists, and the metrics of an evaluation."""
    ranked, _ = exact.search(queries, items, k=k, exclude=excluded)
    hits = find_hits(ranked, relevant)
    return float(np.nanmean(recall_at_k(hits, k)) + np.nanmean(ndcg_at_k(hits, k)))


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of the process."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def write(table: str) -> None:
    """Puts the table between the markers of the page."""
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
