"""Which arm should be shipped? The command that compares them offline. Heavy imports wait until it runs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twinspire.job import DEFAULT_CONFIG, DEFAULT_RUNS, ConfigPath, Now, Overrides, Runs, errors, moment

if TYPE_CHECKING:
    from twinspire.config import Config

Task = Literal["new", "all"]
Protocol = Literal["after-cut", "rolling", "leave-last-out", "given"]
ArmText = Annotated[str | None, typer.Option(metavar="ARM", help="Another arm.", show_default=False)]
Cut = Annotated[
    dt.datetime | None,
    typer.Option("--cut", formats=["%Y-%m-%d"], help="Everything before this day is known; as_of if left out."),
]


def ab(
    a: Annotated[str, typer.Option("--a", metavar="ARM", help="What is there, such as current.")],
    b: Annotated[str, typer.Option("--b", metavar="ARM", help="What might take its place, such as ease.")],
    c: ArmText = None,
    d: ArmText = None,
    e: ArmText = None,
    f: ArmText = None,
    protocol: Annotated[Protocol, typer.Option(help="How past and future are divided.")] = "after-cut",
    cut: Cut = None,
    last_cut: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Rolling: the last cut; --cut is the first.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Rolling: days from one cut to the next.")] = 1,
    window_days: Annotated[
        int | None, typer.Option(min=1, help="Days after a cut; the file's if left out, 1 for rolling.")
    ] = None,
    relevant: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Given: pairs of user_id and item_id.")
    ] = None,
    task: Annotated[Task, typer.Option(help="new: what the user had not met before; all: everything.")] = "new",
    metric: Annotated[str | None, typer.Option(help="What decides; recall at the longest of evaluation.ks.")] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=0.99, help="Part of A's figure that an arm may have less and still ship.")
    ] = 0.0,
    alpha: Annotated[float, typer.Option(help="Rate of false alarms.")] = 0.05,
    exposures: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="What was shown: a folder that servers log to, or user_id, item_id, reward, "
            "propensity. Estimates what each arm would have earned.",
        ),
    ] = None,
    reward_days: Annotated[int, typer.Option(min=1, help="Days after an exposure in which a purchase counts.")] = 7,
    layers: Annotated[bool, typer.Option(help="Tell exact search, index and a running server apart.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; beside the day's own if left out.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Compare arms on the same users and tell which one to ship: bundles, baselines, files, other configurations."""
    with errors():
        from twinspire.ab_arms import parse_arms

        specs = parse_arms([text for text in (a, b, c, d, e, f) if text is not None])
        from twinspire.job import settle

        settings, paths = settle(config, set_, None if cut is None else cut.date(), runs)
        cuts = _cuts(protocol, settings, last_cut, every)
        from artefacts.console import console
        from evaluation.ab.settings import Settings
        from evaluation.ab.table import print_comparison
        from evaluation.ab.write import write_comparison
        from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER
        from twinspire.job import code_version
        from twinspire.pipeline.ab.compare import Plan, compare
        from twinspire.pipeline.fit_arm import Run

        ks = settings.evaluation.ks
        judged = Settings(
            task=NEW_TO_THE_USER if task == "new" else ALL_PURCHASES,
            ks=ks,
            metric=metric or f"recall@{max(ks)}",
            alpha=alpha,
            margin=margin,
            num_samples=settings.evaluation.bootstrap_samples,
            seed=settings.seed,
        )
        plan = Plan(
            specs,
            protocol,
            cuts,
            window_days or (1 if protocol == "rolling" else settings.evaluation.window_days),
            judged,
            layers,
            relevant,
            exposures,
            reward_days,
            config,
            tuple(set_ or ()),
        )
        report = compare(plan, settings, paths, Run(moment(now), code_version()))
        folder = out or paths.root / "ab" / f"{cuts[-1]}"
        _, page = write_comparison(report, folder)
        print_comparison(report, console())
        console().print(f"\nReport: {page}", markup=False)


def _cuts(protocol: Protocol, config: Config, last: dt.datetime | None, every: int) -> list[dt.date]:
    """Days of the cuts.

    Raises:
        ValueError: The last one is missing for rolling, given for another protocol, or before the first.
    """
    first = config.as_of
    if protocol != "rolling":
        if last is not None:
            raise ValueError(f"--last-cut is given, and protocol is {protocol}; it is for rolling")
        return [first]
    if last is None or last.date() < first:
        found = "left out" if last is None else str(last.date())
        raise ValueError(
            f"--last-cut is {found}, and the first cut is {first}; rolling needs a last one, not before it"
        )
    return [first + dt.timedelta(days=n) for n in range(0, (last.date() - first).days + 1, every)]
