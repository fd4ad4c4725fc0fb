"""The page and the files of a comparison hold all of it, fetch nothing, and can be read by programs."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.render.headline import headline, verdict_document
from evaluation.render.page import comparison_page, write_comparison
from evaluation.report import Comparison, Difference, Report, to_json
from evaluation.statistics import Interval

Make = Callable[..., Comparison]
MakeReport = Callable[..., Report]
WINS = (0.0015, 0.0002, 0.0030)
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


class Elements(HTMLParser):
    """Collects ids, addresses and what drawings are called."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]
        if tag == "figure":
            self.labels.append(dict(attrs).get("aria-label"))


def words(text: str) -> str:
    """The page without its elements, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_the_page_is_one_file_that_fetches_nothing(full_report: Report) -> None:
    seen, text = Elements(), comparison_page(full_report)
    seen.feed(text)
    assert all(address.startswith("#") for address in seen.addresses)
    assert {address[1:] for address in seen.addresses} <= set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    # Of the deciding metric, all metrics, curves, latency and two partitions.
    assert len(seen.labels) == 6
    assert all(seen.labels)


def test_the_page_begins_with_the_verdict(full_report: Report) -> None:
    text = comparison_page(full_report)
    shown = words(text)
    assert shown.index("ship B (EASE) wins: recall@100") < shown.index("protocol")
    assert '<span class="badge good">ship</span>' in text
    assert '<span class="badge bad">do not ship</span>' in text


def test_the_page_has_all_findings(full_report: Report) -> None:
    text = words(comparison_page(full_report))
    for expected in (
        "31 purchases in the window were of 12 items outside the catalogue",
        "worse B (EASE) is significantly worse than A in history length: 0.",
        "▼ -.0500 [-.0700, -.0300] .004",
        "▲ +.0200 [+.0075, +.0325] .006",
        "keeps it from shipping 5 users get other lists",
        "62.5% .5000 .0018 2.2% 5,200 12,000",  # .0018 / .0804 = 2.2%
        "ann 2 .5000 1.0000 25% green tea rice",
        "SNIPS .0500 .0400 to .0625 810 12.5% 20,000",
        "unknown item 1,200 rows 3, 8, ...",
        "log of exposures propensity above 1 2 rows 5, 9",
        "The lists of B were read from a file.",
        "200 users, HTTP",
        "corrected by Holm's method",
        "novelty@k how seldom the listed items are bought",
        "index an approximate index over the same vectors",
        "effective sample",
    ):
        assert expected in text
    assert "precision@k" not in text


def test_descriptive_figures_have_no_colour(full_report: Report) -> None:
    rows = dict(re.findall(r"<th>([\w@]+)</th>(.*?)</tr>", comparison_page(full_report), flags=re.DOTALL))
    assert 'class="good"' in rows["recall@100"]
    assert 'class="bad"' in rows["recall@100"]
    assert 'class="good"' not in rows["novelty@100"]
    assert 'class="bad"' not in rows["novelty@100"]


def test_names_are_escaped_and_drawn_as_they_are(full_report: Report) -> None:
    text = comparison_page(full_report)
    assert "<b>$x$" not in text
    assert "&lt;b&gt;$x$ &amp; co" in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert any("<b>$x$ & co" in (part.text or "") for part in ET.fromstring(drawings[0]).iter())


def test_a_comparison_without_optional_parts_makes_a_page(against_a: Make, report_of: MakeReport) -> None:
    report = report_of(against_a("B", "EASE", WINS, "ship", p=0.012), protocol="given", cuts=())
    text = words(comparison_page(report))
    for absent in ("Layers", "By what was logged", "Input that could not be used", "window from the cut on"):
        assert absent not in text
    assert "B (EASE) is significantly worse than A in no slice." in text


def test_a_comparison_without_users_makes_all_files(against_a: Make, report_of: MakeReport, tmp_path: Path) -> None:
    empty = against_a("B", "EASE", (math.nan,) * 3, "undecided", p=math.nan)
    empty = replace(
        empty,
        metrics=dict.fromkeys(empty.metrics, Difference(NOTHING, math.nan, math.nan)),
        overlap=math.nan,
        smallest_detectable=math.nan,
        users_needed=None,
        users_for_one_percent=None,
    )
    report = report_of(empty)
    arms = tuple(replace(arm, metrics=dict.fromkeys(arm.metrics, NOTHING)) for arm in report.arms)
    json_path, _ = write_comparison(replace(report, arms=arms), tmp_path)
    assert json.loads(json_path.read_text())["arms"][0]["metrics"]["mrr"]["mean"] is None
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert (verdict["decision"], verdict["winner"]) == ("undecided", None)
    assert verdict["challengers"][0]["difference"] is None
    assert verdict["challengers"][0]["adjusted_p"] is None


def test_the_verdict_is_machine_readable(full_report: Report) -> None:
    document = verdict_document(full_report)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["headline"] == headline(full_report)
    assert [document[key] for key in ("decision", "challenger", "winner", "metric")] == ["ship", "B", "B", "recall@100"]
    first, second = document["challengers"]
    assert first == {
        "letter": "B",
        "name": "EASE",
        "reference": "A",
        "decision": "ship",
        "reasons": ["a reason"],
        "metric": "recall@100",
        "difference": 0.0015,
        "low": 0.0002,
        "high": 0.0030,
        "num_users": 2300,
        "p_value": 0.006,
        "adjusted_p": 0.012,
        "smallest_detectable": 0.0018,
        "users_needed": 5200,
        "lost_slices": ["history length: 0"],
        "findings": ["5 users get other lists"],
    }
    assert (second["decision"], second["findings"]) == ("do not ship", [])


def test_the_same_comparison_gives_the_same_files(full_report: Report, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_comparison(full_report, tmp_path / "new" / "first")]
    second = [path.read_bytes() for path in write_comparison(full_report, tmp_path / "second")]
    assert first == second
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["ab.html", "ab.json", "verdict.json"]
    assert first[0].decode() == to_json(full_report)
    assert json.loads(first[0])["comparisons"][0]["lost_slices"] == ["history length: 0"]


def test_importing_loads_no_plotting() -> None:
    code = (
        "import sys, evaluation.render.page, evaluation.render.table;"
        "print([name for name in ('matplotlib', 'jinja2', 'rich', 'tensorflow', 'feast') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_browser_shows_the_page_without_a_network(full_report: Report, tmp_path: Path) -> None:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    page = tmp_path / "ab.html"
    page.write_text(comparison_page(full_report), encoding="utf-8")
    command = [binary, "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command += [
        "--disable-component-update",
        "--disable-sync",
        "--no-sandbox",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    # No name can be looked up.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert headline(full_report) in html.unescape(words(shown.stdout))
    assert shown.stdout.count("<svg") == comparison_page(full_report).count("<svg")
    # Errors of its script or its markup are in the console, which goes to standard error.
    assert "CONSOLE" not in shown.stderr
