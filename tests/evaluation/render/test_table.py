"""On a terminal a comparison begins with who wins and how sure that is, and hides nothing that speaks against it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from evaluation.render.formats import count_text, milliseconds, p_text
from evaluation.render.headline import headline, other_lines, outcome, winner
from evaluation.render.table import print_comparison
from evaluation.report import Comparison, Difference, Report
from evaluation.statistics import Interval

Make = Callable[..., Comparison]
MakeReport = Callable[..., Report]

WINS, OPEN, WORSE, WORST = (
    (0.0015, 0.0002, 0.0030),
    (0.0002, -0.0010, 0.0014),
    (-0.0104, -0.012, -0.008),
    (-0.03, -0.04, -0.02),
)


def printed(report: Report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_headline_names_the_winner_the_difference_and_the_interval(against_a: Make, report_of: MakeReport) -> None:
    report = report_of(against_a("B", "EASE", WINS, "ship", p=0.012))
    # .0804 + .0015 = .0819
    assert headline(report) == (
        "B (EASE) wins: recall@100 .0819 against .0804 of A, +.0015 [+.0002, +.0030], p .012; ship"
    )
    assert winner(report) == "B"
    assert printed(report).startswith(headline(report) + "\n")


def test_there_is_no_winner_where_the_users_are_too_few(against_a: Make, report_of: MakeReport) -> None:
    undecided = against_a("B", "EASE", OPEN, "undecided", p=0.71)
    report = report_of(undecided)
    begin = "no winner: in recall@100 B (EASE) is +.0002 [-.0010, +.0014] from A, p .71; undecided"
    assert headline(report) == f"{begin}, smallest difference these 2,300 users would show is .0018"
    assert winner(report) is None
    assert headline(report_of(replace(undecided, smallest_detectable=math.nan))) == begin
    same = replace(undecided, smallest_detectable=0.0)
    assert headline(report_of(same)) == f"{begin}, all 2,300 users have the same from both"


def test_there_is_no_winner_without_users(against_a: Make, report_of: MakeReport) -> None:
    empty = against_a("B", "EASE", (math.nan, math.nan, math.nan), "undecided", p=math.nan)
    nothing = Difference(Interval(math.nan, math.nan, math.nan, 0), math.nan, math.nan)
    report = report_of(replace(empty, metrics=dict.fromkeys(empty.metrics, nothing)))
    assert headline(report) == ("no winner: no user has a figure of recall@100 for both A and B (EASE); undecided")
    assert headline(report_of()) == "no winner: A (towers) is the only arm"
    assert winner(report_of()) is None


def test_a_stays_where_others_are_worse_or_must_not_ship(against_a: Make, report_of: MakeReport) -> None:
    worse = against_a("B", "EASE", WORSE, "do not ship", p=0.0003)
    worst = against_a("C", "popularity", WORST, "do not ship", p=0.00005)
    figures = "recall@100 .0700 against .0804 of A, -.0104 [-.0120, -.0080], p .0003; do not ship"
    assert headline(report_of(worse)) == f"A stays: B (EASE) is worse, {figures}"
    both = report_of(worst, worse)
    assert headline(both) == f"A stays: every other arm is worse; B (EASE), the nearest, has {figures}"
    assert other_lines(both) == ["C (popularity): -.0300 [-.0400, -.0200] from A, p <.0001; do not ship"]
    assert winner(both) == "A"
    blocked = against_a("B", "EASE", WINS, "do not ship", p=0.012, reasons=("the server answers otherwise",))
    assert headline(report_of(blocked, worst)) == (
        "A stays: B (EASE) has recall@100 .0819 against .0804 of A, +.0015 [+.0002, +.0030], p .012, but the server "
        "answers otherwise; do not ship"
    )


def test_an_arm_within_the_margin_is_not_called_a_winner(against_a: Make, report_of: MakeReport) -> None:
    report = report_of(against_a("B", "EASE", OPEN, "ship", p=0.71), margin=0.02)
    assert headline(report) == (
        "B (EASE) may replace A: recall@100 .0806 against .0804 of A, +.0002 [-.0010, +.0014], p .71, worse by no "
        "more than the margin of 2.0%; ship"
    )
    assert winner(report) == "B"


def test_of_several_the_best_that_may_ship_comes_first(against_a: Make, report_of: MakeReport) -> None:
    report = report_of(
        against_a("B", "EASE", WINS, "ship", p=0.012),
        against_a("C", "large", (0.02, 0.01, 0.03), "do not ship", p=0.01),
        against_a("D", "larger", (0.01, 0.005, 0.015), "ship", p=0.01),
        against_a("E", "unsure", (0.03, -0.01, 0.06), "undecided", p=0.2),
    )
    assert headline(report).startswith("D (larger) wins: ")
    assert [line.partition(":")[0] for line in other_lines(report)] == ["B (EASE)", "C (large)", "E (unsure)"]
    assert printed(report).splitlines()[1] == "B (EASE): +.0015 [+.0002, +.0030] from A, p .012; ship"


def test_slices_that_are_lost_are_shown_though_the_total_wins(full_report: Report) -> None:
    text = printed(full_report)
    assert text.startswith("B (EASE) wins")
    assert "B (EASE) is worse in 1 and better in 1 of 4 slices" in text
    (lost,) = (line for line in text.splitlines() if line.startswith("worse"))
    (won,) = (line for line in text.splitlines() if line.startswith("better"))
    for expected in ("history length: 0", " 120 ", "-.0500 [-.0700, -.0300]", ".004"):
        assert expected in lost
    for expected in ("popularity: tail", " 280 ", "+.0200 [+.0075, +.0325]", ".006"):
        assert expected in won
    assert "C (<b>$x$ & co) is worse in 0 and better in 0 of 4 slices" in text


def test_an_empty_slice_is_not_counted(full_report: Report) -> None:
    slices = {about: dict(groups) for about, groups in full_report.arms[0].slices.items()}
    slices["popularity"]["head"] = Interval(math.nan, math.nan, math.nan, 0)
    arms = (replace(full_report.arms[0], slices=slices), *full_report.arms[1:])
    assert "C (<b>$x$ & co) is worse in 0 and better in 0 of 3 slices" in printed(replace(full_report, arms=arms))


def test_the_table_names_every_caveat(full_report: Report) -> None:
    text = " ".join(printed(full_report).split())
    for expected in (
        "shop: after-cut, the 7 days from 2020-01-10 on; new to the user; 2,300 users with 5,012 relevant items",
        "layers agree: A, exact to index: 75.0% of 2,300 users have the same list, 99.90% of items found",
        "FINDING, keeps it from being shipped: 5 users get other lists B, index to server: 90.0% of 50 users",
        "B (EASE): unknown item, 1,200 times, rows 3, 8, ...",
        "B (EASE): user twice, once, row 2,001",
        "log of exposures: propensity above 1, 2 times, rows 5, 9",
        "B SNIPS .0500 [.0400, .0625] 810 12.5% 20,000",
        "note: The lists of B were read from a file.",
    ):
        assert expected in text


def test_several_cuts_and_none_are_reported(against_a: Make, report_of: MakeReport) -> None:
    open_ = against_a("B", "EASE", OPEN, "undecided", p=0.71)
    rolling = report_of(open_, protocol="rolling", cuts=("2020-01-10", "2020-02-10"), window_days=1)
    assert "shop: rolling, the day from each of 2020-01-10, 2020-02-10 on; new" in printed(rolling)
    assert "shop: leave-last-out; new to the user" in printed(report_of(open_, protocol="leave-last-out", cuts=()))


def test_the_tables_fit_100_columns(full_report: Report) -> None:
    text = printed(full_report)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for expected in ("[.0779, .0859]", "[+.0002, +.0030]", "<.0001", "31.0", "bundle 2020…"):
        assert expected in text


def test_another_metric_than_recall_may_decide(against_a: Make, report_of: MakeReport) -> None:
    text = printed(report_of(against_a("B", "EASE", WINS, "ship", p=0.012), metric="mrr"))
    # A quarter of .0804, and of .0819.
    assert text.startswith("B (EASE) wins: mrr .0205 against .0201 of A")
    assert "[.0191, .0211]" in text


@pytest.mark.parametrize(
    ("name", "low", "high", "p", "expected"),
    [
        ("recall@10", 0.1, 0.2, 0.01, "won"),
        ("recall@10", -0.2, -0.1, 0.01, "lost"),
        ("recall@10", -0.1, 0.2, 0.01, "open"),
        ("recall@10", 0.1, 0.2, 0.05, "open"),
        ("recall@10", 0.1, 0.2, math.nan, "open"),
        ("head_share@10", 0.1, 0.2, 0.01, "open"),
    ],
)
def test_won_and_lost_take_interval_and_test(name: str, low: float, high: float, p: float, expected: str) -> None:
    assert outcome(name, Difference(Interval(0.0, low, high, 9), p, p), alpha=0.05) == expected


def test_p_values_durations_and_counts_have_few_digits() -> None:
    assert [count_text(value) for value in (12345, 810.4, math.nan)] == ["12,345", "810", "-"]
    assert [p_text(p) for p in (0.0124, 0.71, 1.0, 0.0001, 0.00009, math.nan)] == [
        ".012",
        ".71",
        "1",
        ".0001",
        "<.0001",
        "-",
    ]
    assert [milliseconds(value) for value in (0.123, 31.04, 1234.5)] == ["0.12", "31.0", "1,234"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_gets_whole_figures_and_the_names_of_what_is_left_out(
    full_report: Report, width: int
) -> None:
    text = printed(full_report, width)
    table = text[text.index("arms, and their differences") : text.index("(left out at")]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= width
    for whole in ("[.0779, .0859]", "[+.0002, +.0030]"):
        assert whole in table
    assert f"(left out at {width} columns: " in text
