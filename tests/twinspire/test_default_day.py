"""Where no day is given, the events say which one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

Ran = subprocess.CompletedProcess[str]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Events from 2024-01-01 to 2024-01-30, and a configuration without a day."""
    rows = [f"u{day % 7},i{day % 5},2024-01-{day:02}T12:00:00Z" for day in range(1, 31)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    (tmp_path / "shop.yaml").write_text("name: shop\ningest: {source: {kind: tables, events: {path: events.csv}}}\n")
    return tmp_path


def twinspire(folder: Path, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "twinspire", *arguments, "--config", "shop.yaml"]
    return forking.run(command, cwd=folder, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("changes", "day"),
    [
        ([], "2024-01-24"),
        (["--set", "evaluation.window_days=3"], "2024-01-28"),
        # 23 days for evaluation and seven for validation leave none to fit.
        (["--set", "evaluation.window_days=23"], "2024-01-31"),
        (["--as-of", "2024-01-20"], "2024-01-20"),
        (["--set", "as_of=2024-01-20"], "2024-01-20"),
    ],
)
def test_the_day_leaves_the_last_days_for_evaluation(shop: Path, changes: list[str], day: str) -> None:
    ran = twinspire(shop, "ingest", *changes)
    assert ran.returncode == 0, ran.stderr
    assert ("as_of is not given" in ran.stdout) == ("2024-01-20" not in " ".join(changes))
    planned = twinspire(shop, "run", "--dry-run", *changes)
    assert planned.returncode == 0, planned.stderr
    assert f"as_of: '{day}'" in planned.stdout


def test_new_events_move_the_day(shop: Path) -> None:
    assert "as_of is not given: 2024-01-24" in twinspire(shop, "ingest").stdout
    with (shop / "events.csv").open("a") as file:
        file.write("u1,i1,2024-02-02T12:00:00Z\n")
    assert "as_of is not given: 2024-01-27" in twinspire(shop, "ingest").stdout


@pytest.mark.parametrize("arguments", [["run", "--dry-run"], ["recommend", "--user", "u1"], ["serve"]])
def test_without_tables_a_command_that_makes_none_asks_for_the_day(shop: Path, arguments: list[str]) -> None:
    ran = twinspire(shop, *arguments)
    assert ran.returncode == 2
    assert "as_of is not given, and there are no tables yet" in " ".join(ran.stderr.split())
    assert not (shop / "runs").exists()
