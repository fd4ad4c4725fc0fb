"""The costs of one fit of an ablation: the size of what it searches, the time to build it, the latency of a list."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from artefacts.paths import RunPaths
from artefacts.steps import Step, finished, run_step
from evaluation.report import Cost
from evaluation.split import Split
from serving.bundles.folder import size_of
from serving.retrieval.index import INDEX_FILE, REPORT_FILE
from serving.retrieval.retrievers import UserQueries
from serving.sparcode.files import POSTINGS, SERVED, read_report
from twinspire.ablation_config import Lists
from twinspire.config import Config
from twinspire.fit_retrievers import WITH_INDEX, WITH_TABLES, queries_of, retriever_of

# Users who are asked for to measure a latency, after the first ones.
NUM_ASKED, NUM_WARM_UP = 500, 20


def kept_cost(config: Config, paths: RunPaths, split: Split, *, how: Lists, k: int, digest: str) -> Cost:
    """What retrieving in one of the ways takes; measured once and kept next to the lists.

    Args:
        config: Of the arm.
        paths: Of its fit, whose vectors, graph and tables are there.
        split: Users that are asked for.
        how: The way.
        k: Length of the lists.
        digest: Hash over everything that the lists depend on.
    """
    path = paths.of_fit / "lists" / str(paths.as_of) / f"{how}_cost.json"

    def write() -> str:
        path.write_text(json.dumps(asdict(_cost(config, paths, split, how, k))))
        return "measured"

    step = Step(f"cost_{how}", digest, (path,), write, paths.steps)
    if finished(step) is None:
        run_step(step)
    return Cost(**json.loads(path.read_text()))


def _cost(config: Config, paths: RunPaths, split: Split, how: Lists, k: int) -> Cost:
    retriever = retriever_of(how, config, paths, k=k)
    users = queries_of(paths, split, how=how)
    rows = np.random.default_rng(config.seed).permutation(len(users))[: NUM_ASKED + NUM_WARM_UP]
    took = []
    for row in rows:
        one = _only(users, int(row))
        begun = time.perf_counter()
        retriever.retrieve(one, k)
        took.append(1000 * (time.perf_counter() - begun))
    took = took[NUM_WARM_UP:] or took
    return Cost(_bytes(paths, how), _build_seconds(paths, how), float(np.median(took)), float(np.percentile(took, 99)))


def _only(users: UserQueries, row: int) -> UserQueries:
    """One of the users, as a request asks."""
    place = np.asarray([row])
    return replace(
        users,
        purchases=users.purchases.of(place),
        as_of_seconds=users.as_of_seconds[place],
        query_embeddings=None if users.query_embeddings is None else users.query_embeddings[place],
        user_tokens=None if users.user_tokens is None else users.user_tokens[place],
    )


def _bytes(paths: RunPaths, how: Lists) -> float:
    vectors = _size(paths.vectors / "items")
    tables = _size(paths.codes / SERVED / POSTINGS) if how in WITH_TABLES else 0
    of_way: dict[Lists, int] = {
        "hnsw": vectors + _size(paths.index / INDEX_FILE),
        "sparcode": tables,
        "all_scores": _size(paths.codes / "item_tokens.npy"),
        "unquantised": _size(paths.codes / "item_tokens.npy"),
        "two_tower_and_sparcode": vectors + tables,
    }
    return float(of_way.get(how, vectors))


def _build_seconds(paths: RunPaths, how: Lists) -> float:
    if how in WITH_INDEX:
        seconds: float = json.loads((paths.index / REPORT_FILE).read_text())["build_seconds"]
        return seconds
    return read_report(paths.codes).build_seconds if how in ("sparcode", "two_tower_and_sparcode") else 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else size_of(path)
