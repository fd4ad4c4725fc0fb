"""What commands share: options, errors and exit codes, and doing the steps of the main job one by one."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from artefacts.paths import RunPaths
    from artefacts.steps import Step, StepRecord
    from twinspire.config import Config


ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="YAML file of a dataset.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, such as training.epochs=3; may be repeated.")
]
AsOf = Annotated[
    dt.datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Everything before this day is known (overrides the file)."),
]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Now = Annotated[
    dt.datetime | None, typer.Option(help="Moment of the run, UTC; events after it are set aside. Default: the clock.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="File that gets the figures, for programs.")]
ListLength = Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the list.")]
USER_OPTION = typer.Option("--user", "-u", help="User id; may be repeated.")
DEFAULT_CONFIG = Path("configs/complete_journey.yaml")
DEFAULT_RUNS = Path("runs")
BUSY = 4


def use_one_thread() -> None:
    """For answers to a few users: NumPy's threads, which start at its import, cost more than they give."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def moment(now: dt.datetime | None) -> dt.datetime:
    """The moment of a run, UTC: `--now`, or the clock's."""
    return now.replace(tzinfo=dt.UTC) if now else dt.datetime.now(dt.UTC)


@contextmanager
def errors(*, stops: bool = True) -> Iterator[None]:
    """Turns errors that are about the input into one message and an exit code; anything else is a defect and raises.

    Args:
        stops: Whether signals end the command with a message too; a server has handlers of its own.
    """
    from artefacts.config import ConfigError
    from artefacts.console import exhausted
    from artefacts.locks import BusyError
    from artefacts.secrets import redacted
    from artefacts.stopping import stoppable

    try:
        with stoppable() if stops else nullcontext():
            yield
    except ConfigError as error:
        typer.secho(f"error: {redacted(str(error))}", err=True, fg="red")
        raise typer.Exit(2) from None
    except BusyError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(BUSY) from None
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        _fail(error)
    except Exception as error:
        # What stores raise has no common ancestor with the others: an unreachable or broken one is not a defect.
        if type(error).__module__.partition(".")[0] not in ("feast", "redis", "sqlite3") and exhausted(error) is None:
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    from artefacts.console import exhausted, exhausted_step
    from artefacts.secrets import redacted

    # What is written about a step that failed for lack of memory may fail for the same reason.
    of_step = exhausted_step(error)
    ran_out = exhausted(error) if of_step is None else None
    text = f"{ran_out}, and run again" if ran_out else str(of_step or error)
    typer.secho(f"error: {redacted(text)}", err=True, fg="red")
    raise typer.Exit(1) from None


def prepare(
    config: Path,
    overrides: list[str] | None,
    as_of: dt.datetime | None,
    runs: Path,
    now: dt.datetime | None,
    *,
    only_plans: bool = False,
) -> tuple[Config, RunPaths, list[Step]]:
    """Resolves the arguments of a command: the configuration, where things go, and the steps.

    Without a day, the events say which one, and are read first, unless the command only plans.
    """
    from twinspire.main_job import plan

    day, at = None if as_of is None else as_of.date(), moment(now)
    settings, paths = settle(config, overrides, day, runs, reads_events_at=None if only_plans else at)
    check_day(settings.as_of, at)
    return settings, paths, plan(settings, paths, now=at, code_version=code_version())


def check_day(as_of: dt.date, now: dt.datetime) -> None:
    """Refuses a day that has not begun at the moment of a run.

    Raises:
        ConfigError: It has not.
    """
    from artefacts.config import ConfigError
    from features.columns import midnight

    if midnight(as_of) > now:
        raise ConfigError(
            f"the day is {as_of}, and the moment of the run {now:%Y-%m-%d %H:%M} UTC (--now, or the clock): a day that "
            f"has not begun cannot be known; give {now.date()} or an earlier day"
        )


def ids_as_stored(ids: Sequence[str]) -> list[str]:
    """Ids of a command line as the tables have them, each once."""
    from features.ids import normal_id

    return list(dict.fromkeys(map(normal_id, ids)))


def settle(
    config: Path,
    overrides: list[str] | None,
    as_of: dt.date | None,
    runs: Path,
    *,
    reads_events_at: dt.datetime | None = None,
) -> tuple[Config, RunPaths]:
    """The resolved configuration of a day, and where its things go.

    Args:
        config: The YAML file.
        overrides: As given on the command line.
        as_of: The day; None takes that of the file, or else one that leaves the last days for evaluation.
        runs: Folder of the runs.
        reads_events_at: The moment at which events are read, where they have to say which day; None takes the tables
            that are there.
    """
    from artefacts.paths import RunPaths
    from twinspire.load_config import load

    def last_cut(settings: Config) -> dt.date:
        return _last_cut(settings, RunPaths(runs / settings.name, settings.as_of), reads_events_at)

    changes = [*(overrides or []), *([f"as_of={as_of}"] if as_of else [])]
    settings = load(config, changes, last_cut=last_cut)
    return settings, RunPaths(runs / settings.name, settings.as_of)


def _last_cut(config: Config, paths: RunPaths, now: dt.datetime | None) -> dt.date:
    """The day that leaves as many days of events for evaluation as it reads, or else the one after the last.

    Raises:
        ConfigError: There are no tables, and none may be made.
    """
    from artefacts.config import ConfigError
    from artefacts.console import console
    from artefacts.locks import only_run
    from features.tables import event_days
    from twinspire.main_job import plan

    if now is not None:
        ingest = next(
            step for step in plan(config, paths, now=now, code_version=code_version()) if step.name == "ingest"
        )
        with only_run(paths.root, command="twinspire ingest", now=now):
            do(ingest, force=False)
    try:
        days = event_days(paths.tables)
    except FileNotFoundError:
        raise ConfigError(
            "as_of is not given, and there are no tables yet that have the days of the events; run `twinspire ingest` "
            "first, or give a day (--as-of)"
        ) from None
    window, one_day = config.evaluation.window_days, dt.timedelta(days=1)
    cut = days[-1] + one_day - window * one_day
    if cut - config.training.validation_days * one_day <= days[0]:
        cut, window = days[-1] + one_day, 0
    if now is not None:
        left = f"the last {window} days of events are left for evaluation" if window else "too few days for evaluation"
        console().print(f"as_of is not given: {cut} ({left})", markup=False)
    return cut


def code_version() -> str:
    """Version of the code, part of every digest."""
    from importlib.metadata import version

    return version("twinspire")


def check_secrets(config: Config) -> None:
    """Refuses a configuration that names a secret which nothing gives, before anything is computed.

    Raises:
        ConfigError: A variable is not set, or its file is readable by others.
    """
    from artefacts.secrets import resolved

    resolved([config.features.offline_store, config.beam.options])
    if config.features.online_store == "redis":
        resolved(config.features.redis_connection)


def save_config(config: Config, paths: RunPaths) -> None:
    """Saves the resolved configuration with the records of the steps, and warns, before the first of them starts."""
    from artefacts.files import replace_text
    from twinspire.load_config import dump

    check_secrets(config)
    print_warnings(config)
    replace_text(paths.steps / "config.yaml", dump(config))


def print_warnings(config: Config, *, arm: str | None = None) -> None:
    """Prints which methods lack what they presume.

    Args:
        config: Resolved.
        arm: Of a comparison, named in front; None for a run.
    """
    from rich.markup import escape

    from artefacts.console import console
    from training.method_checks import method_warnings

    for warning in method_warnings(config.towers, config.training):
        where = "" if arm is None else f"arm {arm!r}: "
        console().print(f"[yellow]warning[/] {escape(where + warning)}")


def do(step: Step, *, force: bool) -> tuple[StepRecord, bool]:
    """Does a step unless it is done, and prints its outcome; returns its record, and whether it was done now."""
    from rich.markup import escape

    from artefacts.console import VERBOSE, ExhaustedError, console, exhausted, quiet_libraries
    from artefacts.steps import finished, run_step
    from artefacts.stopping import doing

    done = None if force else finished(step)
    if done is not None:
        console().print(f"[dim]{step.name:<9}[/] unchanged: {escape(done.outcome)}")
        return done, False
    if not os.environ.get(VERBOSE):
        # Feast lets deprecation warnings through again when it is imported: the next step starts quiet.
        quiet_libraries()
    try:
        with doing(f"step {step.name!r}"):
            record = run_step(step)
    except Exception as error:
        if (cause := exhausted(error)) is None:
            raise
        raise ExhaustedError(f"step {step.name!r}: {cause}, and run again: finished steps are kept") from error
    console().print(f"[bold]{step.name:<9}[/] {escape(record.outcome)} [dim]({record.seconds:.0f} s)[/]")
    return record, True


def only_takes_part(config: Config) -> bool:
    """Whether this process is a worker of a multi-worker fit, whose chief holds the lock and writes the artefacts."""
    from training.distribution import read_cluster

    cluster = read_cluster() if config.training.distribute != "none" else None
    return cluster is not None and not cluster.is_chief


def take_part(config: Config, paths: RunPaths, step: Step, *, force: bool) -> None:
    """Takes part in the fit of the chief, unless the step is done; prints the outcome and writes no artefact."""
    from rich.markup import escape

    from artefacts.config import pick
    from artefacts.console import console, held_back
    from artefacts.steps import finished
    from training.config import TrainSections

    done = None if force else finished(step)
    if done is not None:
        console().print(f"[dim]{step.name:<9}[/] unchanged: {escape(done.outcome)}")
        return
    # TensorFlow writes about the machine when it is imported, at any log level.
    with held_back():
        from training.steps import take_part
    console().print(f"[bold]{step.name:<9}[/] {take_part(pick(TrainSections, config), paths)}")


def need(step: Step) -> None:
    """Refuses to continue if the step before is not done."""
    from artefacts.steps import finished

    if finished(step) is None:
        command = "bundle" if step.name == "publish" else step.name
        raise ValueError(
            f"step {step.name!r} is not done for this configuration and day; run `twinspire {command}` first, or "
            "`twinspire run` for all steps"
        )


def print_plan(config: Config, steps: Sequence[Step]) -> None:
    """What would be done, with the resolved configuration."""
    from artefacts.console import console
    from artefacts.steps import finished
    from twinspire.load_config import dump

    print_warnings(config)
    for step in steps:
        state = "unchanged, would be skipped" if finished(step) else "would run"
        writes = ", ".join(str(output) for output in step.outputs)
        console().print(f"{step.name:<9} {state}; writes {writes}", markup=False)
    console().print("\nresolved configuration:\n")
    console().print(dump(config), markup=False)
