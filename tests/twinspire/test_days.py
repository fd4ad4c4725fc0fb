"""Days that cannot be: refused before anything is computed. And what a night's record says after a second call."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import training.lineage
import twinspire.main_job
import twinspire.nightly
from artefacts.config import ConfigError, pick
from artefacts.locks import holder_of
from artefacts.paths import RunPaths
from artefacts.steps import Step
from evaluation.gates.report import GateError
from features.config import FeaturesSections, IngestSections
from features.steps import make_tables
from features.tables import event_days
from tests import forking
from twinspire.cli import app
from twinspire.load_config import load

CONFIG = """
name: stall
as_of: 2024-01-05
ingest: {source: {kind: tables, events: {path: EVENTS}}}
features: {example_days: 2}
training: {example_days: 2, validation_days: 0}
"""
NOW = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def stall(tmp_path: Path) -> Path:
    """A configuration with events of 2024-01-01 to 2024-01-04."""
    rows = "".join(f"u,i,2024-01-0{day}\n" for day in range(1, 5))
    (tmp_path / "ev.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    config = tmp_path / "stall.yaml"
    config.write_text(CONFIG.replace("EVENTS", str(tmp_path / "ev.csv")))
    return config


def ask(config: Path, *arguments: str, now: str = "2024-03-01") -> Any:
    flags = ["--config", str(config), "--runs", str(config.parent / "runs"), "--now", now]
    return CliRunner().invoke(app, [*arguments, *flags])


@pytest.mark.parametrize(
    "arguments",
    [
        ["daily", "--date", "2030-01-01"],
        ["backfill", "--from", "2024-01-05", "--to", "2030-01-01"],
        ["run", "--as-of", "2030-01-01"],
        ["run", "--set", "as_of=2030-01-01"],
        ["features", "--as-of", "2030-01-01"],
    ],
)
def test_a_day_after_the_moment_of_the_run_is_refused_at_once(stall: Path, arguments: list[str]) -> None:
    found = ask(stall, *arguments)
    assert found.exit_code == 2
    assert "the day is 2030-01-01, and the moment of the run 2024-03-01 00:00 UTC" in found.stderr
    assert not (stall.parent / "runs").exists()


@pytest.mark.parametrize(
    ("as_of", "first"), [("2023-06-01", "2023-05-30"), ("2024-02-20", "2024-02-18"), ("2024-01-01", "2023-12-30")]
)
def test_a_cut_without_events_before_it_is_refused_with_the_days_of_both(stall: Path, as_of: str, first: str) -> None:
    config = load(stall, [f"as_of={as_of}"])
    paths = RunPaths(stall.parent / "runs" / "stall", config.as_of)
    assert ask(stall, "ingest", "--as-of", as_of).exit_code == 0
    said = (
        rf"as_of is {as_of} and features.example_days 2: no event lies from {first} up to {as_of}, and the events are "
        "of 2024-01-01 to 2024-01-04"
    )
    with pytest.raises(ConfigError, match=said):
        pick(FeaturesSections, config).check_days(event_days(paths.tables))
    found = ask(stall, "features", "--as-of", as_of)
    assert found.exit_code == 2
    assert not (paths.root / "features").exists()


@pytest.mark.parametrize("as_of", ["2024-01-02", "2024-01-05", "2024-01-06"])
def test_a_cut_behind_events_passes(stall: Path, as_of: str) -> None:
    config = load(stall, [f"as_of={as_of}"])
    paths = RunPaths(stall.parent / "runs" / "stall", config.as_of)
    make_tables(pick(IngestSections, config), paths, now=NOW)
    pick(FeaturesSections, config).check_days(event_days(paths.tables))


@pytest.mark.parametrize("outcome", ["published", "refused"])
def test_a_call_that_changes_nothing_leaves_the_record_of_the_night(
    stall: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    paths = RunPaths(stall.parent / "runs" / "stall", dt.date(2024, 1, 5))
    plan = SimpleNamespace(why="full retrain", changes=[], parent=None, is_warm_start=False)
    monkeypatch.setattr(training.lineage, "night_of", lambda *_, **__: plan)
    report: Any = SimpleNamespace()

    def refuse() -> str:
        raise GateError(report)

    def no_step() -> str:
        return "done"

    steps = [Step("ingest", "1", (), no_step, paths.steps, lambda: True)]
    if outcome == "refused":
        steps.append(Step("gates", "1", (), refuse, paths.steps, lambda: True))
    monkeypatch.setattr(GateError, "__init__", lambda self, _: ValueError.__init__(self, "refused"))
    monkeypatch.setattr(twinspire.nightly, "_show", lambda error: None)
    monkeypatch.setattr(twinspire.main_job, "plan", lambda *_, **__: steps)
    code = 0 if outcome == "published" else 3
    assert ask(stall, "daily", "--date", "2024-01-05").exit_code == code
    first = json.loads(paths.night.read_text())
    assert (first["outcome"], first["run_at"]) == (outcome, "2024-03-01T00:00:00+00:00")
    assert ask(stall, "daily", "--date", "2024-01-05", now="2024-03-02").exit_code == code
    assert json.loads(paths.night.read_text()) == first
    steps[0] = replace(steps[0], digest="2")
    assert ask(stall, "daily", "--date", "2024-01-05", now="2024-03-03").exit_code == code
    assert json.loads(paths.night.read_text())["run_at"] == "2024-03-03T00:00:00+00:00"


def test_a_night_that_is_stopped_by_a_signal_is_unfinished_and_has_an_exit_code_of_its_own(stall: Path) -> None:
    code = """
import os, signal, artefacts.steps
artefacts.steps.run_step = lambda step: os.kill(os.getpid(), signal.SIGTERM)
from twinspire.cli import main
main()
"""
    flags = ["--config", str(stall), "--runs", str(stall.parent / "runs"), "--now", "2024-03-01"]
    command = [sys.executable, "-c", code, "daily", "--date", "2024-01-05", *flags]
    ran = forking.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 143
    assert ran.stderr.endswith(
        "error: stopped by SIGTERM in step 'ingest'; what is finished is kept, and the same command does the rest\n"
    )
    night = stall.parent / "runs" / "stall" / "nights" / "2024-01-05.json"
    assert json.loads(night.read_text())["outcome"] == "unfinished"
    assert '"night is stopped by a signal"' in night.with_suffix(".log").read_text()
    assert holder_of(night.parents[1]) is None


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_table_of_nights_fits_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    steps = [{"name": "features", "done_now": True, "seconds": 12345.0, "peak_memory_bytes": 12_345_000_000}]
    recall = {"k": 100, "next_day": 0.0849, "num_users": 12_345}
    night = {
        "day": "2024-01-05", "outcome": "unfinished", "bundle": "2024-01-05-0a1b2c3d", "is_warm_start": True,
        "parent": "2024-01-04", "seconds": 12345.0, "recall": recall, "steps": steps,
    }  # fmt: skip
    twinspire.nightly.print_status({"served": None, "last_day_with_events": None, "at_work": None, "nights": [night]})
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("") :]
    assert max(len(line.rstrip()) for line in table if "left out" not in line) <= width
    text = "\n".join(table)
    assert "2024-01-05" in text
    assert "unfinished" in text
    assert "@100 0.0849" in text
    assert ("2024-01-05-0a1b2c3d" in text) == (width == 120)
    assert ("left out at" in text) == (width < 120)
