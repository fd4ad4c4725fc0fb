"""What does a comparison of arms look like on a terminal? The outcome first; 100 columns are enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from evaluation.ab.headline import arm_label, headline, other_lines, p_text
from evaluation.ab.outcomes import SliceRow, slice_metric, slice_rows
from evaluation.ab.report import ABReport, ArmFigures, LayerCheck, Problem
from evaluation.table import difference_text, figure, interval_text

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST_SOURCE = 24


def print_comparison(report: ABReport, console: Console) -> None:
    """Prints who wins, then what of, the arms, why, where, and what a reader has to know besides.

    Args:
        report: The figures.
        console: A rich console.
    """
    _say(console, [headline(report), *other_lines(report), "", facts(report)])
    _print(console, "arms, and their differences to A", *_arms(report))
    for comparison in report.comparisons:
        _say(console, ["", f"{arm_label(comparison)}: {comparison.verdict.decision}"])
        _say(console, (f"  - {reason}" for reason in comparison.verdict.reasons))
    _print_slices(report, console)
    if report.layers:
        _say(console, ["", *_layers(report)])
    unused = list(_problems(report))
    if unused:
        _say(console, ["", "input that could not be used:", *unused])
    if report.off_policy:
        _print(console, "reward of a shown item, by what was logged", *_off_policy(report))
    if report.notes:
        _say(console, ["", *(f"note: {note}" for note in report.notes)])


def facts(report: ABReport) -> str:
    """What the figures are of."""
    cuts = ", ".join(cut[:10] for cut in report.cuts)
    days = f"the {report.window_days} days" if report.window_days > 1 else "the day"
    behind = f"{days} from {cuts} on" if len(report.cuts) == 1 else f"{days} from each of {cuts} on"
    return (
        f"{report.dataset}: {report.protocol}{f', {behind}' if cuts else ''}; {report.task}; "
        f"{report.num_users:,} users with {report.num_relevant:,} relevant items, catalogue of {report.num_items:,}, "
        f"{report.num_unknown_relevant:,} relevant ones outside it; intervals of {1 - report.alpha:.0%}, p corrected "
        f"(Holm), {report.num_samples:,} resamples, seed {report.seed}"
    )


def problems(report: ABReport) -> list[tuple[str, Problem]]:
    """Whose input, and what in it could not be used."""
    of_inputs = [(f"{arm.letter} ({arm.name})", problem) for arm in report.arms for problem in arm.problems]
    return [*of_inputs, *(("log of exposures", problem) for problem in report.off_policy_problems)]


def rows_text(problem: Problem) -> str:
    """The first places of a problem, such as `rows 3, 8, ...`."""
    if not problem.rows:
        return ""
    more = ", ..." if problem.count > len(problem.rows) else ""
    return f"row{'s' if problem.count > 1 else ''} {', '.join(f'{row:,}' for row in problem.rows)}{more}"


def count_text(value: float) -> str:
    """A whole number with its thousands set off; a dash where there is none."""
    return "-" if value != value else f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """A duration with about three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _arms(report: ABReport) -> tuple[list[str], list[list[str]]]:
    names = [f"recall@{k}" for k in report.ks]
    names += [name for name in (f"ndcg@{max(report.ks)}", "mrr", report.metric) if name not in names]
    timed = any(arm.latency for arm in report.arms)
    headings = ["", "arm", *(name.replace("@", "\n@") for name in dict.fromkeys(names)), "difference\nto A", "p"]
    rows = [_arm(report, arm, list(dict.fromkeys(names)), timed=timed) for arm in report.arms]
    return [*headings, *(["p99\nms"] if timed else [])], rows


def _arm(report: ABReport, arm: ArmFigures, names: Sequence[str], *, timed: bool) -> list[str]:
    cells = [arm.letter, f"{arm.name}\n{_short(arm.source)}"]
    for name in names:
        at = arm.metrics[name]
        cells.append(_two_lines(interval_text(at)) if name == report.metric else figure(at.mean))
    found = next((other.metrics[report.metric] for other in report.comparisons if other.letter == arm.letter), None)
    cells += ["", ""] if found is None else [_two_lines(difference_text(found.interval)), p_text(found.adjusted_p)]
    if timed:
        cells.append(milliseconds(arm.latency.p99_ms) if arm.latency else "")
    return cells


def _print_slices(report: ABReport, console: Console) -> None:
    """Groups in which an arm loses, then those in which it wins, whatever the total says."""
    for comparison in report.comparisons:
        found = list(slice_rows(report, comparison))
        if not found:
            continue
        lost, won = ([row for row in found if row.outcome == outcome] for outcome in ("lost", "won"))
        said = f"{arm_label(comparison)} is worse in {len(lost)} and better in {len(won)} of {len(found)} slices"
        if not lost and not won:
            _say(console, ["", said])
            continue
        headings = ["", f"slice, {slice_metric(report)}", "users", "A", comparison.letter, "difference", "p"]
        _print(console, said, headings, [_slice(row) for row in (*lost, *won)])


def _slice(row: SliceRow) -> list[str]:
    return [
        "worse" if row.outcome == "lost" else "better",
        f"{row.about}: {row.group}",
        f"{row.difference.interval.num_users:,}",
        figure(row.of_a.mean),
        figure(row.of_arm.mean),
        difference_text(row.difference.interval),
        p_text(row.difference.adjusted_p),
    ]


def _layers(report: ABReport) -> Iterator[str]:
    for check in report.layers:
        recall = f"{slice_metric(report)} {difference_text(check.recall)}"
        figures = (
            f"{check.letter}, {check.upper} to {check.lower}: {check.same_lists:.1%} of {check.num_users:,} users have "
            f"the same list, {check.found_share:.2%} of items found, {recall}"
        )
        yield f"{_finding(check)}{figures}"


def _finding(check: LayerCheck) -> str:
    if check.finding is None:
        return "layers agree: "
    return f"FINDING{', keeps it from being shipped' if check.blocks else ''}: {check.finding}\n  "


def _problems(report: ABReport) -> Iterator[str]:
    for owner, problem in problems(report):
        where = rows_text(problem)
        times = "once" if problem.count == 1 else f"{problem.count:,} times"
        yield f"  {owner}: {problem.kind}, {times}{f', {where}' if where else ''}"


def _off_policy(report: ABReport) -> tuple[list[str], list[list[str]]]:
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


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _print(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first two columns are words, the others figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for place, heading in enumerate(headings):
        words = place < 2
        # Words give way where the terminal is narrow; a figure that wraps cannot be read.
        table.add_column(Text(heading), justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print()
    console.print(table)
