"""`twinspire benchmark time` measures a shop and a world, defaults and tuned settings, and resumes where it stopped."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import forking

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

NOW = "2024-03-01"
WORLD = """
days: 30
users: 150
items: 120
catalogue: {departments: 2, categories: 6}
visits: {per_user_day: 0.4}
"""
DEFAULT_ARMS = ["learned towers alone", "two-tower", "two-tower, HNSW", "served (two_tower)"]
BASELINES = ["popularity, 28 days", "repeat purchase", "item-kNN", "EASE", "ALS"]


@dataclass(frozen=True)
class Benchmarked:
    """Two data sets, and what the command left of them.

    Attributes:
        shop: With runs of its own.
        folder: Of the configurations, the JSON and the Markdown.
        ran: What the command printed.
        found: The JSON.
    """

    shop: Any
    folder: Path
    ran: Any
    found: dict[str, Any]

    def outcome(self, dataset: str, task: str, settings: str = "defaults") -> dict[str, Any]:
        """A row of the summary."""
        wanted = (dataset, task, settings)
        rows = [row for measured in self.found["data_sets"] for row in measured["outcomes"]]
        (row,) = (row for row in rows if (row["dataset"], row["task"], row["settings"]) == wanted)
        return row


def benchmark(shop: Any, folder: Path, *flags: object) -> Any:
    """Runs the command on a folder of configurations."""
    command = [sys.executable, "-m", "twinspire", "benchmark", "time", "--config", folder, "--runs", shop.runs]
    return forking.run([*map(str, [*command, "--now", NOW, *flags])], check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def benchmarked(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Benchmarked:
    """The shop, which has a run already, with tuned settings; a little world; and a shop whose data is missing."""
    folder = tmp_path_factory.mktemp("benchmark")
    shop = first_day.copy(folder / "runs")
    configs = folder / "configs"
    configs.mkdir()
    shutil.copy(shop.config, configs / "corner_shop.yaml")
    (configs / "corner_shop.tuned.yaml").write_text("training: {epochs: 1}\ntowers: {factor_dim: 0}\n")
    (configs / "little_world.yaml").write_text(WORLD)
    (configs / "missing.yaml").write_text(
        shop.config.read_text().replace("corner_shop", "missing").replace("/orders", "/no_orders")
    )
    (folder / "page.md").write_text("# Kept\n")
    flags = ["--json", folder / "all.json", "--md", folder / "page.md"]
    ran = benchmark(shop, configs, *flags)
    return Benchmarked(shop, folder, ran, json.loads((folder / "all.json").read_text()))


def report_of(benchmarked: Benchmarked, dataset: str, task: str) -> dict[str, Any]:
    (measured,) = (one for one in benchmarked.found["data_sets"] if one["dataset"] == dataset)
    (report,) = (one for one in measured["reports"] if one["task"] == task)
    return report


def test_a_data_set_that_fails_is_named_and_the_others_have_figures(benchmarked: Benchmarked) -> None:
    assert benchmarked.ran.returncode == 1
    assert "data set 'missing' failed: " in benchmarked.ran.stderr
    assert "/no_orders" in benchmarked.found["failed"]["missing"]
    assert [one["dataset"] for one in benchmarked.found["data_sets"]] == ["corner_shop", "little_world"]


def test_steps_that_are_done_are_not_done_again(benchmarked: Benchmarked) -> None:
    shop_alone = benchmarked.ran.stdout.partition("little_world\n")[0]
    assert [line for line in shop_alone.splitlines() if line.startswith("train ") and "unchanged" in line]
    kept = sorted((benchmarked.shop.root / "arms").glob("*/lists/*/*.npy"))
    assert [path.parts[-4] for path in kept] == [
        name for name in ("als", "ease", "item_knn", "popularity", "repeat") for _ in range(2)
    ]
    moments = [path.stat().st_mtime_ns for path in kept]
    # As after a kill behind the baselines: the last lists are missing.
    kept[0].unlink()
    again = benchmarked.folder / "again.json"
    ran = benchmark(
        benchmarked.shop, benchmarked.folder / "configs", "--only", "little_world,corner_shop", "--json", again
    )
    assert ran.returncode == 0, ran.stderr
    assert [path.stat().st_mtime_ns for path in kept][1:] == moments[1:]
    assert kept[0].exists()
    found = json.loads(again.read_text())
    assert found["data_sets"] == benchmarked.found["data_sets"]
    assert [line for line in ran.stdout.splitlines() if line.startswith("world ") and "unchanged" in line]


def test_learned_tuned_and_served_arms_and_every_baseline_are_compared_with_ease(benchmarked: Benchmarked) -> None:
    report = report_of(benchmarked, "corner_shop", "new to the user")
    names = [arm["name"] for arm in report["arms"]]
    served = names[3]
    assert served.startswith("served (")
    assert names[: len(DEFAULT_ARMS)] == [*DEFAULT_ARMS[:3], served]
    assert names[4:7] == [f"tuned: {name}" for name in DEFAULT_ARMS[:3]]
    assert names[7].startswith("tuned: served (")
    assert names[8:] == BASELINES
    ease = next(arm["letter"] for arm in report["arms"] if arm["name"] == "EASE")
    assert {one["reference"] for one in report["comparisons"]} == {ease}
    recall = {arm["name"]: arm["metrics"]["recall@20"]["mean"] for arm in report["arms"]}
    # Without factors, all numbers of a vector are learned.
    assert recall["tuned: learned towers alone"] == recall["tuned: two-tower"]
    assert recall["learned towers alone"] != recall["two-tower"]


def test_the_summary_has_the_figures_of_the_reports(benchmarked: Benchmarked) -> None:
    for task in ("all purchases", "new to the user"):
        report = report_of(benchmarked, "corner_shop", task)
        figures = {arm["name"]: arm["metrics"]["recall@20"] for arm in report["arms"]}
        best = max(BASELINES, key=lambda name: figures[name]["mean"])
        for settings, prefix in (("defaults", ""), ("tuned", "tuned: ")):
            row = benchmarked.outcome("corner_shop", task, settings)
            served = next(name for name in figures if name.startswith(f"{prefix}served"))
            assert (row["best_name"], row["best"]) == (best, figures[best])
            assert row["learned"] == figures[f"{prefix}learned towers alone"]
            assert row["served"] == figures[served]
            over = {one["name"]: one["metrics"]["recall@20"]["interval"] for one in report["comparisons"]}
            assert row["learned_over_ease"] == over[f"{prefix}learned towers alone"]
            difference = row["served_over_best"]
            assert difference["mean"] == pytest.approx(figures[served]["mean"] - figures[best]["mean"])
            assert difference["low"] <= difference["mean"] <= difference["high"]


def test_the_paired_differences_are_those_of_ab_on_the_same_run(benchmarked: Benchmarked) -> None:
    row = benchmarked.outcome("corner_shop", "new to the user")
    baseline = {"EASE": "ease", "ALS": "als", "item-kNN": "item-knn"}.get(row["best_name"], "popularity")
    out = benchmarked.folder / "ab"
    ran = benchmarked.shop.do(
        "ab", "--baseline", baseline, "--arm", "current", "--no-layers", "--out", out, "--now", NOW
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads((out / "ab.json").read_text())
    assert report["arms"][0]["name"] == baseline
    assert report["comparisons"][0]["metrics"]["recall@20"]["interval"] == row["served_over_best"]


def test_markdown_has_the_summary_and_every_arm_with_the_figures_of_the_json(benchmarked: Benchmarked) -> None:
    text = (benchmarked.folder / "page.md").read_text()
    assert text.startswith("# Kept\n")
    assert f"    {benchmarked.found['command']}\n" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    for measured in benchmarked.found["data_sets"]:
        for row in measured["outcomes"]:
            name = row["dataset"] if row["settings"] == "defaults" else f"{row['dataset']}, tuned"
            (line,) = (line for line in lines if line[:2] == [name, row["task"]])
            assert line[3] == f"{row['learned']['mean']:.4f}".removeprefix("0")
            difference = row["served_over_best"]
            assert line[8].startswith(f"{difference['mean']:+.4f}".replace("0.", ".", 1))
        for report in measured["reports"]:
            for arm in report["arms"]:
                interval = arm["metrics"][report["metric"]]
                written = " ".join(f"{interval[part]:.4f}".removeprefix("0") for part in ("mean", "low", "high"))
                cells = [line for line in lines if line[0] == arm["name"]]
                assert any(
                    written in " ".join(line).replace("[", "").replace(",", "").replace("]", "") for line in cells
                )
    assert "- missing: " in text


def test_a_world_is_made_first_and_shows_the_share_of_its_oracle(benchmarked: Benchmarked) -> None:
    row = benchmarked.outcome("little_world", "all purchases")
    assert row["oracle"] > row["best"]["mean"]
    assert row["best_name"] != "oracle"
    assert (benchmarked.shop.runs / "worlds" / "little_world" / "truth.yaml").exists()
    assert "oracle" in [arm["name"] for arm in report_of(benchmarked, "little_world", "new to the user")["arms"]]
