"""The steps of the main job: what each one reads, makes and does, and their order.

    ingest -> features -> [mine ->] [teach ->] train -> embed -> index -> [codes ->] [second_look ->] bundle ->
    publish -> evaluate
    nightly: the same up to bundle -> gates -> publish

A step is handed the sections of the configuration that it declares, and nothing else of it. Its digest is the hash of
those sections, of what it reads besides, and of the step before it: a change makes the steps that read it and those
behind them run again, and no others. Where Beam runs (`beam`) changes no result and is part of no digest.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artefacts import console, steps
from artefacts.config import as_read, nested, pick
from artefacts.paths import RunPaths
from beam_jobs.config import BeamConfig, CodesSections, EmbedSections, IndexSections, MineSections
from evaluation.config import EvaluateSections, GatesSections
from features.config import FeaturesSections, IngestSections
from serving.config import BundleSections, PublishSections, SecondLookSections
from training.config import TeachSections, TrainSections

if TYPE_CHECKING:
    from training.lineage import WarmStartPlan
    from twinspire.config import Config


@dataclass(frozen=True)
class Run:
    """What a step is handed besides its sections.

    Attributes:
        paths: Where things lie.
        now: The moment of the run: events after it are refused, bundles carry it.
        beam: Where Beam jobs run.
        night: How a nightly run begins; None runs the job by itself.
        read_before: What the steps before this one read of the configuration, as the YAML file holds it.
        digest: Of the step, with everything that goes into it.
    """

    paths: RunPaths
    now: dt.datetime
    beam: BeamConfig
    night: WarmStartPlan | None = None
    read_before: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


def _ingest(sections: IngestSections, run: Run) -> str:
    from features.steps import make_tables

    return make_tables(sections, run.paths, now=run.now)


def _features(sections: FeaturesSections, run: Run) -> str:
    from beam_jobs.snapshot_days import write_snapshots
    from features.steps import make_features
    from features.tables import event_days

    # Before anything is computed: a slip of the year would make a thousand midnights.
    sections.check_days(event_days(run.paths.tables))
    written = write_snapshots(sections, run.beam, run.paths)
    return f"{written.outcome()}; {make_features(sections, run.paths)}"


def _mine(sections: MineSections, run: Run) -> str:
    from shutil import rmtree

    from beam_jobs.steps import mine

    outcome = mine(sections, run.beam, run.paths)
    # Their digests cover how negatives are mined, not the earlier fit that these happen to come from.
    for name in {*STEP_NAMES, *NIGHT_STEP_NAMES} - {"ingest", "features", "mine"}:
        (run.paths.steps / f"{name}.json").unlink(missing_ok=True)
    rmtree(run.paths.unfinished_fit, ignore_errors=True)
    return outcome


def _teach(sections: TeachSections, run: Run) -> str:
    from training.teach import teach

    return teach(sections, run.paths)


def _train(sections: TrainSections, run: Run) -> str:
    # TensorFlow writes about the machine when it is imported and when it first looks for a GPU, at any log level.
    with console.held_back():
        import tensorflow as tf

        from training.steps import train

        tf.config.list_physical_devices()

        from training.held_out import Parent
        from training.steps import as_chief

    night, paths = run.night, run.paths
    with as_chief(sections.training, nightly=night is not None):
        # From here on the day's bundle, which may be served, has another fit behind it: it is no parent any more.
        paths.bundle_name.unlink(missing_ok=True)
        if night is None or night.parent is None:
            return train(sections, paths, digest=run.digest)
        from features.steps import keep_catalogue

        keep_catalogue(paths, night.parent)
        parent = Parent.open(RunPaths(paths.root, night.parent))
        return train(sections, paths, parent=parent, is_warm_start=night.is_warm_start, digest=run.digest)


def _embed(sections: EmbedSections, run: Run) -> str:
    from beam_jobs.steps import embed_catalogue

    return embed_catalogue(run.beam, run.paths)


def _index(sections: IndexSections, run: Run) -> str:
    from beam_jobs.steps import index_catalogue

    return index_catalogue(sections, run.beam, run.paths)


def _codes(sections: CodesSections, run: Run) -> str:
    from beam_jobs.code_tables import make_codes

    return make_codes(sections, run.beam, run.paths)


def _second_look(sections: SecondLookSections, run: Run) -> str:
    with console.held_back():
        from training.second_look import fit_second_look

    return fit_second_look(sections, run.paths, earlier=_warm_from(run))


def _warm_from(run: Run) -> RunPaths | None:
    """The fit that a night's is a warm start from; None where it is a full one."""
    night = run.night
    if night is None or night.parent is None or not night.is_warm_start:
        return None
    return RunPaths(run.paths.root, night.parent)


def _bundle(sections: BundleSections, run: Run) -> str:
    from evaluation.choice import choose, served_by
    from serving.steps import make_bundle

    night, paths = run.night, run.paths
    parent = None if night is None else night.parent_bundle
    before = None if parent is None else served_by(paths.bundles / parent)
    k = max(sections.ks)
    served = choose(sections.ranking, paths, k=k, seed=sections.seed, earlier=_warm_from(run), before=before)
    line = make_bundle(sections, paths, now=run.now, made_with=run.read_before, served=served, parent=parent)
    return line if before is None or str(before) == str(served) else f"{line}; before it was {before}"


def _evaluate(sections: EvaluateSections, run: Run) -> str:
    from evaluation.steps import evaluate

    return evaluate(sections, run.paths)


def _gates(sections: GatesSections, run: Run) -> str:
    from evaluation.gates.gates import check_gates

    return check_gates(sections, run.paths, parent=None if run.night is None else run.night.parent_bundle)


def _publish(sections: PublishSections, run: Run) -> str:
    from serving.steps import publish_bundle

    return publish_bundle(sections, run.paths, now=run.now)


def _ingest_inputs(sections: IngestSections, run: Run) -> object:
    # With another list of who is forgotten, everything is made again.
    return _fingerprint([*_sources(sections), run.paths.forgotten])


def _teach_inputs(sections: TeachSections, run: Run) -> object:
    settings = sections.distillation
    return _fingerprint([settings.teacher] if settings is not None and isinstance(settings.teacher, Path) else [])


def _train_inputs(sections: TrainSections, run: Run) -> object:
    night, shown = run.night, sections.training.negatives.impressions
    origin = () if night is None else (night.parent, night.is_warm_start, night.parent_bundle)
    return _fingerprint(_impressions(shown, run.paths.as_of)), origin


def _nothing(sections: Any, run: Run) -> object:
    return None


def _always(paths: RunPaths) -> bool:
    return True


def _are_online(paths: RunPaths) -> bool:
    return paths.features_version.exists() and paths.are_online(paths.features_version.read_text())


def _is_written(paths: RunPaths) -> bool:
    return paths.bundle_name.exists() and (paths.bundles / paths.bundle_name.read_text()).is_dir()


def _is_checked(paths: RunPaths) -> bool:
    """Whether the report is of the bundle that is there: hard negatives mined again make another of the same digest."""
    return _is_written(paths) and json.loads(paths.gates.read_text())["bundle"] == paths.bundle_name.read_text()


def _is_published(paths: RunPaths) -> bool:
    from serving.bundles.folder import published

    return _is_written(paths) and published(paths.bundles) == paths.bundle_name.read_text()


@dataclass(frozen=True)
class Declared:
    """A step as it is declared, before a configuration is known.

    Attributes:
        sections: What it reads of the configuration, a dataclass of fields made with `read`.
        action: Does it, with those sections; nothing heavy is imported before; returns the one line of outcome.
        outputs: What must be there for it to count as done.
        inputs: What it reads besides, as JSON values that change when that does.
        is_current: Whether what all days share is still as the step left it.
    """

    sections: type[Any]
    action: Callable[[Any, Run], str]
    outputs: Callable[[RunPaths], tuple[Path, ...]]
    inputs: Callable[[Any, Run], object] = _nothing
    is_current: Callable[[RunPaths], bool] = _always


STEPS: Mapping[str, Declared] = {
    "ingest": Declared(IngestSections, _ingest, lambda paths: (paths.tables / "manifest.json",), _ingest_inputs),
    "features": Declared(
        FeaturesSections,
        _features,
        lambda paths: (paths.pairs, paths.catalogue(paths.as_of)),
        is_current=_are_online,
    ),
    "mine": Declared(MineSections, _mine, lambda paths: (paths.mined,)),
    "teach": Declared(TeachSections, _teach, lambda paths: (paths.teachers,), _teach_inputs),
    "train": Declared(
        TrainSections,
        _train,
        lambda paths: (paths.model / "user_tower.tflite", paths.model / "item_tower.tflite"),
        _train_inputs,
    ),
    "embed": Declared(EmbedSections, _embed, lambda paths: (paths.vectors / "items", paths.vectors / "users")),
    "index": Declared(IndexSections, _index, lambda paths: (paths.index / "index.hnsw",)),
    "codes": Declared(CodesSections, _codes, lambda paths: (paths.codes,)),
    "second_look": Declared(SecondLookSections, _second_look, lambda paths: (paths.second_look,)),
    "bundle": Declared(BundleSections, _bundle, lambda paths: (paths.bundle_name,), is_current=_is_written),
    "gates": Declared(GatesSections, _gates, lambda paths: (paths.gates,), is_current=_is_checked),
    "publish": Declared(
        PublishSections, _publish, lambda paths: (paths.bundles / "current",), is_current=_is_published
    ),
    "evaluate": Declared(EvaluateSections, _evaluate, lambda paths: (paths.report / "report.json",)),
}
STEP_NAMES = tuple(name for name in STEPS if name != "gates")
NIGHT_STEP_NAMES = tuple(name for name in STEPS if name != "evaluate")


def plan(
    config: Config, paths: RunPaths, *, now: dt.datetime, code_version: str, night: WarmStartPlan | None = None
) -> list[steps.Step]:
    """The steps of the main job in order; nothing heavy is imported before a step runs.

    Hard negatives are mined only where the configuration trains with them. An arm of a comparison mines none here: it
    names the arm that its own come from.

    Args:
        config: The resolved configuration.
        paths: Where things go.
        now: The moment of the run: events after it are refused, bundles carry it.
        code_version: Version of the code, part of every digest.
        night: How a nightly run begins, whose bundle has to pass gates; None runs the job by itself.
    """
    left_out = {
        "mine": config.training.negatives.easy_per_hard is None or paths.arm is not None,
        "teach": config.training.distillation is None,
        "codes": config.sparcode is None,
        "second_look": config.serving.second_look is None,
    }
    names = [name for name in (STEP_NAMES if night is None else NIGHT_STEP_NAMES) if not left_out.get(name, False)]
    made: list[steps.Step] = []
    before, read_so_far = code_version, list[dict[str, Any]]()
    for name in names:
        declared = STEPS[name]
        sections = pick(declared.sections, config)
        read_so_far.append(as_read(sections))
        run = Run(paths, now, config.beam, night, nested(*read_so_far))
        before = steps.digest_of({"before": before, "reads": read_so_far[-1], "inputs": declared.inputs(sections, run)})
        made.append(_step(name, before, sections, replace(run, digest=before)))
    return made


def _step(name: str, digest: str, sections: object, run: Run) -> steps.Step:
    declared, paths = STEPS[name], run.paths
    return steps.Step(
        name,
        digest,
        declared.outputs(paths),
        lambda: declared.action(sections, run),
        paths.shared_steps if name == "ingest" else paths.steps,
        lambda: declared.is_current(paths),
    )


def _sources(sections: IngestSections) -> list[Path]:
    source = sections.ingest.source
    if source.kind in ("lightgcn", "movielens"):
        return [source.path]
    if source.kind == "tables":
        return [table.path for table in (source.events, source.users, source.items, source.dated) if table]
    return []


def _impressions(path: Path | None, as_of: dt.date) -> list[Path]:
    """What is read of impressions: of the lists that servers log, the days before `as_of` alone."""
    if path is None:
        return []
    from serving.exposures.files import are_exposures, exposure_files

    return exposure_files(path, end_day=as_of) if are_exposures(path) else [path]


def _fingerprint(roots: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that is read: cheaper than reading them, and changes when they do."""
    found = []
    for root in roots:
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for file in files:
            if file.is_file():
                found.append((str(file), file.stat().st_size, file.stat().st_mtime_ns))
    return found
