"""The step `evaluate`: the published bundle and the baselines on the days after the cut, as a daily report.

U users of a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from artefacts import console, steps
from artefacts.paths import RunPaths
from evaluation import catalogue, comparison, config, report, settings
from evaluation.baselines import baseline
from evaluation.folds import Folds, NoEventsError, make_folds
from evaluation.render.page import DAILY_PAGE, write_daily
from evaluation.split import Split
from evaluation.worlds.oracle import baselines_of
from features.columns import seconds_of
from serving.bundles.bundle import CURRENT, Bundle
from serving.registry import retrievers_of
from serving.retrieval import eligible, ranking, retrievers, vector_search, vectors

USER_BLOCK = 256

Lists = dict[report.Task, ranking.Rows]
REFERENCE = "EASE"


def evaluate(sections: config.EvaluateSections, paths: RunPaths) -> str:
    """Compares every arm on the same users, and writes the daily report.

    Where nothing has happened since the cut, as on the night of the newest day, there is nothing to evaluate yet: no
    report is written, and the step runs again once there is.

    Args:
        sections: What the step reads of the configuration.
        paths: Where the bundle, the tables and the vectors lie, and where the report goes.

    Returns:
        One line of outcome.

    Raises:
        ValueError: The published bundle is of another day.
    """
    days, cut = sections.evaluation.window_days, paths.as_of
    bundle = Bundle.open(paths.bundles / CURRENT)
    if bundle.manifest.facts.as_of != cut:
        raise ValueError(
            f"{bundle.folder}: the published bundle is of {bundle.manifest.facts.as_of}, expected {cut}; make the "
            "bundle of that day first"
        )
    category = sections.dataset.item_category
    try:
        folds = make_folds(paths.tables, protocol="after-cut", cuts=[cut], window_days=days, item_category=category)
    except NoEventsError:
        return f"nothing to evaluate yet: no events in the {days} days from {cut} on"
    reports = _reports(sections, paths, bundle, folds)
    with steps.fresh_folder(paths.report) as folder:
        write_daily(reports, folder)
    found = f"{reports[0].num_all_users:,} users on the {days} days from {cut} on"
    return f"{found}: {paths.report / DAILY_PAGE}"


def _reports(sections: config.EvaluateSections, paths: RunPaths, bundle: Bundle, folds: Folds) -> list[report.Report]:
    """A report for each task."""
    ks, category = sections.evaluation.ks, sections.dataset.item_category
    items = catalogue.catalogue_of(paths.tables, paths.catalogue(paths.as_of), item_category=category)
    arms = [
        *retrieved_by(bundle, sections, paths, folds.folds[0].split),
        *_baseline_arms(folds, max(ks), sections),
    ]
    return [
        comparison.compare_arms(
            folds.folds,
            [replace(arm, ranked=[[lists[task]]]) for arm, lists in arms],
            settings=settings.Settings(
                task,
                ks,
                f"recall@{max(ks)}",
                num_samples=sections.evaluation.bootstrap_samples,
                seed=sections.seed,
            ),
            catalogue=items,
            about=settings.About(sections.name, "after-cut", event_name=sections.dataset.event_name),
            reference=REFERENCE,
        )
        for task in report.TASKS
    ]


def _baseline_arms(folds: Folds, k: int, sections: config.EvaluateSections) -> Iterable[tuple[settings.Arm, Lists]]:
    past = baseline.Past(folds.folds[0].split, folds.events, folds.item_ids, sections.seed)
    methods = baselines_of(sections.evaluation.world)
    with console.progress("baselines", total=len(methods)) as advance:
        for method in methods.values():
            rank = method.fit(past)
            lists = {task: rank(k, task == report.NEW_TO_THE_USER) for task in report.TASKS}
            yield settings.Arm(method.title, method.source, (), layer="baseline"), lists
            advance(1)


def retrieved_by(
    bundle: Bundle, sections: config.EvaluateSections, paths: RunPaths, split: Split
) -> Iterator[tuple[settings.Arm, Lists]]:
    """The arms of a bundle in the daily report, without their lists, and their lists for each task.

    Args:
        bundle: The published one.
        sections: List lengths and how lists are made.
        paths: Where the vectors and tokens of the users lie.
        split: Users and their history.
    """
    served = retrievers_of(bundle, sections.ranking, ef_search=sections.ef_search)
    exact = vector_search.TwoTowerRetriever(bundle.ranked, None, ef=0, max_fetch=0)
    arms: list[tuple[str, report.Layer, retrievers.Retriever, str | None]] = [
        ("two-tower", "exact", exact, None),
        ("two-tower, HNSW", "index", served["two_tower"], "two-tower"),
        ("served (fused)", "index", served["fused"], None),
    ]
    if sections.ranking.retriever == "cascade":
        widths = bundle.manifest.facts.index_report.parts
        cascade = vector_search.Cascade(exact, first_width=widths[0], depth=sections.ranking.fusion_depth)
        arms += [("cascade", "exact", cascade, None), ("served (cascade)", "index", served["cascade"], "cascade")]
    if bundle.sparcode is not None:
        arms.append(("SparCode", "index", served["sparcode"], None))
    own = sections.ranking.retriever
    if not any(retriever is served[own] for _, _, retriever, _ in arms) and own != "exact":
        arms.append((f"served ({own})", "index", served[own], None))
    k = max(sections.evaluation.ks)

    def lists(retriever: retrievers.Retriever, task: report.Task) -> ranking.Rows:
        blocks = _queries(bundle, paths, split, exclude_known=task == report.NEW_TO_THE_USER)
        return np.concatenate([retriever.retrieve(block, k)[0] for block in blocks])

    with console.progress("model arms", total=len(arms)) as advance:
        for name, layer, retriever, twin in arms:
            found = {task: lists(retriever, task) for task in report.TASKS}
            yield settings.Arm(name, bundle.version, (), layer=layer, exact=twin), found
            advance(1)


def _queries(bundle: Bundle, paths: RunPaths, split: Split, *, exclude_known: bool) -> Iterator[retrievers.UserQueries]:
    """The users of a split in blocks, with what the retrievers read of them."""
    user_vectors = vectors.read_vectors(paths.vectors / "users")
    tokens = None if bundle.sparcode is None else vectors.read_vectors(paths.codes / "user_tokens")
    rows = bundle.encoder.user_ids.rows(split.user_ids)
    offered = eligible.everything_but(bundle.withdrawn, num_items=bundle.manifest.num_items)
    for begin in range(0, len(rows), USER_BLOCK):
        users = rows[begin : begin + USER_BLOCK]
        moments = np.full(len(users), seconds_of(bundle.manifest.facts.as_of))
        own_tokens = None if tokens is None else tokens[users - 1]
        own = bundle.purchases.of(users)
        yield retrievers.UserQueries(own, moments, user_vectors[users - 1], exclude_known, own_tokens, offered)
