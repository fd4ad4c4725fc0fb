"""Which arm to ship: a bundle against a baseline, a file and another configuration, down to the answers of a server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Compared:
    """The shop, and what a comparison left.

    Attributes:
        shop: With runs of its own.
        ran: What the command printed.
        report: `ab.json`.
        verdict: `verdict.json`.
        folder: Of both.
    """

    shop: Any
    ran: Any
    report: dict[str, Any]
    verdict: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shop after its first day, in a folder that may be changed."""
    return first_day.copy(tmp_path_factory.mktemp("ab") / "runs")


@pytest.fixture(scope="module")
def compared(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Four arms, one of them fitted with two seeds."""
    folder = tmp_path_factory.mktemp("lists")
    lists = [(f"c{user:02}", f"a{item:03}", -place) for user in range(0, 60, 2) for place, item in enumerate((0, 2, 4))]
    rows = [*lists, ("c00", "a999", 1), ("nobody", "a001", 1)]
    pd.DataFrame(rows, columns=["user", "item", "score"]).to_csv(folder / "lists.csv", index=False)
    arms = ["--baseline", "current", "--arm", "popularity", "--arm", f"theirs=file:{folder / 'lists.csv'}"]
    arms += ["--arm", "short=train,set=training.epochs=1", "--seeds", "1,2"]
    ran = shop.do("ab", *arms, "--task", "all", "--out", folder / "report")
    assert ran.returncode == 0, ran.stderr
    report, verdict = (json.loads((folder / "report" / name).read_text()) for name in ("ab.json", "verdict.json"))
    return Compared(shop, ran, report, verdict, folder)


def test_every_arm_is_scored_on_the_same_users(compared: Compared) -> None:
    arms = compared.report["arms"]
    assert [arm["letter"] for arm in arms] == ["A", "B", "C", "D"]
    assert {arm["metrics"]["recall@20"]["num_users"] for arm in arms} == {compared.report["num_users"]}
    # Tastes are plain in this shop: what is popular is right for half of it.
    assert arms[0]["metrics"]["recall@20"]["mean"] > arms[1]["metrics"]["recall@20"]["mean"]


def test_json_has_the_verdict_and_the_terminal_begins_with_its_headline(compared: Compared) -> None:
    verdict = compared.verdict
    assert [arm["decision"] for arm in verdict["challengers"]][:2] == ["do not ship", "do not ship"]
    assert verdict["headline"] in " ".join(compared.ran.stdout.split())


def test_three_layers_of_each_bundle_answer_alike(compared: Compared) -> None:
    layers = compared.report["layers"]
    assert [(layer["letter"], layer["upper"], layer["lower"]) for layer in layers] == [
        ("A", "exact", "index"),
        ("A", "index", "server"),
        ("D", "exact", "index"),
        ("D", "index", "server"),
    ]
    assert all(layer["same_lists"] == 1 and layer["finding"] is None for layer in layers if layer["lower"] == "server")


def test_unusable_rows_of_a_file_are_counted(compared: Compared) -> None:
    problems = {problem["kind"]: problem for problem in compared.report["arms"][2]["problems"]}
    assert problems["unknown item"]["rows"] == [91]
    assert problems["user who is not in this comparison"]["rows"] == [92]
    assert problems["user without a list, who counts as nothing found"]["count"] > 0
    assert "unknown item" in compared.ran.stdout


def test_a_configuration_is_fitted_into_a_bundle_that_is_not_published(compared: Compared) -> None:
    bundles = compared.shop.runs / "corner_shop" / "bundles"
    source = compared.report["arms"][3]["source"]
    version = source.partition(",")[0]
    assert (bundles / version / "manifest.json").exists()
    assert (bundles / "current").readlink().name != version


def test_an_arm_is_fitted_with_every_seed_on_the_same_features(compared: Compared) -> None:
    *others, short = compared.report["arms"]
    assert compared.report["seeds"] == [1, 2]
    assert [len(arm["by_seed"]) for arm in others] == [1, 1, 1]
    assert len(set(short["by_seed"])) == 2
    assert len(set(version.partition(",")[0] for version in short["source"].split("; "))) == 2
    recall = short["metrics"]["recall@20"]["mean"]
    assert recall == pytest.approx(sum(short["by_seed"]) / 2)
    assert compared.report["comparisons"][2]["metrics"]["recall@20"]["p_value"] > 0


def test_features_of_another_day_leave_those_of_the_published_bundle_alone(first_day: Any, tmp_path: Path) -> None:
    shop = first_day.copy(tmp_path / "runs")
    manifest = json.loads((shop.root / "bundles" / "current" / "manifest.json").read_text())
    served = shop.root / "features" / "online" / manifest["facts"]["features_version"]
    before = (served / "online.db").read_bytes()
    ran = shop.do("features", "--as-of", "2024-02-01", "--now", "2024-03-01")
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name[:10] for path in served.parent.iterdir()) == ["2024-02-01", str(shop.day)]
    assert (served / "online.db").read_bytes() == before


def test_a_bundle_is_not_scored_on_its_training_days(shop: Any) -> None:
    ran = shop.do("ab", "--a", "popularity", "--b", "current", "--cut", "2024-02-01")
    assert ran.returncode == 1
    assert "was made of events up to 2024-02-04, cut is 2024-02-01: it has seen what it would be" in ran.stderr


def test_rolls_over_days_and_asks_for_the_bundle_of_each_night(shop: Any, tmp_path: Path) -> None:
    days = ["--protocol", "rolling", "--cut", "2024-02-04", "--last-cut", "2024-02-06", "--every", "2"]
    ran = shop.do("ab", "--a", "popularity", "--b", "repeat", *days, "--task", "all", "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "ab.json").read_text())
    assert [cut[:10] for cut in report["cuts"]] == ["2024-02-04", "2024-02-06"]
    assert set(report["arms"][0]["slices"]["day"]) == {"2024-02-04", "2024-02-06"}
    cuts = ["--cut", "2024-02-04,2024-02-06", "--window-days", "1"]
    ran = shop.do(
        "ab", "--baseline", "popularity", "--arm", "repeat", *cuts, "--task", "all", "--out", tmp_path / "two"
    )
    assert ran.returncode == 0, ran.stderr
    again = json.loads((tmp_path / "two" / "ab.json").read_text())
    assert (again.pop("protocol"), report.pop("protocol")) == ("after-cut", "rolling")
    assert again == report
    ran = shop.do("ab", "--a", "popularity", "--b", "nightly", *days)
    assert ran.returncode == 1
    assert "has no bundle of 2024-02-06; make the nights with `twinspire backfill`" in ran.stderr


def test_a_wrong_arm_or_cut_is_explained(shop: Any) -> None:
    ran = shop.do("ab", "--a", "current", "--b", "besst")
    assert ran.returncode == 2
    assert "'besst' is no arm" in ran.stderr
    ran = shop.do("ab", "--a", "current", "--b", "ease", "--protocol", "rolling")
    assert ran.returncode == 1
    assert "--last-cut is left out" in ran.stderr
    ran = shop.do("ab", "--a", "current", "--b", "ease", "--metric", "recall@7")
    assert ran.returncode == 1
    assert "metric is 'recall@7', expected one of: recall@5" in ran.stderr
    ran = shop.do("ab", "--a", "current", "--b", "current,retriever=sparcode")
    assert ran.returncode == 1
    assert "has nothing for retriever 'sparcode', and 'two_tower' would answer" in ran.stderr
