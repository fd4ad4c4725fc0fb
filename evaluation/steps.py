"""The step `evaluate`: the published bundle and the baselines on the days after the cut, as a daily report.

U users of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from artefacts import console, steps
from artefacts.paths import RunPaths
from evaluation import catalogue, comparison, config, event_ranks, learning_curves, report, settings, tuning
from evaluation.baselines import baseline, baselines_of
from evaluation.folds import Folds, NoEventsError, make_folds
from evaluation.render.page import DAILY_PAGE, write_daily
from evaluation.split import Split
from features.columns import seconds_of
from serving import registry
from serving.bundles.bundle import CURRENT, Bundle
from serving.retrieval import eligible, interests, ranking, retrievers, spread, vector_search, vectors

USER_BLOCK = 256

Find = Callable[[retrievers.UserQueries], ranking.Rows]
Lists = dict[report.Task, ranking.Rows]
REFERENCE = "EASE"
LEARNED, SERVED = "learned towers alone", "served"


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
        write_daily(reports, folder, epochs=learning_curves.read_epochs(paths), tuning=tuning.read_tuning(paths))
    found = f"{reports[0].num_all_users:,} users on the {days} days from {cut} on"
    return f"{found}: {paths.report / DAILY_PAGE}"


def _reports(sections: config.EvaluateSections, paths: RunPaths, bundle: Bundle, folds: Folds) -> list[report.Report]:
    """A report for each task."""
    baselines, notes = _baseline_arms(folds, max(sections.evaluation.ks), sections)
    served, tried = about_served(bundle, sections)
    arms = [*retrieved_by(bundle, sections, paths, folds.folds[0].split), *baselines]
    items = catalogue.catalogue_of(
        paths.tables,
        paths.catalogue(paths.as_of),
        item_category=sections.dataset.item_category,
        item_family=sections.dataset.item_family,
    )
    notes = (served, *notes, *_ranks_by_events(bundle, sections, paths, folds))
    return [compare_on(task, arms, folds, items, sections, notes=notes, tried=tried) for task in report.TASKS]


def _ranks_by_events(bundle: Bundle, sections: config.EvaluateSections, paths: RunPaths, folds: Folds) -> Iterator[str]:
    """How users of the window rank items by the number of their events, a sentence each."""
    fold = folds.folds[0]
    users = vectors.read_vectors(paths.vectors / "users")[bundle.encoder.user_ids.rows(fold.split.user_ids) - 1]
    groups = event_ranks.ranks_by_events(users, bundle.ranked, fold.item_counts, seed=sections.seed)
    return (group.sentence(len(fold.item_counts)) for group in groups)


def compare_on(
    task: report.Task,
    arms: Sequence[tuple[settings.Arm, Lists]],
    folds: Folds,
    items: catalogue.Catalogue,
    sections: config.EvaluateSections,
    *,
    notes: tuple[str, ...] = (),
    tried: tuple[tuple[str, ...], ...] = (),
    against: str = REFERENCE,
) -> report.Report:
    """Compares arms with one of them on one task.

    Args:
        task: What is relevant.
        arms: Without their lists, and their lists for each task.
        folds: Users and what they met, of one cut.
        items: The catalogue.
        sections: Name of the data set, list lengths, resamples and seed.
        notes: Of the report.
        tried: What was compared to choose what is served.
        against: Name of the arm that the others are compared with.
    """
    ks = sections.evaluation.ks
    return comparison.compare_arms(
        folds.folds,
        [replace(arm, ranked=[[lists[task]]]) for arm, lists in arms],
        settings=settings.Settings(
            task, ks, f"recall@{max(ks)}", num_samples=sections.evaluation.bootstrap_samples, seed=sections.seed
        ),
        catalogue=items,
        about=settings.About(
            sections.name, "after-cut", notes=notes, event_name=sections.dataset.event_name, tried=tried
        ),
        reference=against,
    )


def about_served(bundle: Bundle, sections: config.EvaluateSections) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """What is served and why, and a row for each that was tried on the days before the cut."""
    choice, made = registry.choice_of(bundle, sections.ranking), bundle.manifest.facts.served
    if choice != made.choice:
        return f"served: {choice}; as configured", ()
    return f"served: {choice}; {made.why}", tuple(made.table)


def _baseline_arms(
    folds: Folds, k: int, sections: config.EvaluateSections
) -> tuple[list[tuple[settings.Arm, Lists]], tuple[str, ...]]:
    """The baselines with their lists, and what they chose and left out, a sentence each."""
    past = baseline.Past(folds.folds[0].split, folds.events, folds.item_ids, sections.seed, k)
    methods = baselines_of(sections.evaluation.world)
    arms, notes = [], []
    with console.progress("baselines", total=len(methods)) as advance:
        for method in methods.values():
            fitted = method.fit(past)
            lists = {task: fitted.rank(k, task == report.NEW_TO_THE_USER) for task in report.TASKS}
            arms.append((settings.Arm(method.title, method.source, (), layer="baseline"), lists))
            notes += [fitted.note] if fitted.note else []
            advance(1)
    return arms, tuple(notes)


def retrieved_by(
    bundle: Bundle,
    sections: config.EvaluateSections,
    paths: RunPaths,
    split: Split,
    *,
    learned_width: int | None = None,
) -> Iterator[tuple[settings.Arm, Lists]]:
    """The arms of a bundle in the daily report, without their lists, and their lists for each task.

    Args:
        bundle: The published one.
        sections: List lengths and how lists are made.
        paths: Where the vectors and tokens of the users lie.
        split: Users and their history.
        learned_width: Numbers of a vector that were learned, its first; an arm searches by these alone, which is left
            out where it is None.
    """
    own = registry.retrievers_of(bundle, sections.ranking, ef_search=sections.ef_search)
    choice, k = registry.choice_of(bundle, sections.ranking), max(sections.evaluation.ks)
    limits = registry.spread_of(bundle, sections.ranking)
    exact = vector_search.TwoTowerRetriever(bundle.ranked, None, ef=0, max_fetch=0)
    lane = registry.cold_lane_of(bundle, sections.ranking)

    def alone(retriever: retrievers.Retriever) -> Find:
        return lambda users: retriever.retrieve(users, k)[0]

    def served(users: retrievers.UserQueries) -> ranking.Rows:
        has_past = users.purchases.num_per_user > 0
        found = spread.spread_lists(own, users, choice.retriever, k=k, can_be_found=has_past, spread=limits)
        return found.rows if lane is None else lane.fill(users, found.rows, found.scores)[0]

    def by_learned(users: retrievers.UserQueries) -> ranking.Rows:
        assert users.query_embeddings is not None
        assert learned_width is not None
        width = bundle.manifest.dimension
        queries = interests.first_coordinates(users.query_embeddings, learned_width, width=width)
        return alone(exact)(replace(users, query_embeddings=queries))

    arms: list[tuple[str, report.Layer, Find, str | None]] = [
        ("two-tower", "exact", alone(exact), None),
        ("two-tower, HNSW", "index", alone(own["two_tower"]), "two-tower"),
    ]
    if learned_width is not None:
        arms.insert(0, (LEARNED, "exact", by_learned, None))
    if choice.retriever == "cascade":
        widths = bundle.manifest.facts.index_report.parts
        cascade = vector_search.Cascade(exact, first_width=widths[0], depth=sections.ranking.fusion_depth)
        arms.append(("cascade", "exact", alone(cascade), None))
    name = f"{SERVED} ({choice.retriever})"
    arms.append((name, "index", served, "cascade" if choice.retriever == "cascade" else None))
    if bundle.sparcode is not None:
        arms.append(("SparCode", "index", alone(own["sparcode"]), None))
    if bundle.sparse is not None:
        arms += [(name, "index", alone(own[name]), None) for name in ("sparse", "hybrid")]
    with console.progress("model arms", total=len(arms)) as advance:
        for name, layer, find, twin in arms:
            found = {}
            for task in report.TASKS:
                # What is served keeps known items out by itself, or lets them come back.
                excludes = task == report.NEW_TO_THE_USER or (find is served and choice.exclude_known)
                blocks = _queries(bundle, paths, split, exclude_known=excludes)
                found[task] = np.concatenate([find(block) for block in blocks])
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
