"""`twinspire ablate`: every arm of a file at every cut with every seed, and the baselines, compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.markup import escape

from artefacts.console import console, progress
from artefacts.paths import RunPaths
from evaluation.baselines import baselines_of
from evaluation.baselines.baseline import Baseline, Past
from evaluation.catalogue import catalogue_of
from evaluation.comparison import compare_arms
from evaluation.folds import Folds, ItemPartition, make_folds
from evaluation.leakage import check_features
from evaluation.metrics import find_hits, recall_at_k
from evaluation.report import NEW_TO_THE_USER, Cost, Report
from evaluation.settings import About, Arm, Settings
from evaluation.slices import items_by_hidden_past, users_by_past
from features.hidden_past import HiddenPast
from serving.retrieval.ranking import Rows
from twinspire.ablation_config import AMONG_HIDDEN, Ablation, Lists, folder_of
from twinspire.ablation_fit import Fit, retrieve
from twinspire.kept_lists import kept_baseline
from twinspire.trained_arm import Invocation, do_steps, root_of

NUM_CATEGORIES = 5

EXACT: frozenset[Lists] = frozenset({"exact", "cascade", "unquantised", "sparse", "hybrid", *AMONG_HIDDEN})
"""Ways that approximate nothing."""

Key = tuple[str, int, dt.date]
"""Arm, seed and cut."""


def ablate(ablation: Ablation, runs: Path, *, only: Sequence[str], num_seeds: int | None, run: Invocation) -> Report:
    """Fits what is not fitted yet and compares all arms.

    An arm that fails is reported, and the others go on; an arm has figures only if all of its fits are there.

    Args:
        ablation: What is compared.
        runs: Folder of the runs of ablations.
        only: Arms to fit, with those that they need and are compared with; all if empty.
        num_seeds: How many of the seeds; None for all.
        run: Moment and version.

    Returns:
        The report.

    Raises:
        ConfigError: `only` names no arm.
        LeakageError: Features of a cut hold something from the cut on.
        ValueError: A step before the fits fails, or there are no events after a cut.
    """
    names, seeds = ablation.chosen(only), ablation.settings.seeds[:num_seeds]
    fits = {key: fit for key, fit in plan_fits(ablation, runs).items() if key[0] in names and key[1] in seeds}
    make_features(ablation, fits, run)
    base = RunPaths(root_of(runs, ablation.base, ablation.base), ablation.base.as_of)
    do_steps([run.steps(ablation.base, base)["ingest"]])
    folds = _folds(ablation, base)
    check_leakage(fits, folds)
    ks = ablation.base.evaluation.ks
    settings = Settings(
        NEW_TO_THE_USER,
        ks,
        f"recall@{max(ks)}",
        num_samples=ablation.base.evaluation.bootstrap_samples,
        seed=ablation.base.seed,
        by_day=False,
    )
    wanted = ablation.settings.baselines
    methods = baselines_of(ablation.base.evaluation.world).items()
    fitted = [
        _baseline_arm(baseline, ablation, base, folds, run, k=max(ks))
        for name, baseline in methods
        if wanted is None or name in wanted
    ]
    baselines, notes = [arm for arm, _ in fitted], [note for _, of_arm in fitted for note in of_arm]
    found = _retrieve_all(fits, folds, run, k=max(ks), costs=ablation.settings.costs)
    arms = [found.arm(name, ablation, seeds) for name in names if name not in found.failed]
    cuts = ", ".join(map(str, folds.cuts))
    notes.append(f"no leakage: features at {cuts} hold no event, moment or item from the cut on")
    return compare_arms(
        folds.folds,
        _with_references(baselines + arms, ablation),
        settings=settings,
        catalogue=catalogue_of(
            base.tables,
            base.catalogue(folds.cuts[0]),
            item_category=_category(ablation),
            item_family=ablation.base.dataset.item_family,
        ),
        about=About(
            ablation.base.name,
            "after-cut",
            tuple(seeds),
            failed=found.failed,
            notes=tuple(notes),
            event_name=ablation.base.dataset.event_name,
        ),
    )


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


def make_features(ablation: Ablation, fits: Mapping[Key, Fit], run: Invocation) -> None:
    """Tables and features of every cut, once for all arms that share them; cuts in time order, as each adds days."""
    done: set[tuple[Path, dt.date]] = set()
    for (name, _, cut), fit in fits.items():
        if (fit.paths.root, cut) not in done:
            # The seed of the file: with those of the arms, every seed would join its examples again.
            config = ablation.arms[name].model_copy(update={"as_of": cut})
            steps = run.steps(config, RunPaths(fit.paths.root, cut))
            do_steps([steps["ingest"], steps["features"]])
            done.add((fit.paths.root, cut))


def check_leakage(fits: Mapping[Key, Fit], folds: Folds) -> None:
    """Refuses features of a cut that hold something from the cut on.

    Raises:
        LeakageError: Names the file, the column and the first row.
    """
    for folder, cut in dict.fromkeys((fit.paths.catalogue(cut), cut) for (_, _, cut), fit in fits.items()):
        check_features(folder, folds.events, cut, histories=folds.histories)


def _folder(ablation: Ablation, name: str) -> str:
    """Name of the first arm that is fitted as this one is, as part of a path."""

    def fitted(arm: str) -> tuple[object, ...]:
        config, needs = ablation.arms[arm], ablation.settings.arms[arm].needs
        shape = config.dataset, config.features, config.towers, config.training
        return *shape, config.sparcode, config.index, config.sparse, needs

    return next(folder_of(other) for other in ablation.arms if fitted(other) == fitted(name))


def _category(ablation: Ablation) -> str | None:
    return ablation.base.dataset.item_category


def _folds(ablation: Ablation, paths: RunPaths) -> Folds:
    days = ablation.base.evaluation.window_days
    folds = make_folds(
        paths.tables,
        protocol="after-cut",
        cuts=ablation.settings.cuts,
        window_days=days,
        item_category=_category(ablation),
        user_partitions=(users_by_past,),
        item_partitions=_hidden_items(ablation),
        num_categories=NUM_CATEGORIES,
    )
    for cut, fold in zip(folds.cuts, folds.folds, strict=True):
        if not fold.has_relevant(NEW_TO_THE_USER).any():
            raise ValueError(f"no user meets anything new in the {days} days from {cut} on; choose an earlier cut")
    return folds


def _hidden_items(ablation: Ablation) -> list[ItemPartition]:
    """What divides the items by whether their past is hidden, where it is."""
    settings = ablation.base.ingest.hidden_past
    if settings is None:
        return []
    hidden = HiddenPast(**dict(settings))
    return [lambda item_ids: items_by_hidden_past(hidden.are_hidden(item_ids))]


def _baseline_arm(
    baseline: Baseline, ablation: Ablation, paths: RunPaths, folds: Folds, run: Invocation, *, k: int
) -> tuple[Arm, list[str]]:
    """A baseline with one list a cut, kept like those of fits, and what it chose for each."""
    ranked, notes = [], []
    for cut, fold in zip(folds.cuts, folds.folds, strict=True):
        past = Past(fold.split, folds.events, folds.item_ids, ablation.base.seed, k)
        ingest = run.steps(ablation.base.model_copy(update={"as_of": cut}), paths)["ingest"].digest
        lists, chosen = kept_baseline(baseline, past, paths, tables=ingest, tasks=(NEW_TO_THE_USER,))
        ranked.append([lists[NEW_TO_THE_USER]])
        if chosen:
            notes.append(f"{cut}, {chosen}")
    return Arm(baseline.title, baseline.source, ranked, layer="baseline"), notes


@dataclass
class _Retrieved:
    """What the fits have retrieved, and which arms failed."""

    lists: dict[Key, Rows] = field(default_factory=dict)
    seconds: dict[Key, float] = field(default_factory=dict)
    costs: dict[Key, Cost] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def arm(self, name: str, ablation: Ablation, seeds: Sequence[int]) -> Arm:
        """An arm whose fits are all there."""
        cuts, settings = ablation.settings.cuts, ablation.settings.arms[name]
        keys = [(name, seed, cut) for cut in cuts for seed in seeds]
        return Arm(
            name,
            settings.note,
            [[self.lists[name, seed, cut] for seed in seeds] for cut in cuts],
            reference=ablation.against(name),
            layer="exact" if settings.lists in EXACT else "index",
            training_seconds=tuple(self.seconds[key] for key in keys),
            costs=tuple(self.costs[key] for key in keys if key in self.costs),
        )


def _retrieve_all(fits: Mapping[Key, Fit], folds: Folds, run: Invocation, *, k: int, costs: bool) -> _Retrieved:
    found, splits = _Retrieved(), {cut: fold.split for cut, fold in zip(folds.cuts, folds.folds, strict=True)}
    with progress("fits", total=len(fits)) as advance:
        for number, (key, fit) in enumerate(fits.items(), start=1):
            name, seed, cut = key
            if name not in found.failed:
                try:
                    found.lists[key], found.seconds[key], cost = retrieve(fit, run, splits[cut], k=k, costs=costs)
                    if cost is not None:
                        found.costs[key] = cost
                    recall = float(np.nanmean(recall_at_k(find_hits(found.lists[key], splits[cut].relevant_new), k)))
                    outcome = f"recall@{k} {recall:.4f} [dim]({found.seconds[key]:.0f} s)[/]"
                except Exception as error:
                    # Whichever error one arm ends with: the others are worth hours, and the arm is named at the end.
                    found.failed[name] = f"seed {seed}, {cut}: {type(error).__name__}: {error}"
                    outcome = f"[red]failed:[/] {escape(found.failed[name])}"
                console().print(f"{number:>3}/{len(fits)} {escape(name)}, seed {seed}, {cut}: {outcome}")
            advance(1)
    return found


def _with_references(arms: Sequence[Arm], ablation: Ablation) -> list[Arm]:
    """Each arm with its reference arm: itself where that failed, so that it is compared with none."""
    names, settings = {arm.name for arm in arms}, ablation.settings
    found = []
    for arm in arms:
        wanted = ablation.against(arm.name) if arm.name in settings.arms else settings.reference
        found.append(replace(arm, reference=wanted if wanted in names else arm.name))
    return found
