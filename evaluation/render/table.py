"""Tables of a comparison, and how a terminal shows them: the daily report, `twinspire ab` and `twinspire ablate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from artefacts.console import columns_that_fit
from evaluation.render.formats import (
    count_text,
    difference_text,
    figure,
    interval_text,
    milliseconds,
    p_text,
    rows_text,
)
from evaluation.render.headline import SliceRow, arm_label, headline, other_lines, slice_rows
from evaluation.report import ORACLE, ArmFigures, LayerCheck, Problem, Report

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST_SOURCE = 24
# Of metrics but the one with an interval: which is left out first on a narrow terminal.
_RANKS = {"mrr": 7, "ndcg": 6}


@dataclass(frozen=True)
class Column:
    """A column of a table of arms.

    Attributes:
        heading: At its top.
        cell: What it holds of an arm.
        is_text: Whether it holds words, which may wrap, and not figures.
        rank: Of the columns that a terminal is too narrow for, the one of the highest rank is left out first.
    """

    heading: str
    cell: Callable[[ArmFigures], str]
    is_text: bool = False
    rank: int = 0


def print_daily(reports: Sequence[Report], console: Console) -> None:
    """Prints the daily report: a headline, and a table for each task.

    Args:
        reports: Of one cut, one for each task.
        console: A rich console.
    """
    first = reports[0]
    text = (
        f"{first.dataset}: cut {first.cuts[0]}, the {first.window_days} days after it, read once; "
        f"{first.num_all_users:,} users, {first.num_items:,} items, intervals of {1 - first.alpha:.0%}"
    )
    _print_lines(console, [text])
    for report in reports:
        title = f"{report.title}: {report.num_users:,} users with something relevant"
        _print_table(console, title, daily_columns(report), report)
    if first.notes:
        _print_notes(console, first.notes)


def print_comparison(report: Report, console: Console) -> None:
    """Prints `twinspire ab`: the outcome, on what, the arms, the reasons, slices, layers, and what else to know.

    Args:
        report: The figures.
        console: A rich console.
    """
    _print_lines(console, [headline(report), *other_lines(report), "", facts(report)])
    _print_table(console, f"arms, and their differences to {report.references[0]}", ab_columns(report), report)
    for comparison in report.comparisons:
        _print_lines(console, ["", f"{arm_label(comparison)}: {comparison.verdict.decision}"])
        _print_lines(console, (f"  - {reason}" for reason in comparison.verdict.reasons))
    _print_slices(report, console)
    if report.layers:
        _print_lines(console, ["", *_layers(report)])
    unused = list(_problems(report))
    if unused:
        _print_lines(console, ["", "input that could not be used:", *unused])
    if report.off_policy:
        print_rows(console, "reward of a shown item, by what was logged", *_off_policy(report))
    if report.notes:
        _print_notes(console, report.notes)


def print_ablation(report: Report, console: Console) -> None:
    """Prints `twinspire ablate`: on what, the table of arms, and one for each partition of users or items.

    Args:
        report: The figures.
        console: A rich console.
    """
    _print_lines(console, [ablation_facts(report)])
    # Sources are sentences; the Markdown has them.
    _print_table(console, f"{report.dataset}: arms", ablation_columns(report)[:-1], report)
    for about in report.arms[0].slices:
        print_rows(console, f"recall by {about}", *slice_table(report, about), num_text=1)
    if report.notes:
        _print_notes(console, report.notes)


def facts(report: Report) -> str:
    """What the figures are of."""
    cuts = ", ".join(cut[:10] for cut in report.cuts)
    days = f"the {report.window_days} days" if report.window_days > 1 else "the day"
    behind = f"{days} from {cuts} on" if len(report.cuts) == 1 else f"{days} from each of {cuts} on"
    seeds = f"; seeds {', '.join(map(str, report.seeds))}" if report.seeds else ""
    return (
        f"{report.dataset}: {report.protocol}{f', {behind}' if cuts else ''}; {report.title}{seeds}; "
        f"{report.num_users:,} users with {report.num_relevant:,} relevant items, catalogue of {report.num_items:,}, "
        f"{report.num_unknown_relevant:,} relevant ones outside it; intervals of {1 - report.alpha:.0%}, p corrected "
        f"(Holm), {report.num_samples:,} resamples, seed {report.seed}"
    )


def ablation_facts(report: Report) -> str:
    """What the figures of an ablation are of."""
    cuts = ", ".join(cut[:10] for cut in report.cuts)
    seeds = f"seed {report.seeds[0]}" if len(report.seeds) == 1 else f"{len(report.seeds)} seeds"
    return (
        f"{report.dataset}: {report.window_days} days from {cuts} on, {seeds}; {report.num_users:,} users with "
        f"something new to find, {report.num_items:,} candidates, intervals of {1 - report.alpha:.0%}, p corrected "
        "(Holm)."
    )


def daily_columns(report: Report) -> list[Column]:
    """Recall at every k, at the largest one with its interval; ndcg, mrr, coverage, and the difference in recall."""
    largest = max(report.ks)
    recall, reference = f"recall@{largest}", report.arm(report.references[0]).name
    return [
        Column("arm", lambda arm: arm.name, is_text=True),
        Column("layer", lambda arm: arm.layer or "", is_text=True, rank=9),
        *(_metric(f"recall@{k}", with_interval=k == largest) for k in report.ks),
        *_of_oracle(report, recall),
        _metric(f"ndcg@{largest}"),
        _metric("mrr"),
        Column(f"cover\n@{largest}", lambda arm: f"{arm.lists[f'coverage@{largest}']:.2%}", rank=8),
        *_families(report),
        Column(f"{recall}\nover {reference}", lambda arm: _two_lines(_difference(report, arm, recall))),
    ]


def ab_columns(report: Report) -> list[Column]:
    """Letter, name and source; recall, ndcg, mrr and the deciding metric; the difference in it, p-value, latency."""
    names = [*(f"recall@{k}" for k in report.ks), f"ndcg@{max(report.ks)}", "mrr", report.metric]
    found = [
        Column("", lambda arm: arm.letter, is_text=True),
        Column("arm", lambda arm: f"{arm.name}\n{_short(arm.source)}", is_text=True),
        *(_metric(name, with_interval=name == report.metric) for name in dict.fromkeys(names)),
        *_of_oracle(report, report.metric),
        Column(f"difference\nto {report.references[0]}", lambda arm: _two_lines(_difference(report, arm))),
        Column("p", lambda arm: _p_value(report, arm)),
    ]
    if len(report.seeds) > 1:
        found.append(Column("seeds", lambda arm: _seeds(arm).replace("–", "–\n"), rank=8))
    if any(arm.latency for arm in report.arms):
        found.append(Column("p99\nms", lambda arm: milliseconds(arm.latency.p99_ms) if arm.latency else "", rank=9))
    return found


def ablation_columns(report: Report) -> list[Column]:
    """Recall, its seeds, the difference with its p-value and verdict; NDCG, training time, costs, what is different."""
    ndcg = f"ndcg@{max(report.ks)}"
    costs = [
        Column("index, MB", lambda arm: f"{arm.cost.size_bytes / 1e6:.1f}" if arm.cost else ""),
        Column("build, s", lambda arm: f"{arm.cost.build_seconds:.1f}" if arm.cost else ""),
        Column(
            "query p50 / p99, ms",
            lambda arm: f"{arm.cost.median_ms:.2f} / {arm.cost.p99_ms:.2f}" if arm.cost else "",
        ),
    ]
    return [
        Column("arm", lambda arm: arm.name, is_text=True),
        Column(report.metric, lambda arm: figure(arm.metrics[report.metric].mean)),
        *_of_oracle(report, report.metric),
        Column("seeds", _seeds),
        Column("difference", lambda arm: _difference(report, arm)),
        Column("to", lambda arm: _reference(report, arm)),
        Column("p", lambda arm: _p_value(report, arm)),
        Column("verdict", lambda arm: _decision(report, arm)),
        Column(ndcg.replace("ndcg", "NDCG"), lambda arm: figure(arm.metrics[ndcg].mean)),
        Column(
            "training, s",
            lambda arm: "" if math.isnan(arm.training_seconds) else f"{arm.training_seconds:.0f}",
        ),
        *(costs if any(arm.cost for arm in report.arms) else ()),
        Column("what is different", lambda arm: arm.source, is_text=True),
    ]


def slice_table(report: Report, about: str) -> tuple[list[str], list[list[str]]]:
    """An arm a row, a group a column: recall within it, with a star where the interval of the difference excludes 0."""
    groups = report.arms[0].slices[about]
    headings = [f"{name} ({at.num_users:,} users)" for name, at in groups.items()]
    rows = [[arm.name, *(_slice_cell(report, arm, about, name) for name in groups)] for arm in report.arms]
    return ["arm", *headings], rows


def problems(report: Report) -> list[tuple[str, Problem]]:
    """Whose input, and what in it could not be used."""
    of_inputs = [(f"{arm.letter} ({arm.name})", problem) for arm in report.arms for problem in arm.problems]
    return [*of_inputs, *(("log of exposures", problem) for problem in report.off_policy_problems)]


def _metric(name: str, *, with_interval: bool = False) -> Column:
    rank = 0 if with_interval else _RANKS.get(name.partition("@")[0], 5)

    def cell(arm: ArmFigures) -> str:
        at = arm.metrics[name]
        return _two_lines(interval_text(at)) if with_interval else figure(at.mean)

    return Column(name.replace("@", "\n@"), cell, rank=rank)


def _of_oracle(report: Report, metric: str) -> list[Column]:
    """On a world, the share of the oracle's figure that an arm has; no column on other data."""
    best = next((arm.metrics[metric].mean for arm in report.arms if arm.name == ORACLE), 0.0)
    if not best > 0:
        return []
    return [Column("of the\noracle", lambda arm: f"{arm.metrics[metric].mean / best:.1%}")]


def _families(report: Report) -> list[Column]:
    """How many families are among the first items of a list; no column where the data set has none."""
    name = f"families@{min(report.ks)}"
    if name not in report.arms[0].metrics:
        return []
    return [Column(name.replace("@", "\n@"), lambda arm: f"{arm.metrics[name].mean:.2f}", rank=8)]


def _difference(report: Report, arm: ArmFigures, metric: str | None = None) -> str:
    found = report.comparison(arm.letter)
    return "" if found is None else difference_text(found.metrics[metric or report.metric].interval)


def _p_value(report: Report, arm: ArmFigures) -> str:
    found = report.comparison(arm.letter)
    return "" if found is None else p_text(found.metrics[report.metric].adjusted_p)


def _reference(report: Report, arm: ArmFigures) -> str:
    found = report.comparison(arm.letter)
    return "" if found is None else report.arm(found.reference).name


def _decision(report: Report, arm: ArmFigures) -> str:
    found = report.comparison(arm.letter)
    return "" if found is None else found.verdict.decision


def _seeds(arm: ArmFigures) -> str:
    seeds = arm.by_seed
    return f"{figure(min(seeds))}–{figure(max(seeds))}" if len(seeds) > 1 else ""


def _slice_cell(report: Report, arm: ArmFigures, about: str, name: str) -> str:
    found = report.comparison(arm.letter)
    interval = None if found is None else found.slices[about][name].interval
    differs = interval is not None and (interval.low > 0 or interval.high < 0)
    return figure(arm.slices[about][name].mean) + ("*" if differs else "")


def _print_slices(report: Report, console: Console) -> None:
    """Groups in which an arm loses, then those in which it wins, whatever the total is."""
    for comparison in report.comparisons:
        found = list(slice_rows(report, comparison))
        if not found:
            continue
        lost, won = ([row for row in found if row.outcome == outcome] for outcome in ("lost", "won"))
        title = f"{arm_label(comparison)} is worse in {len(lost)} and better in {len(won)} of {len(found)} slices"
        if not lost and not won:
            _print_lines(console, ["", title])
            continue
        letters = (comparison.reference, comparison.letter)
        headings = ["", f"slice, {report.slice_metric}", "users", *letters, "difference", "p"]
        print_rows(console, title, headings, [_slice(row) for row in (*lost, *won)])


def _slice(row: SliceRow) -> list[str]:
    return [
        "worse" if row.outcome == "lost" else "better",
        f"{row.about}: {row.group}",
        f"{row.difference.interval.num_users:,}",
        figure(row.of_reference.mean),
        figure(row.of_arm.mean),
        difference_text(row.difference.interval),
        p_text(row.difference.adjusted_p),
    ]


def _layers(report: Report) -> Iterator[str]:
    for check in report.layers:
        recall = f"{report.slice_metric} {difference_text(check.recall)}"
        figures = (
            f"{check.letter}, {check.upper} to {check.lower}: {check.same_lists:.1%} of {check.num_users:,} users have "
            f"the same list, {check.found_share:.2%} of items found, {recall}"
        )
        yield f"{_finding(check)}{figures}"


def _finding(check: LayerCheck) -> str:
    if check.finding is None:
        return "layers agree: "
    return f"FINDING{', keeps it from being shipped' if check.blocks else ''}: {check.finding}\n  "


def _problems(report: Report) -> Iterator[str]:
    for owner, problem in problems(report):
        where = rows_text(problem)
        times = "once" if problem.count == 1 else f"{problem.count:,} times"
        yield f"  {owner}: {problem.kind}, {times}{f', {where}' if where else ''}"


def _off_policy(report: Report) -> tuple[list[str], list[list[str]]]:
    headings = ["arm", "estimator", "reward", "effective\nsample", "weights\nclipped", "logged"]
    rows = [
        [
            row.letter,
            row.estimator,
            f"{figure(row.estimate.value)} [{figure(row.estimate.low)}, {figure(row.estimate.high)}]",
            count_text(row.estimate.effective_sample_size),
            f"{row.estimate.share_clipped:.1%}",
            f"{row.estimate.num_logged:,}",
        ]
        for row in report.off_policy
    ]
    return headings, rows


def _short(source: str) -> str:
    """Both ends of what is too long: what kind of thing it is, and which one."""
    half = _LONGEST_SOURCE // 2
    return source if len(source) <= _LONGEST_SOURCE else f"{source[: half - 1]}…{source[-half:]}"


def _two_lines(interval: str) -> str:
    """The interval below its mean."""
    return interval.replace(" [", "\n[")


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    """Sentences, which wrap where the terminal ends."""
    console.print()
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=False)


def _print_table(console: Console, title: str, columns: Sequence[Column], report: Report) -> None:
    rows = [[column.cell(arm) for column in columns] for arm in report.arms]
    num_text = sum(column.is_text for column in columns)
    ranks = [column.rank for column in columns]
    print_rows(console, title, [column.heading for column in columns], rows, num_text=num_text, ranks=ranks)


def print_rows(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    num_text: int = 2,
    ranks: Sequence[int] = (),
) -> None:
    """A table whose first columns are words, the others figures; `ranks` says what goes where it is too wide."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    places = columns_that_fit(headings, rows, ranks=ranks or [0] * len(headings), width=console.width)
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for place in places:
        is_text, heading = place < num_text, headings[place]
        # Words give way where the terminal is narrow; a figure that wraps cannot be read.
        table.add_column(Text(heading), justify="left" if is_text else "right", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in places))
    console.print()
    console.print(table)
    if left_out := [" ".join(heading.split()) for place, heading in enumerate(headings) if place not in places]:
        console.print(f"(left out at {console.width} columns: {', '.join(left_out)})", markup=False, highlight=False)
