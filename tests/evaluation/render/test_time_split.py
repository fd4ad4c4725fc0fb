"""The summary of a time-split benchmark has a row for each data set, task and group of settings."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from evaluation.render.time_split import Benchmark, Measured, Outcome, print_summary, summary, to_markdown
from evaluation.report import Report
from evaluation.statistics import Interval

OUTCOME = Outcome(
    dataset="shop",
    task="new to the user",
    settings="defaults",
    num_users=1234,
    metric="recall@100",
    learned=Interval(0.19, 0.18, 0.20, 1234),
    served=Interval(0.25, 0.24, 0.26, 1234),
    ease=Interval(0.26, 0.25, 0.27, 1234),
    best_name="ALS",
    best=Interval(0.27, 0.26, 0.28, 1234),
    learned_over_ease=Interval(-0.07, -0.08, -0.06, 1234),
    served_over_best=Interval(-0.02, -0.03, 0.01, 1234),
    oracle=0.5,
)
TUNED = replace(OUTCOME, settings="tuned", oracle=None)


def test_the_summary_by_hand() -> None:
    _, rows = summary(Benchmark("", (Measured("shop", (), (OUTCOME, TUNED)),)))
    # .25 of .5 is half of what the oracle finds.
    assert rows[0] == [
        "shop", "new to the user", "1,234", ".1900", "-.0700\n[-.0800, -.0600]", ".2600", ".2500", ".2700\nALS",
        "-.0200\n[-.0300, +.0100]", "50.0%",
    ]  # fmt: skip
    assert rows[1] == ["shop, tuned", *rows[0][1:-1], ""]


def test_the_page_has_the_command_the_summary_each_report_and_what_failed(full_report: Report) -> None:
    found = Benchmark(
        "twinspire benchmark time", (Measured("shop", (full_report,), (OUTCOME,)),), {"mall": "no such file"}
    )
    text = to_markdown(found)
    assert text.startswith("    twinspire benchmark time\n\nSummary, recall@100:\n\n| data set | task |")
    assert "| shop | new to the user | 1,234 | .1900 | -.0700 [-.0800, -.0600] |" in text
    assert "- mall: no such file\n" in text
    assert "### shop\n" in text
    for arm in full_report.arms:
        assert f"\n| {arm.name} |" in text


def test_a_narrow_terminal_keeps_the_two_differences() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(Benchmark("", (Measured("shop", (), (OUTCOME, TUNED)),)), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "shop, tuned" in line and "-.0700" in line and "-.0200" in line]
