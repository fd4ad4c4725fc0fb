"""Which command runs what? Nothing heavy is imported before a command needs it.

Exit codes: 0 done; 1 a step failed, its message says why; 2 the command line or the configuration is wrong.
Libraries are kept quiet; `twinspire --verbose run`, or the environment variable TWINSPIRE_VERBOSE, lets them speak.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from twinspire.config import Config
    from twinspire.paths import RunPaths
    from twinspire.steps import Step

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw events to served recommendations: two-tower retrieval, retrained daily.",
)

benchmarks = typer.Typer(no_args_is_help=True, help="Compare with published figures.")
app.add_typer(benchmarks, name="benchmark")

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
DEFAULT_CONFIG = Path("configs/complete_journey.yaml")
DEFAULT_RUNS = Path("runs")
# Apart from the daily runs: an earlier cut would have their features made anew.
DEFAULT_ABLATION_RUNS = Path("runs/ablations")


@app.callback()
def prepare(
    verbose: Annotated[
        bool, typer.Option("--verbose", envvar="TWINSPIRE_VERBOSE", help="Show what the libraries say.")
    ] = False,
) -> None:
    """Runs before every command, while nothing heavy has been imported."""
    from twinspire.console import VERBOSE, quiet_libraries

    # Read by TensorFlow before its first import.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    if verbose:
        os.environ[VERBOSE] = "1"
    else:
        quiet_libraries()


@app.command()
def run(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    as_of: AsOf = None,
    runs: Runs = DEFAULT_RUNS,
    force: Force = False,
    dry_run: DryRun = False,
    now: Now = None,
) -> None:
    """Do all steps: ingest, features, train, embed, index, bundle, evaluate."""
    with _errors():
        settings, paths, steps = _prepare(config, set_, as_of, runs, now)
        if dry_run:
            _print_plan(settings, steps)
            return
        _save_config(settings, paths)
        for step in steps:
            _do(step, force=force)
        _finish(settings, paths, _flags(config, set_, runs))


def _step_command(name: str, text: str) -> None:
    def command(
        config: ConfigPath = DEFAULT_CONFIG,
        set_: Overrides = None,
        as_of: AsOf = None,
        runs: Runs = DEFAULT_RUNS,
        force: Force = False,
        dry_run: DryRun = False,
        now: Now = None,
    ) -> None:
        with _errors():
            settings, paths, steps = _prepare(config, set_, as_of, runs, now)
            place = [step.name for step in steps].index(name)
            if dry_run:
                _print_plan(settings, steps[place : place + 1])
                return
            if place:
                _need(steps[place - 1])
            _save_config(settings, paths)
            _do(steps[place], force=force)

    app.command(name, help=text)(command)


for _name, _text in {
    "ingest": "Read raw events into canonical tables; bad rows are set aside and counted.",
    "features": "Compute daily snapshots, join examples point-in-time, fill the online store.",
    "train": "Fit the towers and export them.",
    "embed": "Compute the vectors of all users and items.",
    "index": "Build the HNSW index and measure its recall.",
    "bundle": "Put everything that serving needs into one verified folder and publish it.",
    "evaluate": "Measure recall on the days after the cut, beside the baselines.",
}.items():
    _step_command(_name, _text)


@app.command()
def recommend(
    user: Annotated[list[str], typer.Option("--user", "-u", help="User id; may be repeated.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the list.")] = 10,
    retriever: Annotated[
        Literal["two_tower", "repeat", "popularity", "fused"] | None,
        typer.Option(help="What finds the items; the file's choice if left out."),
    ] = None,
    exclude_bought: Annotated[
        bool, typer.Option("--exclude-bought", help="Leave out what the user has bought.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Recommend items to users, from the published bundle."""
    _use_one_thread()
    with _errors():
        settings, paths, _ = _prepare(config, set_, None, runs, None)
        from twinspire.pipeline.serve import open_recommender
        from twinspire.show import print_answers

        recommender = open_recommender(settings, paths)
        found = recommender.recommend(user, k=k, retriever=retriever, exclude_known=exclude_bought)
        if as_json:
            from dataclasses import asdict

            typer.echo(json.dumps(asdict(found), indent=2))
        else:
            print_answers(recommender, found)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (overrides the file).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Answer POST /v1/recommend from the published bundle."""
    _use_one_thread()
    with _errors():
        settings, paths, _ = _prepare(config, set_, None, runs, None)
        from serving.app import create_app
        from serving.server import run as run_server
        from twinspire.pipeline.serve import open_recommender

        server = create_app(open_recommender(settings, paths), max_k=settings.serving.max_k)
        run_server(
            server,
            settings.serving.host if host is None else host,
            settings.serving.port if port is None else port,
        )


@app.command()
def ablate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="YAML file of arms to compare.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of the runs of ablations.")] = DEFAULT_ABLATION_RUNS,
    only: Annotated[
        str | None, typer.Option(metavar="ARM,...", help="Only these arms, and those that they are compared with.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many of the file's seeds; all if left out.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="File that gets all figures, for programs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file that gets the tables, between its markers.")] = None,
    set_: Overrides = None,
    now: Now = None,
) -> None:
    """Fit every arm of a file with several seeds and cuts, and compare them on the same users."""
    with _errors():
        from twinspire.ablation_config import load_ablation

        ablation = load_ablation(file, set_ or [])
        names = only.split(",") if only else []
        ablation.chosen(names)
        from importlib.metadata import version

        from evaluation.ablation_table import print_ablation, write_markdown
        from evaluation.report import to_json
        from twinspire.console import console
        from twinspire.pipeline.ablate import ablate as compare_arms
        from twinspire.pipeline.fit_arm import Run

        run = Run(_moment(now), version("twinspire"))
        report = compare_arms(ablation, runs, only=names, num_seeds=seeds, run=run)
        print_ablation(report, console())
        if json_ is not None:
            json_.parent.mkdir(parents=True, exist_ok=True)
            json_.write_text(to_json(report), encoding="utf-8")
        if out is not None:
            write_markdown(report, out)
        if report.failed:
            raise ValueError("; ".join(f"arm {arm!r} failed: {why}" for arm, why in report.failed.items()))


@benchmarks.command()
def lightgcn(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder with train.txt and test.txt.")],
    json_: Annotated[Path | None, typer.Option("--json", help="File that gets the figures, for programs.")] = None,
    dim: Annotated[int, typer.Option(min=2, help="Width of the vectors.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the held-out part and of every fit.")] = 20170101,
) -> None:
    """Fit towers of ids on a published split: a line a user, its id, then its items."""
    with _errors():
        from twinspire.pipeline.published import benchmark

        found = benchmark(data, embedding_dim=dim, seed=seed)
        if json_ is not None:
            json_.parent.mkdir(parents=True, exist_ok=True)
            json_.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@app.command()
def doctor() -> None:
    """Tell what this installation has and lacks."""
    from twinspire.show import print_installation

    with _errors():
        print_installation()


def main() -> None:
    """Entry point of the console script."""
    app()


def _prepare(
    config: Path, overrides: list[str] | None, as_of: dt.datetime | None, runs: Path, now: dt.datetime | None
) -> tuple[Config, RunPaths, list[Step]]:
    from importlib.metadata import version

    from twinspire.load_config import load
    from twinspire.paths import RunPaths
    from twinspire.pipeline.main_job import plan

    extra = [f"as_of={as_of.date()}"] if as_of else []
    settings = load(config, [*(overrides or []), *extra])
    paths = RunPaths(runs / settings.name, settings.as_of)
    return settings, paths, plan(settings, paths, now=_moment(now), code_version=version("twinspire"))


def _moment(now: dt.datetime | None) -> dt.datetime:
    return now.replace(tzinfo=dt.UTC) if now else dt.datetime.now(dt.UTC)


def _use_one_thread() -> None:
    """For answers to a few users: NumPy's threads, which start at its import, cost more than they give."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _save_config(config: Config, paths: RunPaths) -> None:
    """Puts the resolved configuration beside the records of the steps, before the first of them starts."""
    from twinspire.load_config import dump

    paths.steps.mkdir(parents=True, exist_ok=True)
    (paths.steps / "config.yaml").write_text(dump(config), encoding="utf-8")


def _do(step: Step, *, force: bool) -> None:
    from rich.markup import escape

    from twinspire.console import VERBOSE, console, quiet_libraries
    from twinspire.steps import finished, run_step

    done = None if force else finished(step)
    if done is not None:
        console().print(f"[dim]{step.name:<9}[/] unchanged: {escape(done.outcome)}")
        return
    if not os.environ.get(VERBOSE):
        # Feast lets deprecation warnings through again when it is imported: the next step starts quiet.
        quiet_libraries()
    record = run_step(step)
    console().print(f"[bold]{step.name:<9}[/] {escape(record.outcome)} [dim]({record.seconds:.0f} s)[/]")


def _need(step: Step) -> None:
    from twinspire.steps import finished

    if finished(step) is None:
        raise ValueError(
            f"step {step.name!r} is not done for this configuration and day; run `twinspire {step.name}` first, or "
            "`twinspire run` for all steps"
        )


def _print_plan(config: Config, steps: Sequence[Step]) -> None:
    from twinspire.console import console
    from twinspire.load_config import dump
    from twinspire.steps import finished

    for step in steps:
        state = "unchanged, would be skipped" if finished(step) else "would run"
        writes = ", ".join(str(output) for output in step.outputs)
        console().print(f"{step.name:<9} {state}; writes {writes}", markup=False)
    console().print("\nresolved configuration:\n")
    console().print(dump(config), markup=False)


def _finish(config: Config, paths: RunPaths, flags: Sequence[str]) -> None:
    """What a newcomer wants to see at the end."""
    from twinspire.console import console
    from twinspire.pipeline.evaluate import TABLE_FILE
    from twinspire.pipeline.serve import open_recommender
    from twinspire.show import print_answers, some_users

    recommender = open_recommender(config, paths)
    users = some_users(recommender, 3)
    judged = (paths.report / TABLE_FILE).exists()
    if judged:
        console().print(f"\n{(paths.report / TABLE_FILE).read_text()}", markup=False)
    print_answers(recommender, recommender.recommend(users, k=5))
    ask = shlex.join([_program(), "recommend", *flags, "--user", users[0], "--exclude-bought"])
    report = paths.report / "report.html" if judged else "none yet, nothing has happened since the cut"
    console().print(f"\nReport: {report}", markup=False)
    console().print(f"Next:   {ask}", markup=False)
    console().print(f"        {shlex.join([_program(), 'serve', *flags])}", markup=False)


def _flags(config: Path, overrides: list[str] | None, runs: Path) -> list[str]:
    """What the next command needs to speak of the same run."""
    flags = [] if config == DEFAULT_CONFIG else ["--config", str(config)]
    flags += [] if runs == DEFAULT_RUNS else ["--runs", str(runs)]
    for override in overrides or []:
        flags += ["--set", override]
    return flags


def _program() -> str:
    """How this program was called, short where it is found without its folder."""
    called = Path(sys.argv[0])
    if called.name != "twinspire":
        return "twinspire"
    found = shutil.which("twinspire")
    return "twinspire" if found and Path(found).samefile(called) else str(called)


@contextmanager
def _errors() -> Iterator[None]:
    """Turns errors that are about the input into one message and an exit code; anything else is a defect and raises."""
    from twinspire.load_config import ConfigError

    try:
        yield
    except ConfigError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        _fail(error)
    except Exception as error:
        # Feast and the Redis client have no common ancestor with the others: an unreachable store is not a defect.
        if type(error).__module__.partition(".")[0] not in ("feast", "redis"):
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"error: {error}", err=True, fg="red")
    raise typer.Exit(1) from None
