"""The step `evaluate`: the published bundle and the baselines on the days after the cut, as a daily report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from artefacts import console, steps
from artefacts.paths import RunPaths
from evaluation.arms.retriever_arms import Lists, retrieved_by
from evaluation.baselines.baseline import Past
from evaluation.baselines.registry import BASELINES
from evaluation.catalogue import catalogue_of
from evaluation.comparison import compare_arms
from evaluation.config import EvaluateSections
from evaluation.folds import Folds, NoEventsError, make_folds
from evaluation.render.page import DAILY_PAGE, write_daily
from evaluation.report import NEW_TO_THE_USER, TASKS, Report
from evaluation.settings import About, Arm, Settings
from serving.bundles.bundle import CURRENT, Bundle

REFERENCE = "EASE"


def evaluate(sections: EvaluateSections, paths: RunPaths) -> str:
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


def _reports(sections: EvaluateSections, paths: RunPaths, bundle: Bundle, folds: Folds) -> list[Report]:
    """A report for each task."""
    ks, category = sections.evaluation.ks, sections.dataset.item_category
    catalogue = catalogue_of(paths.tables, paths.catalogue(paths.as_of), item_category=category)
    arms = [
        *retrieved_by(bundle, sections, paths, folds.folds[0].split),
        *_baseline_arms(folds, max(ks), sections.seed),
    ]
    return [
        compare_arms(
            folds.folds,
            [replace(arm, ranked=[[lists[task]]]) for arm, lists in arms],
            settings=Settings(
                task,
                ks,
                f"recall@{max(ks)}",
                num_samples=sections.evaluation.bootstrap_samples,
                seed=sections.seed,
            ),
            catalogue=catalogue,
            about=About(sections.name, "after-cut"),
            reference=REFERENCE,
        )
        for task in TASKS
    ]


def _baseline_arms(folds: Folds, k: int, seed: int) -> Iterable[tuple[Arm, Lists]]:
    past = Past(folds.folds[0].split, folds.events, folds.item_ids, seed)
    with console.progress("baselines", total=len(BASELINES)) as advance:
        for baseline in BASELINES.values():
            rank = baseline.fit(past)
            lists = {task: rank(k, task == NEW_TO_THE_USER) for task in TASKS}
            yield Arm(baseline.title, baseline.source, (), layer="baseline"), lists
            advance(1)
