"""Ablate: every arm of a file at every cut with every seed, judged on the same users."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape

from artefacts.console import console, progress
from artefacts.paths import RunPaths
from artefacts.steps import digest_of, finished, run_step
from evaluation.ablation import AblationReport, Arm, Cost, Window, compare
from evaluation.baselines import ease, popularity
from evaluation.metrics import judge, recall_at_k
from evaluation.slices import items_by_category, items_by_novelty, items_by_popularity, users_by_past
from evaluation.split import make_split, recent_item_counts
from features import columns
from features.columns import midnight
from features.tables import read_events
from serving.retrieval.ranking import Rows
from twinspire.ablation_config import BASELINES, Ablation, folder_of
from twinspire.config import Config
from twinspire.pipeline.evaluate import POPULARITY_DAYS
from twinspire.pipeline.fit_arm import Fit, Run, kept_lists, retrieve, root_of

LEVEL = 0.95
NUM_CATEGORIES = 5

Key = tuple[str, int, dt.date]
"""Arm, seed and cut."""


def ablate(ablation: Ablation, runs: Path, *, only: Sequence[str], num_seeds: int | None, run: Run) -> AblationReport:
    """Fits what is not fitted yet and judges all arms.

    An arm that fails is reported, and the others go on; an arm has figures only if all of its fits are there.

    Args:
        ablation: What is compared.
        runs: Folder of the runs of ablations.
        only: Arms to fit, with those that they need and are compared with; all if empty.
        num_seeds: How many of the seeds; None for all.
        run: Moment and version.

    Returns:
        The figures.

    Raises:
        ConfigError: `only` names no arm.
        ValueError: A step before the fits fails, or there are no events after a cut.
    """
    names, seeds = ablation.chosen(only), ablation.settings.seeds[:num_seeds]
    fits = plan_fits(ablation, runs)
    fits = {key: fit for key, fit in fits.items() if key[0] in names and key[1] in seeds}
    _make_features(ablation, names, fits, run)
    base = RunPaths(root_of(runs, ablation.base, ablation.base), ablation.base.as_of)
    _do_steps(ablation.base, base, run, ("ingest",))
    windows = _windows(ablation, base)
    k = max(ablation.base.evaluation.ks)
    arms = [_baseline(name, ablation, base, windows, run, k=k) for name in BASELINES]
    lists, seconds, costs, failed = _retrieve_all(fits, windows, run, k=k, costs=ablation.settings.costs)
    for name in names:
        if name not in failed:
            at = [[lists[name, seed, cut] for seed in seeds] for cut in ablation.settings.cuts]
            took = tuple(seconds[name, seed, cut] for cut in ablation.settings.cuts for seed in seeds)
            cost = tuple(costs[key] for key in fits if key[0] == name and key in costs)
            arms.append(Arm(name, ablation.settings.arms[name].note, ablation.against(name), at, took, cost))
    return _report(ablation, seeds, list(windows.values()), arms, failed, k=k)


def plan_fits(ablation: Ablation, runs: Path) -> dict[Key, Fit]:
    """Every fit of a file, in the order in which they run: all arms with the first seed first.

    Arms that differ in retrieval only share a fit, and arms whose features are not those of the configuration have
    tables and features of their own.
    """
    settings = ablation.settings
    folders = {name: _folder(ablation, name) for name in settings.arms}
    returned_to = {folders[arm.needs] for arm in settings.arms.values() if arm.needs}
    returned_to |= {folder for folder in folders.values() if list(folders.values()).count(folder) > 1}
    fits: dict[Key, Fit] = {}
    for seed in settings.seeds:
        for cut in settings.cuts:
            for name, arm in settings.arms.items():
                config = ablation.arms[name].model_copy(update={"seed": seed, "as_of": cut})
                root = root_of(runs, ablation.base, ablation.arms[name])
                paths = RunPaths(root, cut, f"{folders[name]}-{seed}")
                needs = fits[arm.needs, seed, cut] if arm.needs else None
                fits[name, seed, cut] = Fit(config, paths, needs, arm.lists, keep=folders[name] in returned_to)
    return fits


def _folder(ablation: Ablation, name: str) -> str:
    """Name of the first arm that is fitted as this one is, as part of a path."""

    def fitted(arm: str) -> tuple[object, ...]:
        config, needs = ablation.arms[arm], ablation.settings.arms[arm].needs
        return config.dataset, config.features, config.towers, config.training, config.sparcode, needs

    return next(folder_of(other) for other in ablation.arms if fitted(other) == fitted(name))


def _make_features(ablation: Ablation, names: Sequence[str], fits: Mapping[Key, Fit], run: Run) -> None:
    """Tables and features of every cut, once for all arms that share them; cuts in time order, as each adds days."""
    done: set[tuple[Path, dt.date]] = set()
    for (name, _, cut), fit in fits.items():
        if (fit.paths.root, cut) not in done:
            # The seed of the file: with those of the arms, every seed would join its examples anew.
            config = ablation.arms[name].model_copy(update={"as_of": cut})
            _do_steps(config, RunPaths(fit.paths.root, cut), run, ("ingest", "features"))
            done.add((fit.paths.root, cut))


def _do_steps(config: Config, paths: RunPaths, run: Run, names: Sequence[str]) -> None:
    for name in names:
        # Whichever day the online store holds, a fit does not read it.
        step = replace(run.steps(config, paths)[name], is_current=lambda: True)
        if finished(step) is None:
            record = run_step(step)
            outcome = f"{escape(record.outcome)} [dim]({record.seconds:.0f} s)[/]"
            console().print(f"[bold]{name:<9}[/] {paths.as_of}: {outcome}")


def _windows(ablation: Ablation, paths: RunPaths) -> dict[dt.date, Window]:
    items = pq.read_table(paths.tables / "items.parquet")
    item_ids = items.column(columns.ITEM_ID).to_numpy(zero_copy_only=False)
    category, days = ablation.base.dataset.item_category, ablation.base.evaluation.window_days
    windows: dict[dt.date, Window] = {}
    by_category = None
    for cut in ablation.settings.cuts:
        events = read_events(paths.tables, first_day=dt.date.min, end_day=cut + dt.timedelta(days=days))
        split = make_split(events, item_ids, cut=midnight(cut), window_days=days)
        if not split.relevant_new.nnz:
            raise ValueError(f"no user meets anything new in the {days} days from {cut} on; choose an earlier cut")
        counts = np.asarray(split.history.sum(axis=0)).ravel().astype(np.int64)
        if category and by_category is None:
            # Those of the first cut, so that the same categories are shown in all windows.
            names = items.column(category).cast(pa.string()).to_pylist()
            by_category = items_by_category(names, counts, num_largest=NUM_CATEGORIES)
        of_items = [items_by_popularity(counts), items_by_novelty(counts), *([by_category] if by_category else [])]
        windows[cut] = Window(split, tuple(of_items), (users_by_past(split),))
    return windows


def _baseline(
    name: str, ablation: Ablation, paths: RunPaths, windows: Mapping[dt.date, Window], run: Run, *, k: int
) -> Arm:
    """Popularity or EASE as an arm with one list a window."""
    lists = []
    for cut, window in windows.items():
        at = replace(paths, as_of=cut, arm=folder_of(name))
        split = window.split

        def make(cut: dt.date = cut, window: Window = window) -> Rows:
            split = window.split
            if name == "EASE":
                return ease(split, k, new_only=True)
            items = pq.read_table(paths.tables / "items.parquet", columns=[columns.ITEM_ID])
            item_ids = items.column(0).to_numpy(zero_copy_only=False)
            events = read_events(paths.tables, first_day=cut - dt.timedelta(days=POPULARITY_DAYS), end_day=cut)
            counts = recent_item_counts(events, item_ids, cut=midnight(cut), days=POPULARITY_DAYS)
            return popularity(split, k, item_counts=counts, new_only=True)

        config = ablation.base.model_copy(update={"as_of": cut})
        digest = digest_of({"ingest": run.steps(config, paths)["ingest"].digest, "k": k, "window": split.window_days})
        lists.append([kept_lists("exact", at, digest=digest, shape=(len(split.user_ids), k), make=make)])
    notes = {"EASE": "item-to-item, closed form", "popularity": f"most events in {POPULARITY_DAYS} days"}
    return Arm(name, notes[name], ablation.settings.reference, lists, ())


def _retrieve_all(
    fits: Mapping[Key, Fit], windows: Mapping[dt.date, Window], run: Run, *, k: int, costs: bool
) -> tuple[dict[Key, Rows], dict[Key, float], dict[Key, Cost], dict[str, str]]:
    lists: dict[Key, Rows] = {}
    seconds: dict[Key, float] = {}
    found: dict[Key, Cost] = {}
    failed: dict[str, str] = {}
    with progress("fits", total=len(fits)) as advance:
        for number, (key, fit) in enumerate(fits.items(), start=1):
            name, seed, cut = key
            if name not in failed:
                split = windows[cut].split
                try:
                    lists[key], seconds[key], cost = retrieve(fit, run, split, k=k, costs=costs)
                    if cost is not None:
                        found[key] = cost
                    recall = float(np.nanmean(recall_at_k(judge(lists[key], split.relevant_new), k)))
                    outcome = f"recall@{k} {recall:.4f} [dim]({seconds[key]:.0f} s)[/]"
                except Exception as error:
                    # Whatever it is that one arm does: the others are worth hours, and the arm is named at the end.
                    failed[name] = f"seed {seed}, {cut}: {type(error).__name__}: {error}"
                    outcome = f"[red]failed:[/] {escape(failed[name])}"
                console().print(f"{number:>3}/{len(fits)} {escape(name)}, seed {seed}, {cut}: {outcome}")
            advance(1)
    return lists, seconds, found, failed


def _report(
    ablation: Ablation,
    seeds: Sequence[int],
    windows: Sequence[Window],
    arms: Sequence[Arm],
    failed: Mapping[str, str],
    *,
    k: int,
) -> AblationReport:
    base = ablation.base
    kept = {arm.name for arm in arms}
    arms = [arm if arm.against in kept else replace(arm, against=None) for arm in arms]
    samples = base.evaluation.bootstrap_samples
    rows = compare(windows, arms, k=k, num_samples=samples, seed=base.seed, level=LEVEL)
    groups = (*windows[0].user_groups, *windows[0].item_groups)
    return AblationReport(
        dataset=base.name,
        cuts=tuple(str(cut) for cut in ablation.settings.cuts),
        window_days=base.evaluation.window_days,
        seeds=tuple(seeds),
        k=k,
        num_users=rows[0].figures["recall"].num_users,
        num_items=windows[0].split.history.shape[1],
        level=LEVEL,
        num_samples=samples,
        slices={part.about: part.names for part in groups},
        arms=rows,
        failed=dict(failed),
    )
