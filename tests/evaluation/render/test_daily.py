"""The daily report has what was measured, on which users, and how sure it is."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from evaluation.catalogue import Catalogue
from evaluation.comparison import compare_arms
from evaluation.folds import Fold
from evaluation.learning_curves import Curve, curves_of
from evaluation.render.formats import difference_text, figure
from evaluation.render.page import daily_json, daily_page, write_daily
from evaluation.render.table import print_daily
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, Difference, Report, Task
from evaluation.settings import About, Arm, Settings
from evaluation.split import Split
from evaluation.statistics import Interval

# Rows of the users ann, bob and cat; ann finds b and c (new: c), cat finds e, bob has nothing relevant.
GOOD = np.array([[1, 2, 0], [1, 0, 2], [4, -1, -1]], np.int32)
NEW = np.array([[2, 3, -1], [0, 2, 3], [0, 4, 1]], np.int32)
POOR = np.array([[0, 3, 1], [0, 1, 2], [0, 1, 2]], np.int32)


Reports = list[Report]
# Of each epoch: recall@3 where days are held out, and how many items the lists have. Both fits kept the second one.
EPOCHS = {
    phase: [
        {"epoch": number, "loss": 3.0 - number, "metrics": metrics, "is_kept": number == 2}
        for number, metrics in enumerate(found, start=1)
    ]
    for phase, found in {
        "validation": [{"recall_at_3": recall, "distinct_items": 5.0} for recall in (0.1, 0.3, 0.2)],
        "final": [{"distinct_items": 4.0}, {"distinct_items": 6.0}],
    }.items()
}
CATALOGUE = Catalogue(["a", "b", "c", "d", "e"], np.array([0, 0, 1, 1, 1]))


def arm(name: str, ranked: npt.NDArray[np.int32], **of_arm: object) -> Arm:
    return Arm(name, "by hand", [[ranked]], **of_arm)  # type: ignore[arg-type]


def report_of(split: Split, task: Task, arms: list[Arm], *, ks: tuple[int, ...] = (1, 3)) -> Report:
    fold = Fold(split, (), (), np.array([2, 2, 0, 0, 0]), np.array([True, False, False, False, False]))
    settings = Settings(task, ks, f"recall@{max(ks)}", num_samples=100, seed=1)
    about = About("toy", "after-cut")
    return compare_arms([fold], arms, settings=settings, catalogue=CATALOGUE, about=about, reference="poor")


@pytest.fixture
def reports(split: Split) -> Reports:
    poor = arm("poor", POOR, layer="baseline")
    index = arm("<b>$x$ & co", POOR, layer="index", exact="towers")
    everything = report_of(split, ALL_PURCHASES, [poor, arm("towers", GOOD, layer="exact"), index])
    return [everything, report_of(split, NEW_TO_THE_USER, [poor, arm("towers", NEW, layer="exact")])]


def test_figures_by_hand(reports: Reports) -> None:
    everything, new = reports
    poor, towers, index = everything.arms
    assert (everything.num_users, everything.num_relevant) == (2, 3)
    # Towers: ann 1/2 then 2/2, cat 1/1. Poor: ann nothing at 1, b in place 3; cat nothing.
    assert towers.metrics["recall@1"].mean == (1 / 2 + 1) / 2
    assert towers.metrics["recall@3"].mean == 1
    assert poor.metrics["recall@3"].mean == (1 / 2 + 0) / 2
    assert [found.letter for found in everything.comparisons] == ["B", "C"]
    assert everything.comparisons[0].metrics["recall@3"].interval.mean == 1 - 1 / 4
    assert towers.metrics["mrr"].mean == 1
    assert poor.metrics["mrr"].mean == pytest.approx((1 / 3 + 0) / 2)
    assert everything.comparison("A") is None
    assert [towers.lists[f"coverage@{k}"] for k in (1, 3)] == [2 / 5, 4 / 5]
    assert towers.recall_curve == (3 / 4, 1.0, 1.0)
    # Against (1 2 0), (1 0 2), (4): the index has two of three, all three, none.
    assert index.index_recall[3] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (new.num_users, new.num_relevant) == (2, 2)
    assert new.arms[1].metrics["recall@1"].mean == 1 / 2
    assert [arm.name for arm in new.arms] == ["poor", "towers"]


def test_json_holds_all_of_it(reports: Reports) -> None:
    read = json.loads(daily_json(reports, epochs=EPOCHS))
    assert read["cut"] == "2020-01-10T00:00:00+00:00"
    task = read["tasks"][0]
    assert task["window_days"] == 3
    assert task["num_unknown_relevant"] == 2
    assert task["arms"][1]["metrics"]["recall@3"]["mean"] == 1
    assert task["arms"][1]["lists"]["coverage@3"] == 4 / 5
    assert 0 < task["comparisons"][0]["metrics"]["recall@3"]["adjusted_p"] <= 1


def test_json_holds_the_epochs_of_the_fit(reports: Reports) -> None:
    assert json.loads(daily_json(reports, epochs=EPOCHS))["epochs"] == EPOCHS


def test_learning_curves_are_of_the_fits_that_have_the_figure() -> None:
    assert curves_of(EPOCHS, "loss") == [Curve("validation", (2.0, 1.0, 0.0), 2), Curve("final", (2.0, 1.0), 2)]
    assert curves_of(EPOCHS, "recall_at_3") == [Curve("validation", (0.1, 0.3, 0.2), 2)]
    # Nobody met anything new.
    nothing = {"validation": [{"loss": 1.0, "metrics": {"recall_at_3": None}, "is_kept": True}]}
    assert curves_of(nothing, "recall_at_3") == curves_of({}, "loss") == []


def test_html_draws_the_learning_curves(reports: Reports) -> None:
    text = daily_page(reports, epochs=EPOCHS)
    for label in ("loss by epoch", "recall@3 by epoch", "distinct items in the top lists by epoch"):
        assert f'aria-label="{label}"' in text
    assert "Learning curves" not in daily_page(reports, epochs={})


def test_json_has_null_where_there_is_no_figure(split: Split) -> None:
    nothing_new = dataclasses.replace(split, relevant_new=split.relevant_new * False)
    nothing_new.relevant_new.eliminate_zeros()
    reports = [report_of(nothing_new, NEW_TO_THE_USER, [arm("poor", POOR), arm("towers", NEW)], ks=(1,))]
    assert json.loads(daily_json(reports, epochs=EPOCHS))["tasks"][0]["arms"][0]["metrics"]["recall@1"]["mean"] is None
    assert "poor" in daily_page(reports, epochs=EPOCHS)


class Elements(HTMLParser):
    """Collects ids and addresses."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]


def test_html_is_one_file_that_fetches_nothing(reports: Reports) -> None:
    seen = Elements()
    text = daily_page(reports, epochs=EPOCHS)
    seen.feed(text)
    assert all(address.startswith("#") for address in seen.addresses)
    assert {address[1:] for address in seen.addresses} <= set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)


def test_html_names_the_measurement(reports: Reports) -> None:
    text = " ".join(daily_page(reports, epochs=EPOCHS).split())
    for fact in ("2020-01-10", "3 days", "read once", "2 users with something relevant", "Paired difference to poor"):
        assert fact in text
    for layer in ("exact search over all items", "an approximate index", "no model: what it has to beat"):
        assert layer in text
    assert "2 purchases in the window were of 1 items outside the catalogue" in text


def test_html_escapes_names_and_draws_them_as_they_are(reports: Reports) -> None:
    text = daily_page(reports, epochs=EPOCHS)
    assert "<b>$x$" not in text
    assert "&lt;b&gt;$x$ &amp; co" in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 4 + 3
    assert any("<b>$x$ & co" in (part.text or "") for part in ET.fromstring(drawings[0]).iter())


def test_the_same_report_gives_the_same_files(reports: Reports, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_daily(reports, tmp_path / "new" / "first", epochs=EPOCHS)]
    second = [path.read_bytes() for path in write_daily(reports, tmp_path / "second", epochs=EPOCHS)]
    assert first == second
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["report.html", "report.json", "table.txt"]


def test_the_table_shows_arms_and_layers(reports: Reports) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_daily(reports, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "the 3 days after it, read once" in text
    for expected in ("<b>$x$ & co", "baseline", "over poor", "+.7500\n", "[1.0000, 1.0000]"):
        assert expected in text.replace(" \n", "\n")


def test_the_table_of_usual_figures_fits_100_columns(reports: Reports) -> None:
    usual = Interval(-0.1234, -0.2345, -0.1111, 9)
    report = reports[0]
    names = ("recall@10", "recall@50", "recall@100", "ndcg@100", "mrr")
    arm = replace(
        report.arms[1],
        name="popularity, 28 days",
        layer="baseline",
        metrics=dict.fromkeys(names, usual),
        lists={"coverage@100": 1.0},
    )
    found = replace(report.comparisons[0], metrics={"recall@100": Difference(usual, 0.1, 0.1)})
    reference = replace(arm, letter="A", name="EASE")
    wide = replace(report, ks=(10, 50, 100), arms=(reference, arm), comparisons=(found,))
    console = Console(file=io.StringIO(), width=100)
    print_daily([wide], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    for expected in ("popularity, 28 days", "recall", "[-.2345, -.1111]", "100.00%", "over EASE"):
        assert expected in text


def test_figures_have_four_decimals_and_no_leading_zero() -> None:
    assert [figure(value) for value in (0.07856, -0.07856, 1.0, 20.5, float("nan"))] == [
        ".0786",
        "-.0786",
        "1.0000",
        "20.5000",
        "-",
    ]
    assert difference_text(Interval(0.5, -0.25, 0.75, 3)) == "+.5000 [-.2500, +.7500]"


def test_importing_the_report_loads_no_plotting() -> None:
    code = (
        "import sys, evaluation.render.page, evaluation.comparison, evaluation.baselines;"
        "print([name for name in ('matplotlib', 'jinja2', 'rich', 'tensorflow', 'feast') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_table_fits_a_narrow_terminal(reports: Reports, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    print_daily(reports, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "[1.0000, 1.0000]" in text


def test_reports_use_the_word_of_the_data_set(split: Split) -> None:
    arms = [arm("repeat purchase", POOR, layer="baseline"), arm("purchase model", GOOD, layer="exact")]
    fold = Fold(split, (), (), np.array([2, 2, 0, 0, 0]), np.array([True, False, False, False, False]))
    settings = Settings(ALL_PURCHASES, (1, 3), "recall@3", num_samples=100, seed=1)
    about = About("toy", "after-cut", event_name="check-in")
    report = compare_arms([fold], arms, settings=settings, catalogue=CATALOGUE, about=about)
    assert (report.title, report.events) == ("all check-ins", "check-ins")
    # What somebody called an arm stays.
    assert [one.name for one in report.arms] == ["repeat check-in", "purchase model"]
    page = daily_page([report], epochs={})
    assert "All check-ins" in page
    assert "purchase" not in page.replace("purchase model", "").replace("all purchases", "")
