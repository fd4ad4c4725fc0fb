"""The arms of the daily report: the retrievers of the published bundle, with the vectors of its fit.

U users of a split.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from artefacts.console import progress
from artefacts.paths import RunPaths
from evaluation.config import EvaluateSections
from evaluation.report import NEW_TO_THE_USER, TASKS, Layer, Task
from evaluation.settings import Arm
from evaluation.split import Split
from features.columns import seconds_of
from serving.bundles.bundle import Bundle
from serving.registry import retrievers_of
from serving.retrieval import eligible
from serving.retrieval.ranking import Rows
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.retrieval.vector_search import Cascade, TwoTowerRetriever
from serving.retrieval.vectors import read_vectors

USER_BLOCK = 256

Lists = dict[Task, Rows]


def retrieved_by(
    bundle: Bundle, sections: EvaluateSections, paths: RunPaths, split: Split
) -> Iterator[tuple[Arm, Lists]]:
    """The arms of a bundle in the daily report, without their lists, and their lists for each task.

    Args:
        bundle: The published one.
        sections: List lengths and how lists are made.
        paths: Where the vectors and tokens of the users lie.
        split: Users and their history.
    """
    served = retrievers_of(bundle, sections.ranking, ef_search=sections.ef_search)
    exact = TwoTowerRetriever(bundle.ranked, None, ef=0, max_fetch=0)
    arms: list[tuple[str, Layer, Retriever, str | None]] = [
        ("two-tower", "exact", exact, None),
        ("two-tower, HNSW", "index", served["two_tower"], "two-tower"),
        ("served (fused)", "index", served["fused"], None),
    ]
    if sections.ranking.retriever == "cascade":
        widths = bundle.manifest.facts.index_report.parts
        cascade = Cascade(exact, first_width=widths[0], depth=sections.ranking.fusion_depth)
        arms += [("cascade", "exact", cascade, None), ("served (cascade)", "index", served["cascade"], "cascade")]
    if bundle.sparcode is not None:
        arms.append(("SparCode", "index", served["sparcode"], None))
    own = sections.ranking.retriever
    if not any(retriever is served[own] for _, _, retriever, _ in arms) and own != "exact":
        arms.append((f"served ({own})", "index", served[own], None))
    k = max(sections.evaluation.ks)

    def lists(retriever: Retriever, task: Task) -> Rows:
        blocks = _queries(bundle, paths, split, exclude_known=task == NEW_TO_THE_USER)
        return np.concatenate([retriever.retrieve(block, k)[0] for block in blocks])

    with progress("model arms", total=len(arms)) as advance:
        for name, layer, retriever, twin in arms:
            found = {task: lists(retriever, task) for task in TASKS}
            yield Arm(name, bundle.version, (), layer=layer, exact=twin), found
            advance(1)


def _queries(bundle: Bundle, paths: RunPaths, split: Split, *, exclude_known: bool) -> Iterator[UserQueries]:
    """The users of a split in blocks, with what the retrievers read of them."""
    vectors = read_vectors(paths.vectors / "users")
    tokens = None if bundle.sparcode is None else read_vectors(paths.codes / "user_tokens")
    rows = bundle.encoder.user_ids.rows(split.user_ids)
    offered = eligible.everything_but(bundle.withdrawn, num_items=bundle.manifest.num_items)
    for begin in range(0, len(rows), USER_BLOCK):
        users = rows[begin : begin + USER_BLOCK]
        moments = np.full(len(users), seconds_of(bundle.manifest.facts.as_of))
        own_tokens = None if tokens is None else tokens[users - 1]
        own = bundle.purchases.of(users)
        yield UserQueries(own, moments, vectors[users - 1], exclude_known, own_tokens, offered)
