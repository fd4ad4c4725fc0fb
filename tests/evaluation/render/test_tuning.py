"""The page and the table of a study have every trial, what came of them, and the importance of each key."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from artefacts.paths import RunPaths
from evaluation.render.tuning import conclusion, print_tuning, trial_rows, tuning_page, write_tuning
from evaluation.statistics import Interval
from evaluation.tuning import Trial, Tuning, read_tuning

RATE, UNITS = "training.learning_rate", "towers.hidden_units"
TUNING = Tuning(
    dataset="<b>shop</b>",
    as_of="2024-06-01",
    validation_days=7,
    metric="recall@20",
    study="abcd",
    trials=(
        Trial(0, {RATE: 0.003, UNITS: []}, (0.1, 0.2, 0.15), "finished", 3.4),
        Trial(1, {RATE: 0.02, UNITS: [64]}, (0.1, 0.05), "pruned", 2.0),
        Trial(2, {RATE: 0.001, UNITS: [64]}, (0.2, 0.25), "finished", 2.0),
        Trial(3, {RATE: 0.03, UNITS: []}, (), "diverged", 1.0),
    ),
    best=2,
    difference=Interval(0.05, 0.01, 0.09, 1234),
    level=0.9833,
    importance={UNITS: 0.75, RATE: 0.25},
)


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, dt.date(2024, 6, 1))
    assert read_tuning(paths) is None
    paths.tune.mkdir(parents=True)
    page = write_tuning(TUNING, paths.tune)
    assert read_tuning(paths) == TUNING
    assert page.read_text() == tuning_page(TUNING)
    assert json.loads((paths.tune / "tune.json").read_text())["importance"] == {UNITS: 0.75, RATE: 0.25}


def test_the_table_has_finished_trials_first_and_the_most_important_key_first() -> None:
    headings, rows = trial_rows(TUNING)
    assert headings == ["trial", "recall@20", "epoch", "seconds", "hidden\nunits", "learning\nrate"]
    assert rows == [
        ["2", ".2500", "2 of 2", "2", "[64]", "0.001"],
        ["0, own values", ".2000", "2 of 3", "3", "[]", "0.003"],
        ["1, pruned", ".1000", "1 of 2", "2", "[64]", "0.02"],
        ["3, diverged", "-", "", "1", "[]", "0.03"],
    ]
    out = io.StringIO()
    print_tuning(TUNING, Console(file=out, width=80))
    assert ["2", ".2500", "2", "of", "2", "2", "[64]", "0.001"] in [
        line.split() for line in out.getvalue().splitlines()
    ]
    assert "importance: towers.hidden_units 75%, training.learning_rate 25%" in out.getvalue()


def test_the_page_has_names_escaped_every_trial_and_both_plots() -> None:
    page = tuning_page(TUNING)
    assert "&lt;b&gt;shop" in page
    assert "<b>shop" not in page
    assert "Trial 2 is better: recall@20 of new items on the 7 days before 2024-06-01 is .2000" in page
    assert all(f"<th>{name}</th>" in page for name in ("2", "0, own values", "1, pruned", "3, diverged"))
    assert page.count("<svg") == 2
    assert tuning_page(replace(TUNING, importance={})).count("<svg") == 1
    assert page == tuning_page(TUNING)


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        (
            TUNING,
            "and .2500 with those of trial 2, the best of 4; difference +.0500 [+.0100, +.0900], 1,234 users",
        ),
        (
            replace(TUNING, difference=Interval(0.05, -0.01, 0.09, 1234)),
            "the configuration's own values stay: recall@20 of new items on the 7 days before 2024-06-01 is .2000",
        ),
        (replace(TUNING, difference=Interval(0.05, -0.01, 0.09, 1234)), "98.33% interval: no more than noise"),
        (replace(TUNING, best=0), "with the configuration's own values, and no other trial has more"),
    ],
)
def test_what_came_of_the_trials_is_said_plainly(tuning: Tuning, expected: str) -> None:
    assert expected in conclusion(tuning)
