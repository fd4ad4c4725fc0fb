"""The command line: one command a step, the whole job, and what serves it. Heavy imports wait until they are needed.

Libraries are kept quiet; `twinspire --verbose run`, or the environment variable TWINSPIRE_VERBOSE, lets them speak.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artefacts.config import pick
from artefacts.files import json_text
from artefacts.locks import only_run
from artefacts.secrets import find
from serving.config import ServeSections
from serving.registry import retriever_names
from twinspire.bundles import bundles
from twinspire.compare_command import ab, ablate, benchmarks
from twinspire.deny import deny
from twinspire.forget_command import forget
from twinspire.items_command import items
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    USER_OPTION,
    AsJson,
    AsOf,
    ConfigPath,
    DryRun,
    Force,
    ListLength,
    Now,
    Overrides,
    Runs,
    check_secrets,
    do,
    errors,
    moment,
    need,
    only_takes_part,
    prepare,
    print_plan,
    save_config,
    settle,
    take_part,
    use_one_thread,
)
from twinspire.nightly import backfill, daily, status
from twinspire.search_command import search
from twinspire.tune_command import tune
from twinspire.world_command import world

if TYPE_CHECKING:
    from artefacts.paths import RunPaths
    from artefacts.steps import Step
    from twinspire.config import Config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw events to served recommendations: two-tower retrieval, retrained daily.",
)


@app.callback()
def before(
    verbose: Annotated[
        bool, typer.Option("--verbose", envvar="TWINSPIRE_VERBOSE", help="Show what the libraries say.")
    ] = False,
) -> None:
    """Runs before every command, while nothing heavy has been imported."""
    from artefacts.console import VERBOSE, quiet_libraries

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
    """Do all steps: ingest, features, (mine, teach,) train, embed, index, (codes, second-look,) bundle to evaluate."""
    with errors():
        settings, paths, steps = prepare(config, set_, as_of, runs, now, only_plans=dry_run)
        if dry_run:
            print_plan(settings, steps)
            return
        with only_run(paths.root, command="twinspire run", now=moment(now)):
            save_config(settings, paths)
            for step in steps:
                do(step, force=force)
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
        with errors():
            prepared = prepare(config, set_, as_of, runs, now, only_plans=dry_run)
            _do_one(name, prepared, force=force, dry_run=dry_run, now=now)

    app.command(name.replace("_", "-"), help=text)(command)


# Why a step may not be among those of a configuration.
_LEFT_OUT = {
    "mine": "training.negatives.easy_per_hard is null, and without it step 'mine' has nothing to do; set it, 100 for "
    "instance, to train with mined hard negatives",
    "teach": "training.distillation is null, and without it step 'teach' has nothing to do; set it, {teacher: ease} "
    "for instance, to have the towers imitate a teacher",
    "second_look": "serving.second_look is null, and without it step 'second_look' has nothing to do; set "
    "serving.second_look: {} to fit it",
    "codes": "sparcode is null, and without it step 'codes' has nothing to do; set sparcode: {} to fit it",
}


def _do_one(
    name: str,
    prepared: tuple[Config, RunPaths, list[Step]],
    *,
    force: bool,
    dry_run: bool,
    now: dt.datetime | None,
) -> None:
    settings, paths, steps = prepared
    names = [step.name for step in steps]
    if name not in names:
        raise ValueError(_LEFT_OUT[name])
    place = names.index(name)
    # A bundle that is asked for by itself is published at once, as `twinspire run` does.
    chosen = steps[place : place + 2] if name == "bundle" else steps[place : place + 1]
    if dry_run:
        print_plan(settings, chosen)
        return
    if place:
        need(steps[place - 1])
    if name == "train" and only_takes_part(settings):
        take_part(settings, paths, steps[place], force=force)
        return
    with only_run(paths.root, command=f"twinspire {name}", now=moment(now)):
        save_config(settings, paths)
        for step in chosen:
            do(step, force=force)


for _name, _text in {
    "ingest": "Read raw events into canonical tables; bad rows are set aside and counted.",
    "features": "Compute daily snapshots, join examples point-in-time, fill the online store.",
    "mine": "Find hard negatives for the next fit in the lists of the latest one, where the file asks for them.",
    "teach": "Make the lists of the teacher that the towers imitate, where the file asks for one.",
    "train": "Fit the towers and export them.",
    "embed": "Compute the vectors of all users and items.",
    "index": "Build the HNSW index and measure its recall.",
    "second_look": "Fit the net that ranks the candidates of all lists again, where the file asks for it.",
    "bundle": "Put everything that serving needs into one verified folder and publish it.",
    "evaluate": "Measure recall on the days after the cut, compared with the baselines.",
}.items():
    _step_command(_name, _text)


@app.command()
def codes(
    config: ConfigPath = DEFAULT_CONFIG,
    target_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest tables, such as 50MB (sparcode.target_size_bytes).")
    ] = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Recall of all scores that tables must reach (sparcode.target_recall).")
    ] = None,
    set_: Overrides = None,
    as_of: AsOf = None,
    runs: Runs = DEFAULT_RUNS,
    force: Force = False,
    dry_run: DryRun = False,
    now: Now = None,
) -> None:
    """Score all items for the codes in use (SparCode), and choose how far the lists are cut."""
    with errors():
        targets = {"target_size_bytes": target_size, "target_recall": target_recall}
        chosen = [f"sparcode.{name}={value}" for name, value in targets.items() if value is not None]
        prepared = prepare(config, [*(set_ or []), *chosen], as_of, runs, now, only_plans=dry_run)
        _do_one("codes", prepared, force=force, dry_run=dry_run, now=now)
        if not dry_run:
            from serving.sparcode.files import read_report
            from twinspire.show import print_curve

            print_curve(read_report(prepared[1].codes))


def _registered(name: str | None) -> str | None:
    """Validates the name of a retriever."""
    if name is not None and name not in retriever_names():
        raise typer.BadParameter(f"{name!r} is not one of: {', '.join(retriever_names())}")
    return name


@app.command()
def recommend(
    user: Annotated[list[str], USER_OPTION],
    k: ListLength = 10,
    retriever: Annotated[
        str | None,
        typer.Option(
            callback=_registered,
            help=f"What finds the items: {', '.join(retriever_names())}; what the bundle serves if left out.",
        ),
    ] = None,
    exclude_bought: Annotated[
        bool | None,
        typer.Option(
            "--exclude-bought/--allow-bought",
            help="Leave out what the user has met (bought, visited, ...), or not; the bundle's choice by default.",
        ),
    ] = None,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Recommend items to users, from the published bundle."""
    use_one_thread()
    with errors():
        settings, paths = settle(config, set_, None, runs)
        check_secrets(settings)
        from serving.open import open_recommender
        from twinspire.show import print_answers

        recommender = open_recommender(pick(ServeSections, settings), paths)
        found = recommender.recommend(user, k=k, retriever=retriever, exclude_known=exclude_bought)
        if as_json:
            from dataclasses import asdict

            typer.echo(json_text(asdict(found), indent=2))
        else:
            print_answers(recommender, found, event_name=settings.dataset.event_name)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (overrides the file).")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes that answer.")] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Answer without a key on any address and under any host name.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Answer POST /v1/recommend from the published bundle."""
    use_one_thread()
    with errors(stops=False):
        settings, paths = settle(config, set_, None, runs)
        check_secrets(settings)
        from serving.open import serve
        from serving.web.guard import API_KEY

        asked = {"host": host, "port": port, "workers": workers}
        given = {name: value for name, value in asked.items() if value is not None}
        sections = pick(ServeSections, settings)
        sections = replace(sections, serving=sections.serving.model_copy(update=given))
        serve(sections, paths, api_key=find(API_KEY), without_key=without_key)


app.command()(search)
app.command()(daily)
app.command()(backfill)
app.command()(status)
app.command()(deny)
app.command()(forget)
app.command()(tune)
app.command()(world)
app.command()(ab)
app.command()(ablate)
app.add_typer(benchmarks, name="benchmark")
app.add_typer(bundles, name="bundles")
app.add_typer(items, name="items")


@app.command()
def doctor() -> None:
    """Show what this installation has and lacks."""
    from twinspire.show import print_installation

    with errors():
        print_installation()


def main() -> None:
    """Entry point of the console script."""
    app()


def _finish(config: Config, paths: RunPaths, flags: Sequence[str]) -> None:
    """What a newcomer wants to see at the end."""
    from artefacts.console import console
    from evaluation.render.page import TABLE
    from serving.open import open_recommender
    from twinspire.show import print_answers, some_users

    recommender = open_recommender(pick(ServeSections, config), paths)
    users = some_users(recommender, 3)
    is_evaluated = (paths.report / TABLE).exists()
    if is_evaluated:
        console().print(f"\n{(paths.report / TABLE).read_text()}", markup=False)
    print_answers(recommender, recommender.recommend(users, k=5), event_name=config.dataset.event_name)
    ask = shlex.join([_program(), "recommend", *flags, "--user", users[0], "--exclude-bought"])
    report = paths.report / "report.html" if is_evaluated else "none yet, nothing has happened since the cut"
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
