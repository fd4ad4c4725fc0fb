"""Which steps turn raw events into served recommendations, and what does each depend on?

    ingest -> features -> [mine ->] train -> embed -> index -> [codes ->] bundle -> evaluate
    a night's: the same up to bundle, which is only written -> gates -> publish

A step's digest covers the configuration it reads and the digest of the step before it, so that a change anywhere makes
everything after it run again, and nothing else.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from artefacts.console import held_back
from artefacts.paths import RunPaths
from artefacts.steps import Step, digest_of
from training.lineage import PUBLISH, Night
from twinspire.config import Config

STEP_NAMES = ("ingest", "features", "mine", "train", "embed", "index", "codes", "bundle", "evaluate")
NIGHT_STEP_NAMES = (*STEP_NAMES[:-1], "gates", PUBLISH)


def plan(
    config: Config, paths: RunPaths, *, now: dt.datetime, code_version: str, night: Night | None = None
) -> list[Step]:
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
    actions, negatives = _actions(config, paths, now, night), config.training.negatives
    reads: dict[str, Sequence[Any]] = {
        # With another list of who is forgotten, everything is made again.
        "ingest": (config.ingest, config.dataset, _fingerprint([*_sources(config), paths.forgotten])),
        "features": (config.as_of, config.features, config.training.validation_days, config.seed),
        "mine": (
            (negatives.mined_band, negatives.mined_per_user, negatives.near_duplicate),
            (config.index.ef_search, config.serving.max_fetch),
        ),
        "train": (
            (config.towers, config.training, config.evaluation.ks, config.sparcode and config.sparcode.of_fit()),
            _fingerprint(_impressions(negatives.impressions, config.as_of)),
            () if night is None else (night.parent, night.goes_on, night.parent_bundle, config.daily.of_fit()),
        ),
        "embed": (),
        "index": (config.index,),
        "codes": (config.sparcode, config.evaluation.ks),
        "bundle": (config.digest(),),
        "evaluate": (config.evaluation, config.serving),
        "gates": (config.gates,),
        PUBLISH: (),
    }
    outputs = {
        "ingest": (paths.tables / "manifest.json",),
        "features": (paths.pairs, paths.catalogue(config.as_of)),
        "mine": (paths.mined,),
        "train": (paths.model / "user_tower.tflite", paths.model / "item_tower.tflite"),
        "embed": (paths.vectors / "items", paths.vectors / "users"),
        "index": (paths.index / "index.hnsw",),
        "codes": (paths.codes,),
        "bundle": (paths.bundle_name,),
        "evaluate": (paths.report / "report.json",),
        "gates": (paths.gates,),
        PUBLISH: (paths.bundles / "current",),
    }
    # What another day's run may have moved on.
    stands = {
        "features": lambda: _online_store_holds(paths),
        "bundle": lambda: _is_written(paths) and (night is not None or _is_published(paths)),
        "gates": lambda: _is_checked(paths),
        PUBLISH: lambda: _is_published(paths),
    }
    steps: list[Step] = []
    before = code_version
    left_out = {
        "mine": negatives.easy_per_hard is None or paths.arm is not None,
        "codes": config.sparcode is None,
    }
    names = STEP_NAMES if night is None else NIGHT_STEP_NAMES
    for name in (name for name in names if not left_out.get(name, False)):
        before = digest_of({"before": before, "reads": [_plain(value) for value in reads[name]]})
        records = paths.shared_steps if name == "ingest" else paths.steps
        steps.append(Step(name, before, outputs[name], actions[name], records, stands.get(name, lambda: True)))
    return steps


def _online_store_holds(paths: RunPaths) -> bool:
    return paths.online_day.exists() and paths.online_day.read_text() == str(paths.as_of)


def _is_written(paths: RunPaths) -> bool:
    return paths.bundle_name.exists() and (paths.bundles / paths.bundle_name.read_text()).is_dir()


def _is_checked(paths: RunPaths) -> bool:
    """Whether the report is of the bundle that is there: hard negatives mined anew make another of the same digest."""
    return _is_written(paths) and json.loads(paths.gates.read_text())["bundle"] == paths.bundle_name.read_text()


def _is_published(paths: RunPaths) -> bool:
    from serving.bundles.folder import published

    return _is_written(paths) and published(paths.bundles) == paths.bundle_name.read_text()


def _actions(config: Config, paths: RunPaths, now: dt.datetime, night: Night | None) -> dict[str, Callable[[], str]]:
    parent_bundle = None if night is None else night.parent_bundle

    def ingest() -> str:
        from features.steps import make_tables

        return make_tables(config, paths, now=now)

    def features() -> str:
        from features.steps import make_features

        return make_features(config, paths)

    def mine() -> str:
        from beam_jobs.steps import mine

        outcome = mine(config, paths)
        # Their digests cover how negatives are mined, not the earlier fit that these happen to come from.
        for name in {*STEP_NAMES, *NIGHT_STEP_NAMES} - {"ingest", "features", "mine"}:
            (paths.steps / f"{name}.json").unlink(missing_ok=True)
        return outcome

    def train() -> str:
        # TensorFlow writes about the machine when it is imported and when it first looks for a GPU, at any log level.
        with held_back():
            import tensorflow as tf

            from training.steps import train

            tf.config.list_physical_devices()

            from features.steps import keep_catalogue
            from training.held_out import Parent
            from training.multi_worker import as_chief

        with as_chief(config, nightly=night is not None):
            # From here on the day's bundle, which may be served, has another fit behind it: nothing goes on from that.
            paths.bundle_name.unlink(missing_ok=True)
            if night is None or night.parent is None:
                return train(config, paths)
            keep_catalogue(config, paths, night.parent)
            parent = Parent.open(RunPaths(paths.root, night.parent))
            return train(config, paths, parent=parent, goes_on=night.goes_on)

    def embed() -> str:
        from beam_jobs.steps import embed_catalogue

        return embed_catalogue(config, paths)

    def index() -> str:
        from beam_jobs.steps import index_catalogue

        return index_catalogue(config, paths)

    def codes() -> str:
        from beam_jobs.code_tables import make_codes

        return make_codes(config, paths)

    def bundle() -> str:
        from serving.steps import make_bundle, publish_bundle

        outcome = make_bundle(config, paths, now=now, parent=parent_bundle)
        return f"{outcome}; {publish_bundle(config, paths, now=now)}" if night is None else outcome

    def evaluate() -> str:
        from twinspire.pipeline.evaluate import evaluate

        return evaluate(config, paths)

    def gates() -> str:
        from evaluation.gates.gates import check_gates

        return check_gates(config, paths, parent=parent_bundle)

    def publish() -> str:
        from serving.steps import publish_bundle

        return publish_bundle(config, paths, now=now)

    actions = (ingest, features, mine, train, embed, index, codes, bundle, evaluate, gates, publish)
    return {action.__name__: action for action in actions}


def _sources(config: Config) -> list[Path]:
    source = config.ingest.source
    if source.kind == "movielens":
        return [source.path]
    if source.kind == "tables":
        return [table.path for table in (source.events, source.users, source.items) if table is not None]
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


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
