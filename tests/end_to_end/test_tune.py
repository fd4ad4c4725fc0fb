"""`twinspire tune` on a shop: trials of real fits, a kill in one of them, and the file of settings that it writes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forking

pytestmark = pytest.mark.end_to_end
KILLED = Path(__file__).with_name("killed_fit_for_tests.py")
NOW = "2024-03-01"
# In the second epoch.
KILLED_STEP = 10
# Nothing is learned with the file's own learning rate.
FLAGS = ["--now", NOW, "--set", "training.learning_rate=0.000001", "--only", "training.learning_rate"]
FLAGS += ["--range", "training.learning_rate=[0.000001, 0.01]"]


def study(shop: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shop.root / "tune" / str(shop.day) / "tune.json").read_text())
    for trial in found["trials"]:
        del trial["seconds"]
    return found


@pytest.fixture(scope="module")
def shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shop with a configuration of its own, tuned with all there is to try; the command's outcome is `ran`."""
    folder = tmp_path_factory.mktemp("tune")
    config = Path(shutil.copy(first_day.config, folder / "shop.yaml"))
    shop = replace(first_day.copy(folder / "runs"), config=config)
    return replace(shop, ran=shop.do("tune", *FLAGS))


def test_the_first_trial_has_the_files_own_values_and_all_there_is_to_try_is_tried_once(shop: Any) -> None:
    assert shop.ran.returncode == 0, shop.ran.stderr
    rates = [trial["values"] for trial in study(shop)["trials"]]
    assert rates == [{"training.learning_rate": rate} for rate in (0.000001, 0.01)]
    assert "2 of 20 trials: nothing else is left to try" in shop.ran.stdout
    lines = [line for line in shop.ran.stdout.splitlines() if line.startswith("trial ") and "recall ." in line]
    assert [line.partition(":")[0] for line in lines] == [f"trial {number}" for number in range(2)]
    assert lines[0].endswith("the configuration's own values")
    # Tables and features are those of the run before.
    assert all(f"{step:<9} unchanged" in shop.ran.stdout for step in ("ingest", "features"))


def test_the_settings_that_are_better_are_a_file_that_run_accepts(shop: Any) -> None:
    found = study(shop)
    assert found["difference"]["low"] > 0
    path = shop.config.with_name("shop.tuned.yaml")
    text = path.read_text()
    assert yaml.safe_load(text) == {"extends": "shop.yaml", "training": {"learning_rate": 0.01}}
    assert f"on the 7 days before {shop.day}" in text
    assert "#   training.learning_rate: 1.0e-06 -> 0.01" in text
    planned = replace(shop, config=path).do("run", "--now", NOW, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    lines = planned.stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["unchanged,", "unchanged,"]
    assert lines[2].startswith("train     would run")
    assert "  learning_rate: 0.01" in lines


def test_the_report_and_the_page_show_the_trials(shop: Any) -> None:
    page = (shop.root / "tune" / str(shop.day) / "tune.html").read_text()
    assert "Trials of settings" in page
    assert "trial " in page
    assert page.count("<svg") == 1
    ran = shop.do("evaluate", "--force", "--now", NOW)
    assert ran.returncode == 0, ran.stderr
    assert "Trials of settings" in (shop.root / "reports" / str(shop.day) / "report.html").read_text()


def test_a_study_that_is_killed_gives_what_it_would_have_given(shop: Any, first_day: Any, tmp_path: Path) -> None:
    killed = replace(first_day.copy(tmp_path / "runs"), config=shop.config)
    out = tmp_path / "out.yaml"
    ran = killed.do("tune", *FLAGS, "--out", out, "--trials", 1)
    assert ran.returncode == 0, ran.stderr
    assert "the configuration's own values stay: recall@20 of new items on the 7 days before" in ran.stdout
    assert not out.exists()
    command = [sys.executable, str(KILLED), "-1.fit/validation", str(KILLED_STEP)]
    command += killed.command("tune", *FLAGS, "--out", out)
    died = forking.run(command, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    ran = killed.do("tune", *FLAGS, "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert "validation resumes at epoch 2, step 1: the run before was interrupted" in ran.stdout
    assert study(killed) == study(shop)
    assert not list((killed.root / "tune" / str(killed.day)).glob(".*.fit"))
    extended = yaml.safe_load(out.read_text())["extends"]
    assert (tmp_path / extended).resolve() == shop.config.resolve()


def test_a_file_that_was_changed_by_hand_is_kept_unless_forced(shop: Any) -> None:
    path = shop.config.with_name("shop.tuned.yaml")
    written = path.read_text()
    again = shop.do("tune", *FLAGS)
    assert again.returncode == 0, again.stderr
    assert "trial 0: " not in again.stdout
    assert path.read_text() == written
    path.write_text(written.replace("0.01", "0.02"))
    refused = shop.do("tune", *FLAGS)
    assert refused.returncode == 2
    assert "shop.tuned.yaml was changed since `twinspire tune` wrote it; give --force" in refused.stderr
    forced = shop.do("tune", *FLAGS, "--force")
    assert forced.returncode == 0, forced.stderr
    assert path.read_text() == written


def test_a_key_that_cannot_be_tuned_is_named_before_anything_is_done(shop: Any) -> None:
    ran = shop.do("tune", "--now", NOW, "--only", "training.epoch")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "'training.epoch' is not among the keys that are tuned: training.learning_rate" in ran.stderr
