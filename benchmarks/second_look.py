"""CPU of the second look for one user at a time, by the number of candidates: docs/methods.md.

    python benchmarks/second_look.py --runs runs

Asks the published bundle of the built-in dataset with users' own vectors and pasts, on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from artefacts.paths import RunPaths  # noqa: E402
from features.columns import seconds_of  # noqa: E402
from serving.bundles.bundle import Bundle  # noqa: E402
from serving.registry import retrievers_of  # noqa: E402
from serving.retrieval.retrievers import UserQueries  # noqa: E402
from serving.retrieval.vectors import read_vectors  # noqa: E402
from serving.second_look.inputs import Candidates, inputs_of  # noqa: E402
from serving.second_look.retriever import SecondLook  # noqa: E402
from serving.served import SECOND_LOOK  # noqa: E402
from twinspire.load_config import load  # noqa: E402

DEPTHS = (35, 70, 100, 200)
NUM_USERS, WARM_UP = 400, 50


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "complete_journey.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    asked = parser.parse_args()
    settings = load(asked.config)
    paths = RunPaths(asked.runs / settings.name, settings.as_of)
    bundle = Bundle.open(paths.bundles / "current")
    look = retrievers_of(bundle, settings.serving, ef_search=None)[SECOND_LOOK]
    assert isinstance(look, SecondLook)
    vectors = read_vectors(paths.vectors / "users")
    with_past = np.flatnonzero(bundle.purchases.num_per_user > 0)
    rows = np.random.default_rng(1).permutation(with_past)[:NUM_USERS]
    print("| lists of | candidates | second look, ms | p99, ms | its lists, ms |\n|---|---|---|---|---|")
    for depth in DEPTHS:
        print(row(bundle, look, vectors, rows, depth, seconds_of(settings.as_of)))


def row(bundle: Bundle, look: SecondLook, vectors: np.ndarray, rows: np.ndarray, depth: int, as_of_seconds: int) -> str:
    """A row of the table.

    Args:
        bundle: Whose users are asked for.
        look: Its second look.
        vectors: [U - 1, D] of users.
        rows: [n] user rows.
        depth: Length of the lists.
        as_of_seconds: The moment of the bundle.
    """
    num_candidates, taken = [], []
    for user in rows:
        own = bundle.purchases.of(np.array([user]))
        users = UserQueries(own, np.array([as_of_seconds]), vectors[user - 1 : user])
        begun = time.thread_time()
        lists = {name: part.retrieve(users, depth) for name, part in look.parts.items()}
        found = time.thread_time()
        candidates = Candidates.of(lists)
        look.net.scores(inputs_of(users, candidates, look.facts, depth=depth, history=look.history))
        taken.append((found - begun, time.thread_time() - found))
        num_candidates.append(len(candidates))
    of_lists, of_look = np.array(taken[WARM_UP:]).T * 1000
    return (
        f"| {depth} | {np.mean(num_candidates):.0f} | {of_look.mean():.2f} | {np.percentile(of_look, 99):.2f} | "
        f"{of_lists.mean():.2f} |"
    )


if __name__ == "__main__":
    main()
