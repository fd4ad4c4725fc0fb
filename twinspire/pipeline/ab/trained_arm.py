"""What would another configuration answer? It is fitted into a bundle that nobody is served by."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape

from artefacts.config import ConfigError
from artefacts.console import console
from artefacts.paths import RunPaths
from artefacts.steps import Step, digest_of, finished, run_step
from serving.bundles.folder import published
from training.lineage import WarmStartPlan
from twinspire.ab_arms import ArmSpec
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import plan
from twinspire.pipeline.fit_arm import Run, root_of

SHARED = ("ingest", "features")
OWN = ("train", "embed", "index", "codes", "bundle")


@dataclass(frozen=True)
class Trained:
    """A fitted configuration.

    Attributes:
        config: Resolved, of the cut.
        paths: Where its fit lies.
        bundle: Folder of its bundle.
    """

    config: Config
    paths: RunPaths
    bundle: Path


def resolve(spec: ArmSpec, config_path: Path, overrides: tuple[str, ...], cut: dt.date) -> Config:
    """The configuration of an arm: its own file or the command's, then the command's overrides, then its own.

    Raises:
        ConfigError: It is not valid, or cannot be an arm.
    """
    path = Path(spec.what) if spec.what else config_path
    try:
        config = load(path, [*overrides, *spec.overrides, f"as_of={cut}"])
    except ConfigError as error:
        raise ConfigError(f"arm {spec.name!r}: {error}") from None
    if config.training.negatives.easy_per_hard is not None:
        raise ConfigError(
            f"arm {spec.name!r}: training.negatives.easy_per_hard is {config.training.negatives.easy_per_hard}, and an "
            "arm that is fitted here has no earlier fit to mine hard negatives from; run it with `twinspire run --runs "
            "FOLDER`, and compare its bundle: current,runs=FOLDER"
        )
    return config


def make_tables(config: Config, paths: RunPaths, run: Run) -> None:
    """Reads the events where no run has yet, as in a folder of runs for comparisons alone."""
    if not (paths.tables / "manifest.json").exists():
        _do(_steps(config, paths, run, ("ingest",)))


def train_arm(config: Config, base: Config, runs: Path, run: Run) -> Trained:
    """Fits what is not fitted yet.

    Args:
        config: Of the arm, at the cut.
        base: Of the comparison, whose tables and features it shares where it asks for the same.
        runs: Folder of all runs.
        run: Moment and version.

    Returns:
        Its bundle, which is not published; `twinspire bundles promote` serves it.

    Raises:
        ValueError: There are no features of the cut yet where a bundle is published: making them would put those of
            another day into the online store that its server reads.
    """
    root = root_of(runs, base, config)
    shared = RunPaths(root, config.as_of)
    own = replace(shared, arm=f"ab_{digest_of(config.model_dump(mode='json', exclude={'as_of'}))[:8]}")
    missing = [step.name for step in _steps(config, shared, run, SHARED) if finished(step) is None]
    if missing and published(shared.bundles) is not None:
        raise ValueError(
            f"{root}: {' and '.join(missing)} of {config.as_of} would be made for an arm, and the online store that "
            f"serves would then hold that day; train in a folder of its own: --runs {runs / 'ab'}"
        )
    _do(_steps(config, shared, run, SHARED))
    _do(_steps(config, own, run, OWN))
    return Trained(config, own, own.bundles / own.bundle_name.read_text())


def _steps(config: Config, paths: RunPaths, run: Run, names: tuple[str, ...]) -> list[Step]:
    # As a nightly run without a parent: its bundle is written and not published.
    night = WarmStartPlan(None, False, "an arm of a comparison", None)
    steps = plan(config, paths, now=run.now, code_version=run.code_version, night=night)
    # Whichever day the online store holds, a fit does not read it.
    return [
        replace(step, is_current=lambda: True) if step.name == "features" else step
        for step in steps
        if step.name in names
    ]


def _do(steps: Sequence[Step]) -> None:
    for step in steps:
        if finished(step) is None:
            record = run_step(step)
            console().print(f"[bold]{step.name:<9}[/] {escape(record.outcome)} [dim]({record.seconds:.0f} s)[/]")
