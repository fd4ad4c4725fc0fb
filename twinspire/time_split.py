"""`twinspire benchmark time`: product defaults, tuned settings and all baselines on the days after a cut.

A file is a run configuration; one without the key `ingest` is a world, which is made first. NAME.tuned.yaml next to
NAME.yaml has the keys that differ in the tuned settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from artefacts import console, locks, steps
from artefacts.config import ConfigError, pick
from artefacts.paths import RunPaths
from evaluation import baselines, catalogue, folds, report, settings
from evaluation import steps as evaluation
from evaluation.baselines.baseline import Past
from evaluation.config import EvaluateSections
from evaluation.render.table import print_daily
from evaluation.render.time_split import DEFAULTS, TUNED, Benchmark, Measured, Outcome
from serving.bundles.bundle import CURRENT, Bundle
from twinspire import ablation_config, job, kept_lists, load_config, trained_arm
from twinspire.config import Config

Arms = list[tuple[settings.Arm, evaluation.Lists]]


@dataclass(frozen=True)
class DataSet:
    """A data set of a benchmark.

    Attributes:
        config: The product's defaults on it.
        tuned: Tuned settings; None where there are none.
    """

    config: Config
    tuned: Config | None


def load_data_sets(
    files: Sequence[Path], runs: Path, run: trained_arm.Invocation, *, only: Sequence[str] = ()
) -> list[DataSet]:
    """Reads all configurations, before anything is fitted; makes the worlds among them.

    Args:
        files: Run configurations, worlds, and folders of them.
        runs: Where worlds are made.
        run: Moment and version.
        only: Names of data sets; all if empty.

    Raises:
        ConfigError: A file is not valid, two have one name, or there is none of a name.
    """
    raws = {path: load_config.read_extended(path, expected="a run configuration or a world") for path in _listed(files)}
    names = [str(raw.get("name", path.stem)) for path, raw in raws.items()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two data sets are called {twice[0]!r}; give each a `name` of its own")
    if missing := sorted(set(only) - set(names)):
        raise ConfigError(f"no data set {missing[0]!r}; they are: {', '.join(names)}")
    chosen = {path: raw for (path, raw), name in zip(raws.items(), names, strict=True) if not only or name in only}
    found = []
    for path, raw in chosen.items():
        if "ingest" not in raw:
            raw = load_config.read_mapping(make_world(path, raw, runs, run), expected="what `twinspire world` wrote")
        config = load_config.resolve(Config, dict(raw), (), source=str(path))
        job.check_day(config.as_of, run.now)
        found.append(DataSet(config, _tuned(path.with_name(f"{path.stem}{load_config.TUNED_SUFFIX}"), raw, config)))
    return found


def _listed(files: Sequence[Path]) -> list[Path]:
    """The files of folders, by name, without those of tuned settings."""
    found = [one for path in files for one in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    found = [path for path in dict.fromkeys(found) if not path.name.endswith(load_config.TUNED_SUFFIX)]
    if not found:
        raise ConfigError(f"{', '.join(map(str, files))}: no data sets; expected files NAME.yaml")
    return found


def make_world(path: Path, raw: dict[str, Any], runs: Path, run: trained_arm.Invocation) -> Path:
    """Makes a world unless it is there; returns the configuration that reads it."""
    from evaluation.worlds.config import WorldConfig
    from evaluation.worlds.truth import TRUTH_FILE
    from evaluation.worlds.write import write_world

    source = f"{path} (read as a world, for it has no key `ingest`)"
    world = load_config.resolve(WorldConfig, {"name": path.stem, **raw}, (), source=source)
    folder = runs / "worlds" / world.name

    def write() -> str:
        shutil.rmtree(folder, ignore_errors=True)
        written = write_world(world, folder)
        return f"{world.name}: {written.num_events:,} events of {written.num_users:,} users"

    digest = steps.digest_of({"world": world.model_dump(mode="json"), "code": run.code_version})
    made = steps.Step("world", digest, (folder / TRUTH_FILE,), write, folder.with_name(f"{world.name}.steps"))
    job.do(made, force=False)
    return folder / "config.yaml"


def _tuned(path: Path, base: dict[str, Any], config: Config) -> Config | None:
    """Tuned settings for the same users and days.

    Raises:
        ConfigError: They are not valid, or change who is evaluated on what.
    """
    if not path.exists():
        return None
    changes = load_config.read_mapping(path, expected="the keys that are tuned")
    # The defaults, which are read already; those of a world are made.
    changes.pop(load_config.EXTENDS, None)
    found = load_config.resolve(Config, load_config.merged(base, changes), (), source=str(path))
    for key in ablation_config.FIXED:
        if getattr(found, key) != getattr(config, key):
            raise ConfigError(f"{path}: {key} is not that of the defaults, and both are measured on the same days")
    trained_arm.check_needs_no_earlier_fit(found, str(path))
    return found


def benchmark(data_sets: Sequence[DataSet], runs: Path, run: trained_arm.Invocation, *, command: str) -> Benchmark:
    """Runs every data set and prints its tables; one that fails is reported, and the others go on.

    Args:
        data_sets: What is measured.
        runs: Folder of the runs.
        run: Moment and version.
        command: What is noted as the origin of the figures.
    """
    measured, failed = [], {}
    for data_set in data_sets:
        name = data_set.config.name
        console.console().print(f"\n[bold]{name}[/]")
        try:
            found = measure(data_set, runs, run)
        except Exception as error:
            # Whichever error one data set ends with: the others are worth hours, and it is named at the end.
            failed[name] = f"{type(error).__name__}: {error}"
            console.console().print(f"[red]failed:[/] {escape(failed[name])}")
        else:
            measured.append(found)
            print_daily(found.reports, console.console())
    return Benchmark(command, tuple(measured), failed)


def measure(data_set: DataSet, runs: Path, run: trained_arm.Invocation) -> Measured:
    """Fits what is not fitted yet, and compares all arms of a data set.

    Args:
        data_set: What is measured.
        runs: Folder of the runs.
        run: Moment and version.

    Raises:
        ValueError: A step fails, or nothing happened in the days after the cut.
    """
    config = data_set.config
    paths = RunPaths(runs / config.name, config.as_of)
    made = run.steps(config, paths)
    with locks.only_run(paths.root, command="twinspire benchmark time", now=run.now):
        job.save_config(config, paths)
        for name, step in made.items():
            # The daily report would fit all baselines once more.
            if name != "evaluate":
                job.do(step, force=False)
    window = folds.make_folds(
        paths.tables,
        protocol="after-cut",
        cuts=[config.as_of],
        window_days=config.evaluation.window_days,
        item_category=config.dataset.item_category,
    )
    groups = {DEFAULTS: _retrieved(DEFAULTS, trained_arm.Trained(config, paths, paths.bundles / CURRENT), window)}
    if data_set.tuned is not None:
        groups[TUNED] = _retrieved(TUNED, trained_arm.train_bundle(data_set.tuned, config, runs, run), window)
    notes = [note for group in groups.values() for note in group.notes]
    fitted: Arms = []
    with console.progress("baselines", total=len(baselines.BASELINES)) as advance:
        for baseline in baselines.baselines_of(config.evaluation.world).values():
            past = Past(window.folds[0].split, window.events, window.item_ids, config.seed, max(config.evaluation.ks))
            lists, note = kept_lists.kept_baseline(
                baseline, past, paths, tables=made["ingest"].digest, tasks=report.TASKS
            )
            fitted.append((settings.Arm(baseline.title, baseline.source, (), layer="baseline"), lists))
            notes += [note] if note else []
            advance(1)
    return _compare(groups, fitted, window, paths, pick(EvaluateSections, config), tuple(notes))


@dataclass(frozen=True)
class _Group:
    """What one of the settings retrieves: its arms, the names of two of them, and what is served and why."""

    arms: Arms
    learned: str
    served: str
    notes: tuple[str, ...]


def _retrieved(name: str, trained: trained_arm.Trained, window: folds.Folds) -> _Group:
    """The arms of a bundle; those of tuned settings are called so."""
    bundle, config = Bundle.open(trained.bundle), trained.config
    sections, parts = pick(EvaluateSections, config), bundle.manifest.facts.index_report.parts
    # Co-purchase factors are the last part.
    learned_width = sum(parts[:-1] if config.towers.factor_dim and len(parts) > 1 else parts)
    prefix = "" if name == DEFAULTS else f"{name}: "
    arms: Arms = []
    for arm, lists in evaluation.retrieved_by(
        bundle, sections, trained.paths, window.folds[0].split, learned_width=learned_width
    ):
        exact = None if arm.exact is None else f"{prefix}{arm.exact}"
        arms.append((replace(arm, name=f"{prefix}{arm.name}", exact=exact), lists))
    (served,) = (arm.name for arm, _ in arms if arm.name.startswith(f"{prefix}{evaluation.SERVED}"))
    why, _ = evaluation.about_served(bundle, sections)
    return _Group(arms, f"{prefix}{evaluation.LEARNED}", served, (f"{prefix}{why}",))


def _compare(
    groups: dict[str, _Group],
    fitted: Arms,
    window: folds.Folds,
    paths: RunPaths,
    sections: EvaluateSections,
    notes: tuple[str, ...],
) -> Measured:
    """Every arm less EASE, and what is served less the best baseline, on both tasks."""
    items = catalogue.catalogue_of(
        paths.tables,
        paths.catalogue(paths.as_of),
        item_category=sections.dataset.item_category,
        item_family=sections.dataset.item_family,
    )
    of_bundles = [pair for group in groups.values() for pair in group.arms]
    arms, served = [*of_bundles, *fitted], [group.served for group in groups.values()]
    reports, outcomes = [], []
    for task in report.TASKS:
        compared = evaluation.compare_on(task, arms, window, items, sections, notes=notes)
        # In the order of their letters: a title may have other words there.
        figures = {arm.name: found for (arm, _), found in zip(arms, compared.arms, strict=True)}
        of_metric = {name: found.metrics[compared.metric] for name, found in figures.items()}
        best = max((arm.name for arm, _ in fitted if arm.name != report.ORACLE), key=lambda name: of_metric[name].mean)
        chosen = [pair for pair in arms if pair[0].name in (best, *served)]
        over_best = evaluation.compare_on(task, chosen, window, items, sections, against=best)
        over_ease = {name: compared.comparison(found.letter) for name, found in figures.items()}
        for name, group in groups.items():
            learned = over_ease[group.learned]
            won = next(one for one in over_best.comparisons if one.name == group.served)
            assert learned is not None
            outcomes.append(
                Outcome(
                    dataset=sections.name,
                    task=compared.title,
                    settings=name,
                    num_users=compared.num_users,
                    metric=compared.metric,
                    learned=of_metric[group.learned],
                    served=of_metric[group.served],
                    ease=of_metric[evaluation.REFERENCE],
                    best_name=figures[best].name,
                    best=of_metric[best],
                    learned_over_ease=learned.metrics[compared.metric].interval,
                    served_over_best=won.metrics[compared.metric].interval,
                    oracle=of_metric[report.ORACLE].mean if report.ORACLE in of_metric else None,
                )
            )
        reports.append(compared)
    return Measured(sections.name, tuple(reports), tuple(outcomes))
