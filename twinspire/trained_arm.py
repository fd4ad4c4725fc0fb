"""Arms that are fitted first into a bundle of their own, and the steps that they share with the main job."""

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
from evaluation.arms.spec import ArmSpec
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import plan

SHARED = ("ingest", "features")
OF_BUNDLE = ("teach", "train", "embed", "index", "codes", "second_look", "bundle")


@dataclass(frozen=True)
class Invocation:
    """What every fit of one run of a command shares.

    Attributes:
        now: Moment of the run.
        code_version: Version of the code, part of every digest.
    """

    now: dt.datetime
    code_version: str

    def steps(self, config: Config, paths: RunPaths) -> dict[str, Step]:
        """The steps of the main job, by name."""
        return {step.name: step for step in plan(config, paths, now=self.now, code_version=self.code_version)}


def do_steps(steps: Sequence[Step]) -> None:
    """Does the steps that are not done, and prints their outcome."""
    for step in steps:
        if finished(step) is None:
            record = run_step(step)
            console().print(f"[bold]{step.name:<9}[/] {escape(record.outcome)} [dim]({record.seconds:.0f} s)[/]")


def root_of(runs: Path, base: Config, config: Config) -> Path:
    """Folder of the tables and features of an arm: those of the comparison, unless it asks for others."""
    if (config.dataset, config.features) == (base.dataset, base.features):
        return runs / config.name
    other = {"dataset": config.dataset.model_dump(mode="json"), "features": config.features.model_dump(mode="json")}
    return runs / f"{config.name}_{digest_of(other)[:6]}"


@dataclass(frozen=True)
class Trained:
    """A configuration that was fitted into a bundle.

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
    check_needs_no_earlier_fit(config, f"arm {spec.name!r}")
    return config


def check_needs_no_earlier_fit(config: Config, where: str) -> None:
    """Refuses settings that mine hard negatives.

    Args:
        config: Of what is to be fitted into a bundle of its own.
        where: What it is, for the message.

    Raises:
        ConfigError: It mines hard negatives.
    """
    if config.training.negatives.easy_per_hard is not None:
        raise ConfigError(
            f"{where}: training.negatives.easy_per_hard is {config.training.negatives.easy_per_hard}, and an arm that "
            "is fitted here has no earlier fit to mine hard negatives from; run it with `twinspire run --runs FOLDER`, "
            "and compare its bundle: current,runs=FOLDER"
        )


def make_tables(config: Config, paths: RunPaths, run: Invocation) -> None:
    """Reads the events where no run has yet, as in a folder of runs for comparisons alone."""
    if not (paths.tables / "manifest.json").exists():
        do_steps([run.steps(config, paths)["ingest"]])


def train_bundle(config: Config, base: Config, runs: Path, run: Invocation, *, seed: int | None = None) -> Trained:
    """Fits a configuration into a bundle, as far as that is not done.

    Args:
        config: Of the arm, at the cut.
        base: Of the comparison, whose tables and features it shares where it asks for the same.
        runs: Folder of all runs.
        run: Moment and version.
        seed: Of the fit alone, not of the features; None takes the configuration's.

    Returns:
        Its bundle, which is not published; `twinspire bundles promote` serves it.
    """
    root = root_of(runs, base, config)
    shared = RunPaths(root, config.as_of)
    do_steps([run.steps(config, shared)[name] for name in SHARED])
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    own = replace(shared, arm=f"ab_{digest_of(config.model_dump(mode='json', exclude={'as_of'}))[:8]}")
    do_steps([step for name, step in run.steps(config, own).items() if name in OF_BUNDLE])
    return Trained(config, own, own.bundles / own.bundle_name.read_text())
