"""The commands that compare arms, `ab` and `ablate`, and published figures. Heavy imports wait until one runs."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from artefacts.files import json_text, replace_text
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    ConfigPath,
    JsonFile,
    Now,
    Overrides,
    Runs,
    code_version,
    errors,
    moment,
    print_warnings,
    settle,
)

if TYPE_CHECKING:
    from evaluation.settings import Settings
    from twinspire.config import Config

# Apart from the daily runs: an earlier cut would have their features made again.
DEFAULT_ABLATION_RUNS, DEFAULT_BENCHMARK_RUNS = Path("runs/ablations"), Path("runs/benchmarks")
Task = Literal["new", "all"]
Protocol = Literal["after-cut", "rolling", "leave-last-out", "given"]

benchmarks = typer.Typer(no_args_is_help=True, help="Compare with published figures.")


BaselineArm = Annotated[
    str, typer.Option("--baseline", "--a", metavar="ARM", help="The arm that is live, such as current.")
]
Arms = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="ARM", help="An arm that may replace it, such as ease; may be repeated."),
]
ShortForm = Annotated[
    str | None,
    typer.Option(
        metavar="ARM",
        help="Short form of an --arm: --b of the first, ..., --f of the fifth.",
        show_default=False,
        rich_help_panel="Short forms",
    ),
]
ProtocolName = Annotated[Protocol, typer.Option(help="How past and future are divided.")]
Cuts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="YYYY-MM-DD,...",
        help="Everything before this day is known; as_of if left out. Several, or repeated: a user counts once, with "
        "the mean.",
    ),
]
LastCut = Annotated[
    dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Rolling: the last cut; --cut is the first.")
]
Every = Annotated[int, typer.Option(min=1, help="Rolling: days from one cut to the next.")]
Seeds = Annotated[
    str | None, typer.Option(metavar="N,...", help="Seeds to fit `train` arms with; the configuration's if left out.")
]
WindowDays = Annotated[int | None, typer.Option(min=1, help="Days after a cut; the file's if left out, 1 for rolling.")]
Relevant = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Given: pairs of user_id and item_id.")
]
TaskName = Annotated[Task, typer.Option(help="new: what the user had not met before; all: everything.")]
Metric = Annotated[
    str | None, typer.Option(help="The deciding metric; recall at the longest of evaluation.ks if left out.")
]
Margin = Annotated[
    float,
    typer.Option(min=0, max=0.99, help="Share of the baseline's figure that an arm may have less and still ship."),
]
Alpha = Annotated[float, typer.Option(help="Significance level: the false alarm rate.")]
ExposureLog = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        help="What was shown: a folder that servers log to, or user_id, item_id, reward, propensity. Estimates what "
        "each arm would have earned.",
    ),
]
RewardDays = Annotated[int, typer.Option(min=1, help="Days after an exposure in which an event counts.")]
Layers = Annotated[bool, typer.Option(help="Compare exact search, index and a running server.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the report; runs/DATASET/ab/CUT if left out.")]


def ab(
    baseline: BaselineArm,
    arm: Arms = None,
    b: ShortForm = None,
    c: ShortForm = None,
    d: ShortForm = None,
    e: ShortForm = None,
    f: ShortForm = None,
    protocol: ProtocolName = "after-cut",
    cut: Cuts = None,
    last_cut: LastCut = None,
    every: Every = 1,
    seeds: Seeds = None,
    window_days: WindowDays = None,
    relevant: Relevant = None,
    task: TaskName = "new",
    metric: Metric = None,
    margin: Margin = 0.0,
    alpha: Alpha = 0.05,
    exposures: ExposureLog = None,
    reward_days: RewardDays = 7,
    layers: Layers = True,
    out: Out = None,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Compare arms on the same users and decide which to ship: bundles, baselines, files, other configurations."""
    chosen = [baseline, *(text for text in (b, c, d, e, f) if text is not None), *(arm or [])]
    if len(chosen) < 2:
        raise typer.BadParameter("give at least one arm to compare with the baseline", param_hint="--arm")
    days, fit_seeds = _days(cut or []), _numbers(seeds)
    with errors():
        from evaluation.arms.spec import parse_arms

        specs = parse_arms(chosen)
        settings, paths = settle(config, set_, days[0] if days else None, runs)
        cuts = _cuts(protocol, settings, days, last_cut, every)
        if settings.evaluation.world is not None and protocol in ("after-cut", "rolling"):
            specs += [spec for spec in parse_arms(["oracle"]) if spec.what not in [other.what for other in specs]]
        from artefacts.console import console
        from evaluation.render.page import write_comparison
        from evaluation.render.table import print_comparison
        from twinspire.compare_arms import Plan, compare
        from twinspire.trained_arm import Invocation

        plan = Plan(
            specs,
            protocol,
            cuts,
            fit_seeds,
            window_days or (1 if protocol == "rolling" else settings.evaluation.window_days),
            _scoring(settings, task, metric, alpha, margin),
            layers,
            relevant,
            exposures,
            reward_days,
            config,
            tuple(set_ or ()),
        )
        report = compare(plan, settings, paths, Invocation(moment(now), code_version()))
        _, page = write_comparison(report, out or paths.root / "ab" / f"{cuts[-1]}")
        print_comparison(report, console())
        console().print(f"\nReport: {page}", markup=False)


def _scoring(config: Config, task: Task, metric: str | None, alpha: float, margin: float) -> Settings:
    """How arms are scored.

    Raises:
        ValueError: The metric is of no k, or a number is out of its range.
    """
    from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER
    from evaluation.settings import Settings

    ks = config.evaluation.ks
    return Settings(
        task=NEW_TO_THE_USER if task == "new" else ALL_PURCHASES,
        ks=ks,
        metric=metric or f"recall@{max(ks)}",
        alpha=alpha,
        margin=margin,
        num_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )


def ablate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="YAML file of arms to compare.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of the runs of ablations.")] = DEFAULT_ABLATION_RUNS,
    only: Annotated[
        str | None, typer.Option(metavar="ARM,...", help="Only these arms, and those that they are compared with.")
    ] = None,
    num_seeds: Annotated[int | None, typer.Option(min=1, help="How many of the file's seeds; all if left out.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Deprecated: use --num-seeds.")] = None,
    json_: JsonFile = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file that gets the tables, between its markers.")] = None,
    set_: Overrides = None,
    now: Now = None,
) -> None:
    """Fit every arm of a file with several seeds and cuts, and compare them on the same users."""
    if seeds is not None:
        typer.echo("warning: --seeds is deprecated, use --num-seeds", err=True)
    with errors():
        from twinspire.ablation_config import load_ablation

        ablation = load_ablation(file, set_ or [])
        names = only.split(",") if only else []
        for name in ablation.chosen(names):
            print_warnings(ablation.arms[name], arm=name)

        from artefacts.console import console
        from evaluation.render.markdown import write_markdown
        from evaluation.render.table import print_ablation
        from evaluation.report import to_json
        from twinspire.ablation import ablate as compare_arms
        from twinspire.trained_arm import Invocation

        run = Invocation(moment(now), code_version())
        report = compare_arms(ablation, runs, only=names, num_seeds=num_seeds or seeds, run=run)
        print_ablation(report, console())
        if json_ is not None:
            replace_text(json_, to_json(report))
        if out is not None:
            write_markdown(report, out)
        if report.failed:
            raise ValueError("; ".join(f"arm {name!r} failed: {why}" for name, why in report.failed.items()))


def _days(texts: list[str]) -> list[dt.date]:
    """Days of the cuts, each once and in time order."""
    try:
        days = [dt.date.fromisoformat(part) for text in texts for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; give days such as 2017-12-01", param_hint="--cut") from None
    if days != sorted(set(days)):
        raise typer.BadParameter(
            f"cuts are {', '.join(map(str, days))}; give each once, in time order", param_hint="--cut"
        )
    return days


def _numbers(text: str | None) -> tuple[int, ...]:
    """Seeds, each once."""
    parts = text.split(",") if text else []
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise typer.BadParameter(f"seeds are {text!r}; give numbers such as 1,2,3, each once", param_hint="--seeds")
    return tuple(map(int, parts))


def _cuts(
    protocol: Protocol, config: Config, days: list[dt.date], last: dt.datetime | None, every: int
) -> list[dt.date]:
    """Days of the cuts.

    Raises:
        ValueError: There are several where one is expected, or the last one is missing for rolling, given for another
            protocol, or before the first.
    """
    first = config.as_of
    if protocol != "rolling":
        if last is not None:
            raise ValueError(f"--last-cut is given, and protocol is {protocol}; it is for rolling")
        return days or [first]
    if len(days) > 1:
        raise ValueError(f"--cut is {', '.join(map(str, days))}, and protocol is rolling; give the first one alone")
    if last is None or last.date() < first:
        found = "left out" if last is None else str(last.date())
        raise ValueError(
            f"--last-cut is {found}, and the first cut is {first}; rolling needs a last one, not before it"
        )
    return [first + dt.timedelta(days=n) for n in range(0, (last.date() - first).days + 1, every)]


@benchmarks.command()
def lightgcn(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder with train.txt and test.txt.")],
    runs: Runs = DEFAULT_BENCHMARK_RUNS,
    test: Annotated[
        Literal["later", "random", "unknown"],
        typer.Option(help="What is known of the test pairs: later than those of train, or a random part of each user."),
    ] = "unknown",
    dim: Annotated[int, typer.Option(min=2, help="Width of the vectors.")] = 64,
    set_: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets vectors and lists as Parquet files.")] = None,
    json_: JsonFile = None,
    now: Now = None,
) -> None:
    """Run the daily job on a published split: a line a user, its id, then its items."""
    with errors():
        from twinspire.published_split import benchmark
        from twinspire.trained_arm import Invocation

        run = Invocation(moment(now), code_version())
        found = benchmark(data, runs, run, test=test, dim=dim, changes=set_ or (), out=out)
        if json_ is not None:
            replace_text(json_, json_text(found, indent=2) + "\n")


@benchmarks.command()
def time(
    config: Annotated[
        list[Path],
        typer.Option("--config", "-c", exists=True, help="A configuration, a world, or a folder of them; repeatable."),
    ],
    runs: Runs = DEFAULT_BENCHMARK_RUNS,
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help="Only these data sets.")] = None,
    json_: JsonFile = None,
    md: Annotated[Path | None, typer.Option(help="Markdown file that gets all tables, between its two marks.")] = None,
    now: Now = None,
) -> None:
    """Measure the product and all baselines on the days after each data set's cut, with paired intervals."""
    with errors():
        from artefacts.console import console
        from evaluation.render.markdown import replace_between
        from evaluation.render.time_split import BEGIN, END, print_summary, to_markdown
        from evaluation.report import to_json
        from twinspire.time_split import benchmark, load_data_sets
        from twinspire.trained_arm import Invocation

        run = Invocation(moment(now), code_version())
        data_sets = load_data_sets(config, runs, run, only=only.split(",") if only else [])
        files = [flag for path in config for flag in ("--config", str(path))]
        chosen = ["--only", only] if only else []
        found = benchmark(data_sets, runs, run, command=shlex.join(["twinspire", "benchmark", "time", *files, *chosen]))
        print_summary(found, console())
        if json_ is not None:
            replace_text(json_, to_json(found))
        if md is not None:
            replace_between(md, BEGIN, END, to_markdown(found))
        if found.failed:
            raise ValueError("; ".join(f"data set {name!r} failed: {why}" for name, why in found.failed.items()))
