"""The report says what was measured, on whom, and how sure it is."""

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
import pytest
from rich.console import Console

from evaluation.compare import Arm, make_report
from evaluation.html import to_html
from evaluation.report import ALL_PURCHASES, NEW_TO_THE_USER, Report, to_json
from evaluation.split import Split
from evaluation.statistics import Interval
from evaluation.table import difference_text, figure, print_report
from evaluation.write import write_report

# Rows of the users ann, bob and cat; ann finds b and c (new: c), cat finds e, bob has nothing relevant.
GOOD = np.array([[1, 2, 0], [1, 0, 2], [4, -1, -1]], np.int32)
NEW = np.array([[2, 3, -1], [0, 2, 3], [0, 4, 1]], np.int32)
POOR = np.array([[0, 3, 1], [0, 1, 2], [0, 1, 2]], np.int32)


@pytest.fixture
def report(split: Split) -> Report:
    arms = [
        Arm("poor", "baseline", {ALL_PURCHASES: POOR, NEW_TO_THE_USER: POOR}),
        Arm("towers", "exact", {ALL_PURCHASES: GOOD, NEW_TO_THE_USER: NEW}),
        Arm("<b>$x$ & co", "index", {ALL_PURCHASES: POOR}, exact="towers"),
    ]
    return make_report(split, arms, dataset="toy", ks=(1, 3), reference="poor", num_samples=100, seed=1)


def test_figures_by_hand(report: Report) -> None:
    everything, new = report.tasks
    poor, towers, index = everything.arms
    assert (everything.num_users, everything.num_relevant) == (2, 3)
    # Towers: ann 1/2 then 2/2, cat 1/1. Poor: ann nothing at 1, b in place 3; cat nothing.
    assert towers.metrics["recall@1"].mean == (1 / 2 + 1) / 2
    assert towers.metrics["recall@3"].mean == 1
    assert poor.metrics["recall@3"].mean == (1 / 2 + 0) / 2
    assert towers.differences["recall@3"].mean == 1 - 1 / 4
    assert towers.metrics["mrr"].mean == 1
    assert poor.metrics["mrr"].mean == pytest.approx((1 / 3 + 0) / 2)
    assert poor.differences == {}
    assert towers.coverage == {1: 2 / 5, 3: 4 / 5}
    assert towers.recall_curve == (3 / 4, 1.0, 1.0)
    # Against (1 2 0), (1 0 2), (4): the index has two of three, all three, none.
    assert index.index_recall[3] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (new.num_users, new.num_relevant) == (2, 2)
    assert new.arms[1].metrics["recall@1"].mean == 1 / 2
    assert [arm.name for arm in new.arms] == ["poor", "towers"]


def test_json_holds_all_of_it(report: Report) -> None:
    read = json.loads(to_json(report))
    assert read["cut"] == "2020-01-10T00:00:00+00:00"
    assert read["window_days"] == 3
    assert read["num_unknown_window_pairs"] == 2
    assert read["tasks"][0]["arms"][1]["metrics"]["recall@3"]["mean"] == 1
    assert read["tasks"][0]["arms"][1]["coverage"]["3"] == 4 / 5


def test_json_has_null_where_there_is_no_figure(split: Split) -> None:
    nobody = dataclasses.replace(split, relevant_new=split.relevant_new * False)
    nobody.relevant_new.eliminate_zeros()
    arms = [Arm("poor", "baseline", {NEW_TO_THE_USER: POOR})]
    report = make_report(nobody, arms, dataset="toy", ks=(1,), reference="poor", num_samples=100, seed=1)
    assert json.loads(to_json(report))["tasks"][0]["arms"][0]["metrics"]["recall@1"]["mean"] is None
    assert "poor" in to_html(report)


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


def test_html_is_one_file_that_fetches_nothing(report: Report) -> None:
    seen = Elements()
    text = to_html(report)
    seen.feed(text)
    assert all(address.startswith("#") for address in seen.addresses)
    assert {address[1:] for address in seen.addresses} <= set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)


def test_html_says_what_was_measured(report: Report) -> None:
    text = " ".join(to_html(report).split())
    for fact in ("2020-01-10", "3 days", "read once", "2 users with something relevant", "Paired difference to poor"):
        assert fact in text
    for layer in ("exact search over all items", "an approximate index", "no model: what it has to beat"):
        assert layer in text
    assert "2 purchases in the window were of 1 items outside the catalogue" in text


def test_html_escapes_names_and_draws_them_as_they_are(report: Report) -> None:
    text = to_html(report)
    assert "<b>$x$" not in text
    assert "&lt;b&gt;$x$ &amp; co" in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 4
    assert any("<b>$x$ & co" in (part.text or "") for part in ET.fromstring(drawings[0]).iter())


def test_the_same_report_gives_the_same_files(report: Report, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(report, tmp_path / "new" / "first")]
    second = [path.read_bytes() for path in write_report(report, tmp_path / "second")]
    assert first == second
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["report.html", "report.json"]


def test_the_table_shows_arms_and_layers(report: Report) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "the 3 days after it, read once" in text
    for expected in ("<b>$x$ & co", "baseline", "over poor", "+.7500\n", "[1.0000, 1.0000]"):
        assert expected in text.replace(" \n", "\n")


def test_the_table_of_usual_figures_fits_100_columns(report: Report) -> None:
    usual = Interval(-0.1234, -0.2345, -0.1111, 9)
    arm = replace(
        report.tasks[0].arms[1],
        name="popularity, 28 days",
        layer="baseline",
        metrics={name: usual for name in ("recall@10", "recall@50", "recall@100", "ndcg@100", "mrr")},
        differences={"recall@100": usual},
        coverage={100: 1.0},
    )
    task = replace(report.tasks[0], arms=(arm,), reference="EASE")
    console = Console(file=io.StringIO(), width=100)
    print_report(replace(report, ks=(10, 50, 100), tasks=(task,)), console)
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


def test_faulty_arms_are_refused(split: Split) -> None:
    arm = Arm("poor", "baseline", {ALL_PURCHASES: POOR})

    def report_of(*arms: Arm, ks: tuple[int, ...] = (1,), reference: str = "poor") -> None:
        make_report(split, arms, dataset="toy", ks=ks, reference=reference, num_samples=10, seed=1)

    with pytest.raises(ValueError, match="ks is empty"):
        report_of(arm, ks=())
    with pytest.raises(ValueError, match=r"\['poor', 'poor'\]; give each arm a name of its own"):
        report_of(arm, arm)
    with pytest.raises(ValueError, match=r"no arm is called 'rich'; the arms are \['poor'\]"):
        report_of(arm, reference="rich")
    with pytest.raises(ValueError, match=r"arm 'poor' has lists for \[\], expected one or both of \['all purchases'"):
        report_of(dataclasses.replace(arm, ranked={}))
    with pytest.raises(ValueError, match=r"has lists for \['new'\]"):
        report_of(dataclasses.replace(arm, ranked={"new": POOR}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="no arm is called 'gone'"):
        report_of(dataclasses.replace(arm, exact="gone"))
    with pytest.raises(ValueError, match="k is 4 and the lists have 3 places"):
        report_of(arm, ks=(4,))


def test_importing_the_report_loads_no_plotting() -> None:
    code = (
        "import sys, evaluation.write, evaluation.table, evaluation.compare, evaluation.baselines;"
        "print([name for name in ('matplotlib', 'jinja2', 'rich', 'tensorflow', 'feast') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
