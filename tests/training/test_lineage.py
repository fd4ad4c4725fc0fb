"""What makes a night a warm start or a full retrain, by what the earlier fit read of the configuration."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from artefacts.config import as_read, pick
from artefacts.paths import RunPaths
from training.config import TrainSections, WarmStartSections
from training.lineage import LINEAGE_FILE, SECTIONS_FILE, WarmStartPlan, night_of, read_lineage
from twinspire.load_config import load

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
DAY, VERSION = dt.date(2024, 5, 31), "2024-05-31-00000000"
NEXT = DAY + dt.timedelta(days=1)


def kept(root: Path, *overrides: str, full_fit: dt.date = DAY, **lineage: Any) -> RunPaths:
    """The folder of a fit that is served, made with a configuration."""
    paths = RunPaths(root, DAY)
    paths.model.mkdir(parents=True)
    sections = pick(TrainSections, load(TABLES, list(overrides)))
    (paths.model / SECTIONS_FILE).write_text(json.dumps(as_read(sections)))
    given = lineage or {"is_warm_start": False}
    (paths.model / LINEAGE_FILE).write_text(json.dumps({"parent": None, "full_fit": str(full_fit), **given}))
    paths.bundle_name.parent.mkdir(parents=True)
    paths.bundle_name.write_text(VERSION)
    return paths


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of the next night with some overrides."""
    monkeypatch.setattr("training.lineage._served_before", lambda paths: VERSION)

    def planned(*overrides: str, full: bool = False) -> WarmStartPlan:
        sections = pick(WarmStartSections, load(TABLES, list(overrides)))
        return night_of(sections, RunPaths(tmp_path, NEXT), full=full)

    return planned


def test_a_fit_of_the_same_configuration_is_started_from(plan: Any, tmp_path: Path) -> None:
    kept(tmp_path)
    assert plan() == WarmStartPlan(DAY, True, f"warm start from {DAY}", VERSION)
    assert plan(full=True) == WarmStartPlan(DAY, False, "full retrain: asked for", VERSION)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("towers.embedding_dim=9", "towers"),
        ("training.epochs=9", "training"),
        ("sparcode={}", "sparcode"),
        ("dataset.value_meaning=points", "dataset"),
    ],
)
def test_a_changed_section_that_a_state_depends_on_asks_for_a_full_retrain(
    plan: Any, tmp_path: Path, override: str, changed: str
) -> None:
    kept(tmp_path)
    assert plan(override).why == f"full retrain: {changed} changed since {DAY}"


@pytest.mark.parametrize("override", ["sparcode={target_size_bytes: 9}", "index.m=9", "evaluation.ks=[9]", "seed=9"])
def test_sections_that_no_state_depends_on_may_change(plan: Any, tmp_path: Path, override: str) -> None:
    # Of SparCode, how its tables are cut is not read by a fit.
    kept(tmp_path, *(["sparcode={}"] if override.startswith("sparcode") else []))
    assert plan(override).is_warm_start


def test_keys_that_an_earlier_version_did_not_know_count_as_their_defaults(plan: Any, tmp_path: Path) -> None:
    file = kept(tmp_path).model / SECTIONS_FILE
    found = json.loads(file.read_text())
    del found["towers"]["history_encoder"], found["training"]["softmax_weight"]
    file.write_text(json.dumps(found))
    assert plan().is_warm_start
    assert not plan("training.softmax_weight=2").is_warm_start


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found["towers"].update(depth=3), r"towers in sections\.json: .*depth"),
        (lambda found: found.pop("training"), r"training in sections\.json"),
    ],
)
def test_sections_that_are_not_valid_today_ask_for_a_full_retrain(
    plan: Any, tmp_path: Path, change: Any, why: str
) -> None:
    file = kept(tmp_path).model / SECTIONS_FILE
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    assert re.match(f"full retrain: the configuration of {DAY} cannot be read .*{why}", plan().why, re.DOTALL)


def test_a_fit_of_an_earlier_version_is_not_started_from(plan: Any, tmp_path: Path) -> None:
    (kept(tmp_path).model / SECTIONS_FILE).unlink()
    assert plan().why.startswith(f"full retrain: the configuration of {DAY} cannot be read (")


def test_the_last_full_retrain_must_not_be_too_old(plan: Any, tmp_path: Path) -> None:
    kept(tmp_path, full_fit=DAY - dt.timedelta(days=6))
    assert plan("daily.full_every_days=8").is_warm_start
    assert plan("daily.full_every_days=7").why == "full retrain: the last full fit, of 2024-05-25, is 7 days old"


def test_without_a_bundle_or_its_fit_there_is_no_parent(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"full retrain: the fit behind {VERSION} is not here any more"
    assert plan() == WarmStartPlan(None, False, gone, None)
    monkeypatch.setattr("training.lineage._served_before", lambda paths: None)
    assert plan() == WarmStartPlan(None, False, "full retrain: no bundle was published before", None)


@pytest.mark.parametrize("is_warm_start", [True, False])
def test_the_old_name_of_a_warm_start_is_read(tmp_path: Path, is_warm_start: bool) -> None:
    found = read_lineage(kept(tmp_path, goes_on=is_warm_start).model)
    assert found == {"parent": None, "full_fit": str(DAY), "is_warm_start": is_warm_start}
