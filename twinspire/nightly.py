"""The commands of a nightly run: `daily`, `backfill` and `status`.

Exit codes: 0 published or unchanged, 1 an error, 2 a mistake in the configuration, 3 not published because gate checks
failed, so that the previous bundle stays live, 4 another run is at work.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from artefacts.files import json_text, replace_text
from artefacts.locks import holder_of, only_run
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    ConfigPath,
    Force,
    Now,
    Overrides,
    Runs,
    check_day,
    code_version,
    do,
    errors,
    moment,
    save_config,
    settle,
)

if TYPE_CHECKING:
    from artefacts.paths import RunPaths
    from training.lineage import WarmStartPlan
    from twinspire.config import Config

REFUSED = 3
# Of the table of nights -> which is left out first where the terminal is narrow; a bundle is called like its night.
_COLUMNS = {
    "night": 0,
    "outcome": 0,
    "bundle": 9,
    "fit": 5,
    "seconds": 6,
    "peak MB": 8,
    "recall of the\nprevious fit": 4,
    "slowest\nstep": 7,
}

Day = Annotated[
    dt.datetime | None,
    typer.Option("--date", formats=["%Y-%m-%d"], help="Everything before this day is known. Default: today, UTC."),
]
Full = Annotated[bool, typer.Option("--full", help="Full retrain instead of a warm start from the previous night.")]


def daily(
    date: Day = None,
    full: Full = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    force: Force = False,
    now: Now = None,
) -> None:
    """Make and publish the bundle of a day, from the night before; what is done already is kept."""
    with errors():
        day = moment(now).date() if date is None else date.date()
        settings, paths = settle(config, set_, day, runs)
        check_day(day, moment(now))
        _exit_if(_one_night(settings, paths, full=full, force=force, now=moment(now)))


def backfill(
    first: Annotated[dt.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day.")],
    last: Annotated[dt.datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, itself included.")],
    full: Full = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    force: Force = False,
    now: Now = None,
) -> None:
    """Run the nights of several days in order; after a night whose gate checks fail, the next one continues."""
    with errors():
        if first > last:
            raise ValueError(f"--from is {first.date()}, after --to, {last.date()}; exchange them")
        from artefacts.console import console
        from features.columns import day_range

        days = day_range(first.date(), last.date() + dt.timedelta(days=1))
        check_day(days[-1], moment(now))
        refused = []
        for day in days:
            console().print(f"\n[bold]{day}[/]")
            settings, paths = settle(config, set_, day, runs)
            if code := _one_night(settings, paths, full=full, force=force, now=moment(now)):
                if code != REFUSED:
                    raise typer.Exit(code)
                refused.append(day)
            _forget_graphs()
        if refused:
            console().print(f"\nrefused by a gate: {', '.join(map(str, refused))}")
            raise typer.Exit(REFUSED)


def status(
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
    nights: Annotated[int, typer.Option(min=1, help="How many nights are shown, the latest.")] = 14,
) -> None:
    """Show what is served, how the last nights went, and whether a run is in progress."""
    with errors():
        settings, paths = settle(config, set_, None, runs)

        found = status_of(settings, paths, nights)
        if as_json:
            typer.echo(json_text(found, indent=2))
        else:
            print_status(found)


def _exit_if(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _one_night(config: Config, paths: RunPaths, *, full: bool, force: bool, now: dt.datetime) -> int:
    """Does a night under the lock; returns its exit code."""
    from artefacts.steps import remove_left_over

    with only_run(paths.root, command=f"twinspire daily --date {paths.as_of}", now=now):
        remove_left_over(paths.root)
        return _do_night(config, paths, full=full, force=force, now=now)


def _do_night(config: Config, paths: RunPaths, *, full: bool, force: bool, now: dt.datetime) -> int:
    from rich.text import Text

    from artefacts.config import pick
    from artefacts.console import console
    from artefacts.secrets import redacted
    from artefacts.steps import finished
    from artefacts.stopping import StoppedError
    from evaluation.gates.report import GateError
    from serving.steps import tidy_exposures
    from training.config import WarmStartSections
    from training.lineage import night_of
    from twinspire.main_job import plan

    begun = time.perf_counter()
    night = night_of(pick(WarmStartSections, config), paths, full=full)
    console().print(f"{paths.as_of} {night.why}")
    for change in night.changes:
        console().print(f"[yellow]changed[/] {change}")
    tidied = tidy_exposures(config.daily.keep_exposure_days, paths, now=now)
    for line in tidied:
        console().print(line, markup=False)
    steps = plan(config, paths, now=now, code_version=code_version(), night=night)
    save_config(config, paths)
    records: list[dict[str, Any]] = []
    outcome = "failed"
    with night_log(paths) as log:
        log.info("night begins", day=str(paths.as_of), why=night.why, changes=night.changes, process=os.getpid())
        if tidied:
            log.info("exposures", lines=tidied)
        earlier = _summary(paths)
        if force or earlier.get("outcome") != "published" or not all(map(finished, steps)):
            # For `status` after a kill, which leaves no time to write anything.
            write_summary(config, paths, night, [], outcome="unfinished", seconds=0, now=now)
        try:
            for step in steps:
                log.info("step begins", step=step.name)
                record, done_now = do(step, force=force)
                entry = {
                    "name": step.name,
                    "outcome": record.outcome,
                    "done_now": done_now,
                    "seconds": round(record.seconds, 3),
                    "peak_memory_bytes": record.peak_memory_bytes,
                }
                records.append(entry)
                log.info("step ends", **{"step" if key == "name" else key: value for key, value in entry.items()})
            outcome = "published"
        except GateError as error:
            outcome = "refused"
            log.error("refused by a gate", checks=redacted(str(error)))
            _show(error)
        except Exception as error:
            log.error("night fails", error=redacted(f"{type(error).__name__}: {error}"))
            raise
        except StoppedError:
            outcome = "unfinished"
            log.error("night is stopped by a signal")
            raise
        finally:
            for name, why in _unchecked(paths).items():
                console().print(Text("NOT CHECKED ", style="bold yellow").append(f"{name}: {why}", style="default"))
                log.warning("not checked", check=name, why=why)
            seconds = time.perf_counter() - begun
            if earlier.get("outcome") == outcome and not any(entry["done_now"] for entry in records):
                # Nothing has changed: what the night took is what it took when it was done.
                replace_text(paths.night, json_text(earlier, indent=2))
            else:
                write_summary(config, paths, night, records, outcome=outcome, seconds=seconds, now=now)
            log.info("night ends", outcome=outcome, seconds=round(seconds, 1))
    return REFUSED if outcome == "refused" else 0


def _show(error: Any) -> None:
    from twinspire.show import print_gates

    print_gates(error.report)
    typer.secho("not published: gate checks failed; the previous bundle stays live", err=True, fg="red")


def _forget_graphs() -> None:
    """Lets go of what TensorFlow keeps of a fit, of which there are many in one process."""
    import sys

    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.clear_session()
    gc.collect()


@contextmanager
def night_log(paths: RunPaths) -> Iterator[Any]:
    """A logger that appends a JSON object a line to the night's log."""
    paths.night.parent.mkdir(parents=True, exist_ok=True)
    with paths.night.with_suffix(".log").open("a", encoding="utf-8") as file:
        processors: list[structlog.typing.Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
        yield structlog.wrap_logger(structlog.WriteLogger(file), processors=processors)


def write_summary(
    config: Config,
    paths: RunPaths,
    night: WarmStartPlan,
    steps: Sequence[dict[str, Any]],
    *,
    outcome: str,
    seconds: float,
    now: dt.datetime,
) -> None:
    """Writes how a night went: `outcome` is published, refused, failed, or unfinished: at work, or killed at it."""
    rows = [step for step in steps if step["name"] == "bundle"]
    summary = {
        "day": str(paths.as_of),
        "outcome": outcome,
        "bundle": paths.bundle_name.read_text() if rows else None,
        "parent": None if night.parent is None else str(night.parent),
        "is_warm_start": night.is_warm_start,
        "why": night.why,
        "seconds": round(seconds, 1),
        "run_at": now.isoformat(),
        "configuration_digest": config.digest(),
        "recall": _recall(paths),
        "not_checked": _unchecked(paths),
        "steps": list(steps),
    }
    replace_text(paths.night, json_text(summary, indent=2))


def _summary(paths: RunPaths) -> dict[str, Any]:
    """How the night went before; empty where it was not done yet."""
    found: dict[str, Any] = json.loads(paths.night.read_text()) if paths.night.exists() else {}
    return found


def _unchecked(paths: RunPaths) -> dict[str, str]:
    """The gate checks that did not apply to the night's bundle although there was something to check -> why."""
    from evaluation.gates.report import GateReport

    if not (paths.gates.exists() and paths.bundle_name.exists()):
        return {}
    report = GateReport.from_json(paths.gates.read_text(encoding="utf-8"))
    # An earlier bundle of the day may have been checked by this report.
    checks = report.unchecked if report.bundle == paths.bundle_name.read_text() else ()
    return {check.name: f"{check.sentence}; {check.to_do}" for check in checks}


def _recall(paths: RunPaths) -> dict[str, Any] | None:
    """What the fit before reached on the new days, and both on the users held out of today's."""
    from training.lineage import HELD_OUT_SUMMARY

    path = paths.model / HELD_OUT_SUMMARY
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def status_of(config: Config, paths: RunPaths, num_nights: int) -> dict[str, Any]:
    """What is served, how the last nights went, what is at work."""
    from serving.bundles.folder import published

    files = sorted((paths.root / "nights").glob("????-??-??.json"))[-num_nights:]
    events = sorted((paths.tables / "events").glob("????-??-??.parquet"))
    return {
        "dataset": config.name,
        "served": published(paths.bundles),
        "last_day_with_events": events[-1].stem if events else None,
        "at_work": holder_of(paths.root),
        "nights": [json.loads(file.read_text()) for file in reversed(files)],
    }


def print_status(found: dict[str, Any]) -> None:
    """The same, for people."""
    from rich.table import Table
    from rich.text import Text

    from artefacts.console import columns_that_fit, console

    at_work = found["at_work"]
    console().print(f"served            {found['served'] or 'nothing yet'}")
    console().print(f"last day of data  {found['last_day_with_events'] or 'none yet'}")
    console().print(
        "at work           "
        + (f"{at_work['command']}, process {at_work['process']} since {at_work['since']}" if at_work else "nothing")
    )
    if not found["nights"]:
        console().print("\nno night yet: `twinspire daily` does the first one")
        return
    headings = list(_COLUMNS)
    rows = [list(_row(night)) for night in found["nights"]]
    width = console().width
    places = columns_that_fit(headings, rows, ranks=list(_COLUMNS.values()), width=width)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for place in places:
        is_figure = headings[place] in ("seconds", "peak MB")
        table.add_column(headings[place], justify="right" if is_figure else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[place] for place in places))
    console().print("\n", table)
    if left_out := [" ".join(name.split()) for place, name in enumerate(headings) if place not in places]:
        console().print(f"(left out at {width} columns: {', '.join(left_out)}; --json has all)", markup=False)
    for line in _unchecked_lines(found["nights"]):
        console().print(Text(line, style="bold yellow"), soft_wrap=False)


def _unchecked_lines(nights: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the gates did not check in the latest of some nights, and in how many of them."""
    # Summaries of earlier versions lack the key.
    for name, why in nights[0].get("not_checked", {}).items():
        times = sum(name in night.get("not_checked", {}) for night in nights)
        yield f"NOT CHECKED on {nights[0]['day']}, and on {times} of {len(nights)} nights: {name}: {why}"


def _row(night: dict[str, Any]) -> Iterator[str]:
    steps = [step for step in night["steps"] if step["done_now"]]
    slowest = max(steps, key=lambda step: step["seconds"], default=None)
    recall = night["recall"]
    yield night["day"]
    yield night["outcome"]
    yield night["bundle"] or "-"
    # The name of the key in summaries of earlier versions.
    is_warm_start = night["is_warm_start"] if "is_warm_start" in night else night["goes_on"]
    yield f"warm start\nfrom {night['parent']}" if is_warm_start else "full"
    yield f"{night['seconds']:,.0f}"
    yield f"{max((step['peak_memory_bytes'] for step in steps), default=0) / 1e6:,.0f}"
    yield "-" if recall is None else f"@{recall['k']} {recall['next_day']:.4f}\nof {recall['num_users']:,} users"
    yield "-" if slowest is None else f"{slowest['name']},\n{slowest['seconds']:.0f} s"
