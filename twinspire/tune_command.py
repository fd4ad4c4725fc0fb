"""The command `tune`: tries settings on the days before the cut, and writes those that fit better beside the file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    AsOf,
    ConfigPath,
    DryRun,
    Now,
    Overrides,
    Runs,
    do,
    errors,
    moment,
    prepare,
    save_config,
)

if TYPE_CHECKING:
    from artefacts.paths import RunPaths
    from artefacts.steps import Step
    from evaluation.tuning import Trial, Tuning
    from training.search_space import Parameter
    from twinspire.config import Config

DEFAULT_TRIALS = 20


def tune(
    config: ConfigPath = DEFAULT_CONFIG,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help=f"Trials in all, earlier calls included; {DEFAULT_TRIALS} without --minutes."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no epoch after so long; the same command does the rest.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="KEY,...", help="Tune only these keys.")] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="KEY=LOW..HIGH",
            help="What a key is tried with, or KEY=[A, B, ...]; further keys may be named. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File that gets the settings; NAME.tuned.yaml next to NAME.yaml if left out."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file even if it was changed by hand.")] = False,
    dry_run: DryRun = False,
    set_: Overrides = None,
    as_of: AsOf = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Try settings, measured by recall on the validation days, and write those that are better."""
    with errors():
        from artefacts.console import console
        from artefacts.locks import only_run
        from evaluation.render.tuning import conclusion, print_tuning, write_tuning
        from twinspire.load_config import TUNED_SUFFIX
        from twinspire.tuned_file import refuse_edited, write_tuned

        target = out or config.with_name(f"{config.stem}{TUNED_SUFFIX}")
        settings, paths, steps = prepare(config, set_, as_of, runs, now, only_plans=dry_run)
        own, space = _space(settings, only.split(",") if only else [], ranges or [])
        if not force:
            refuse_edited(target)
        _print_space(own, space)
        if dry_run:
            return
        num_trials = trials or (None if minutes is not None else DEFAULT_TRIALS)
        with only_run(paths.root, command="twinspire tune", now=moment(now)):
            save_config(settings, paths)
            before = [step.name for step in steps].index("train")
            for step in steps[:before]:
                do(step, force=False)
            found = _tune(settings, paths, steps[before], own, space, num_trials=num_trials, minutes=minutes)
            page = write_tuning(found, paths.tune)
        print_tuning(found, console())
        console().print(f"\n{conclusion(found)}", markup=False)
        if found.is_better:
            if not force:
                refuse_edited(target)
            write_tuned(target, found, config, set_ or [])
            console().print(f"wrote {target}; next: twinspire run --config {target}", markup=False)
        elif target.exists():
            console().print(f"{target} is of earlier trials; it is left as it is", markup=False)
        console().print(f"Report: {page}", markup=False)


def _space(config: Config, only: list[str], ranges: list[str]) -> tuple[dict[str, Any], tuple[Parameter, ...]]:
    """The configuration's own value of each key that is tuned, and what it is tried with.

    Raises:
        ConfigError: A key or a value is not valid, or nothing is left to choose.
    """
    from training.search_space import chosen_space, shown, space_of, with_own_values
    from twinspire.load_config import with_values

    def check(key: str, value: Any) -> object:
        return with_values(config, {key: value}, source=f"--range {key}={shown(value)}")

    space = chosen_space(space_of(config.towers, config.training), only=only, ranges=ranges, check=check)
    plain = config.model_dump(mode="json")
    own = {one.key: _value_at(plain, one.key) for one in space}
    space = with_own_values(space, own)
    return {one.key: own[one.key] for one in space}, space


def _value_at(plain: Mapping[str, Any], key: str) -> Any:
    """Value of a dotted key.

    Raises:
        ConfigError: Its section is null.
    """
    from artefacts.config import ConfigError

    value: Any = plain
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"--range {key}: the section of this key is null in the configuration; set it first")
        value = value[part]
    return value


def _print_space(own: Mapping[str, Any], space: tuple[Parameter, ...]) -> None:
    from artefacts.console import console
    from evaluation.render.table import print_rows
    from training.search_space import shown

    rows = [[one.key, str(one), shown(own[one.key]), one.why] for one in space]
    headings = ["key", "tried with", "own value", "why"]
    print_rows(console(), "search space", headings, rows, num_text=4, ranks=[0, 0, 0, 1])


def _tune(
    config: Config,
    paths: RunPaths,
    train: Step,
    own: dict[str, Any],
    space: tuple[Parameter, ...],
    *,
    num_trials: int | None,
    minutes: float | None,
) -> Tuning:
    """Does the trials, and prints a line for each."""
    from artefacts.config import pick
    from artefacts.console import console, held_back
    from artefacts.steps import digest_of
    from artefacts.stopping import doing
    from training.config import TrainSections
    from twinspire.load_config import with_values

    # TensorFlow writes about the machine when it is imported and when it first looks for a GPU, at any log level.
    with held_back():
        import tensorflow as tf

        from training.tune import Task, tune

        tf.config.list_physical_devices()

    def sections_of(values: Mapping[str, Any]) -> TrainSections:
        return pick(TrainSections, with_values(config, values, source="a trial"))

    tried = {one.key: str(one) for one in space}
    task = Task(
        config.name,
        paths,
        space,
        own,
        sections_of,
        digest_of({"train": train.digest, "space": tried}),
        config.evaluation.bootstrap_samples,
    )
    ends_at = None if minutes is None else time.monotonic() + 60 * minutes
    with doing("the trials"):
        found = tune(
            task,
            num_trials=num_trials,
            is_over=lambda: ends_at is not None and time.monotonic() >= ends_at,
            on_trial=_print_trial,
        )
    if num_trials is not None and len(found.trials) < num_trials:
        why = "the time is up" if ends_at is not None and time.monotonic() >= ends_at else "nothing else is left to try"
        console().print(f"{len(found.trials)} of {num_trials} trials: {why}", markup=False)
    return found


def _print_trial(trial: Trial, before: Sequence[Trial]) -> None:
    """A line for a trial: its recall, how it ended, and what it tried that is not the configuration's own."""
    from artefacts.console import console
    from evaluation.render.formats import figure
    from training.search_space import shown

    finished = [one.recall for one in before if one.outcome == "finished"]
    own = before[0].values if before else trial.values
    different = [f"{key}={shown(value)}" for key, value in trial.values.items() if value != own[key]]
    what = ", ".join(different) or "the configuration's own values"
    ended = "" if trial.outcome == "finished" else f", {trial.outcome}"
    best = f", best {figure(max(finished))}" if finished else ""
    recall = f"recall {figure(trial.recall)} at epoch {trial.epoch} of {len(trial.recalls)}{ended}{best}"
    console().print(f"trial {trial.number}: {recall} ({trial.seconds:.0f} s): {what}", markup=False)
