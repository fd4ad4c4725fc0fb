"""Evaluate: the bundle and the baselines on the days after the cut, which nothing has seen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console

from artefacts.console import progress
from artefacts.paths import RunPaths
from artefacts.steps import fresh_folder
from evaluation.baselines import cosine_neighbours, ease, item_knn, popularity, repeat_purchase
from evaluation.compare import Arm, make_report
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, Layer, Report, Task
from evaluation.split import Split, make_split, recent_item_counts
from evaluation.table import print_report
from evaluation.write import write_report
from features import columns
from features.columns import midnight, seconds_of
from features.tables import read_events
from serving.bundles import bundle as layout
from serving.bundles.bundle import Bundle
from serving.registry import retrievers_of
from serving.retrieval.eligible import everything_but
from serving.retrieval.ranking import Rows, Scores
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.retrieval.vector_search import Cascade, TwoTowerRetriever
from serving.retrieval.vectors import read_vectors
from twinspire.config import Config

TABLE_FILE = "table.txt"
TABLE_WIDTH = 100
POPULARITY_DAYS = 28
USER_BLOCK = 256
NEW_ONLY: dict[Task, bool] = {ALL_PURCHASES: False, NEW_TO_THE_USER: True}


def evaluate(config: Config, paths: RunPaths) -> str:
    """Judges every arm on the same users; returns one line of outcome.

    Where nothing has happened since the cut, as on the night of the newest day, there is nothing to judge yet: no
    report is written, and the step is done again once there is.
    """
    report = _report(config, paths)
    if report is None:
        return f"nothing to judge yet: no events in the {config.evaluation.window_days} days from {config.as_of} on"
    with fresh_folder(paths.report) as folder:
        write_report(report, folder)
        with (folder / TABLE_FILE).open("w", encoding="utf-8") as file:
            print_report(report, Console(file=file, width=TABLE_WIDTH))
    found = f"{report.num_users:,} users on the {report.window_days} days from {config.as_of} on"
    return f"{found}: {paths.report / 'report.html'}"


def _report(config: Config, paths: RunPaths) -> Report | None:
    bundle = Bundle.open(paths.bundles / layout.CURRENT)
    if bundle.manifest.facts.as_of != config.as_of:
        raise ValueError(
            f"{bundle.folder}: the published bundle is of {bundle.manifest.facts.as_of}, expected {config.as_of}; "
            "make the bundle of that day first"
        )
    item_ids = (
        pq.read_table(paths.tables / "items.parquet", columns=[columns.ITEM_ID])
        .column(0)
        .to_numpy(zero_copy_only=False)
    )
    end = config.as_of + dt.timedelta(days=config.evaluation.window_days)
    events = read_events(paths.tables, first_day=dt.date.min, end_day=end)
    cut = midnight(config.as_of)
    split = make_split(events, item_ids, cut=cut, window_days=config.evaluation.window_days)
    if not split.relevant.nnz:
        return None
    counts = recent_item_counts(events, item_ids, cut=cut, days=POPULARITY_DAYS)
    arms = [*_model_arms(config, paths, bundle, split), *_baseline_arms(config, split, counts)]
    return make_report(
        split,
        arms,
        dataset=config.name,
        ks=config.evaluation.ks,
        reference="EASE",
        num_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )


def _baseline_arms(config: Config, split: Split, counts: npt.NDArray[np.int64]) -> Iterable[Arm]:
    k = max(config.evaluation.ks)
    with progress("baselines", total=4 * len(NEW_ONLY)) as advance:

        def ranked(rank: object) -> dict[Task, npt.NDArray[np.int32]]:
            lists = {}
            for task, new_only in NEW_ONLY.items():
                lists[task] = rank(new_only)  # type: ignore[operator]
                advance(1)
            return lists

        yield Arm(
            f"popularity, {POPULARITY_DAYS} days",
            "baseline",
            ranked(lambda new_only: popularity(split, k, item_counts=counts, new_only=new_only)),
        )
        yield Arm("repeat purchase", "baseline", ranked(lambda new_only: repeat_purchase(split, k, new_only=new_only)))
        neighbours = cosine_neighbours(split.history)
        yield Arm(
            "item-kNN",
            "baseline",
            ranked(lambda new_only: item_knn(split, k, neighbours=neighbours, new_only=new_only)),
        )
        yield Arm("EASE", "baseline", ranked(lambda new_only: ease(split, k, new_only=new_only)))


def _model_arms(config: Config, paths: RunPaths, bundle: Bundle, split: Split) -> Iterable[Arm]:
    vectors = read_vectors(paths.vectors / "users")
    tokens = None if bundle.sparcode is None else read_vectors(paths.codes / "user_tokens")
    served = retrievers_of(bundle, config.serving, ef_search=config.index.ef_search)
    exact = TwoTowerRetriever(bundle.ranked, None, ef=0, max_fetch=0)
    k = max(config.evaluation.ks)

    def lists(retriever: Retriever) -> dict[Task, npt.NDArray[np.int32]]:
        return {
            task: _retrieve(retriever, bundle, split, vectors, tokens, k=k, exclude_known=new_only)
            for task, new_only in NEW_ONLY.items()
        }

    arms: list[tuple[str, Layer, Retriever, str | None]] = [
        ("two-tower", "exact", exact, None),
        ("two-tower, HNSW", "index", served["two_tower"], "two-tower"),
        ("served (fused)", "index", served["fused"], None),
    ]
    if config.serving.retriever == "cascade":
        widths = bundle.manifest.facts.index_report.parts
        cascade = Cascade(exact, first_width=widths[0], depth=config.serving.fusion_depth)
        arms += [("cascade", "exact", cascade, None), ("served (cascade)", "index", served["cascade"], "cascade")]
    if bundle.sparcode is not None:
        arms.append(("SparCode", "index", served["sparcode"], None))
    with progress("model arms", total=len(arms)) as advance:
        for name, layer, retriever, twin in arms:
            yield Arm(name, layer, lists(retriever), exact=twin)
            advance(1)


def _retrieve(
    retriever: Retriever,
    bundle: Bundle,
    split: Split,
    vectors: Scores,
    tokens: Scores | None,
    *,
    k: int,
    exclude_known: bool,
) -> Rows:
    rows = bundle.encoder.user_ids.rows(split.user_ids)
    as_of_seconds = seconds_of(bundle.manifest.facts.as_of)
    parts, eligible = [], everything_but(bundle.withdrawn, num_items=bundle.manifest.num_items)
    for begin in range(0, len(rows), USER_BLOCK):
        users = rows[begin : begin + USER_BLOCK]
        moments = np.full(len(users), as_of_seconds)
        own_tokens = None if tokens is None else tokens[users - 1]
        own = bundle.purchases.of(users)
        queries = UserQueries(own, moments, vectors[users - 1], exclude_known, own_tokens, eligible)
        parts.append(retriever.retrieve(queries, k)[0])
    return np.concatenate(parts)
