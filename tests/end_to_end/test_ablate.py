"""`twinspire ablate` compares arms on the same users, resumes where it stopped, and survives an arm that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests import forking
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

Ran = subprocess.CompletedProcess[str]

ARMS = """
config: {config}
overrides: {{training.epochs: 1}}
cuts: [{cut}]
seeds: [1, 2]
reference: default
costs: true
arms:
  default: {{note: as configured}}
  learned: {{overrides: {{towers.factor_dim: 0}}, note: without factors}}
  tables: {{overrides: {{sparcode: {sparcode}}}, lists: sparcode, note: from the tables}}
  unquantised: {{overrides: {{sparcode: {sparcode}}}, lists: unquantised, against: tables, note: without codes}}
  graph: {{overrides: {{sparcode: {sparcode}}}, lists: hnsw, against: tables, note: approximate}}
  both: {{overrides: {{sparcode: {sparcode}}}, lists: two_tower_and_sparcode, against: tables, note: fused}}
  valued: {{overrides: {{towers.factor_dim: 0, index.weight: value, index.weight_power: 1}}, lists: hnsw}}
  broken: {{overrides: {{towers.temperature: 1.0e-38, towers.dual_augmented: {{category_alignment: 0}}}}}}
"""


BASELINES = ["popularity, 28 days", "repeat purchase", "item-kNN", "EASE", "ALS"]
FITTED = ["default", "learned", "tables", "unquantised", "graph", "both", "valued"]
SPARCODE = "{parts: 2, codes: 8, interest_tokens: 1, hidden_units: 2, batch_size: 64, num_uniform: 16}"


@dataclass(frozen=True)
class Ablated:
    """What the command made of the shop.

    Attributes:
        file: The ablation.
        folder: Of the runs and of the outputs.
        cut: The day of the configuration.
        ran: What it printed.
    """

    file: Path
    folder: Path
    cut: str
    ran: Ran

    def again(self, *flags: object) -> Ran:
        """Runs the command once more."""
        return ablate(self.file, *flags)

    def lists(self, fit: str) -> Path:
        """The ranked lists of a fit."""
        return self.folder / "runs" / "corner_shop" / "arms" / fit / "lists" / self.cut / "exact.npy"


def ablate(file: Path, *flags: object) -> Ran:
    """Runs the command as a user does, with the runs next to the file."""
    command = [sys.executable, "-m", "twinspire", "ablate", file, "--runs", file.parent / "runs", "--now", "2024-03-01"]
    return forking.run([*map(str, [*command, *flags])], check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def ablated(shop_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    folder = tmp_path_factory.mktemp("ablation")
    file = folder / "arms.yaml"
    cut = str(load(shop_config).as_of)
    file.write_text(ARMS.format(config=shop_config, cut=cut, sparcode=SPARCODE))
    (folder / "doc.md").write_text("# Kept\n")
    flags = ["--num-seeds", "1", "--json", folder / "figures.json", "--out", folder / "doc.md"]
    return Ablated(file, folder, cut, ablate(file, *flags))


def test_an_arm_that_fails_is_named_and_the_others_have_figures(ablated: Ablated) -> None:
    assert ablated.ran.returncode == 1
    assert "Traceback" not in ablated.ran.stderr
    assert "error: arm 'broken' failed: seed 1" in ablated.ran.stderr
    assert "lower the learning rate, or raise the temperature" in ablated.ran.stderr
    found = json.loads((ablated.folder / "figures.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == [*BASELINES, *FITTED]
    assert list(found["failed"]) == ["broken"]


def test_an_arm_without_what_its_method_presumes_is_warned_of_before_anything_is_fitted(ablated: Ablated) -> None:
    first, *rest = ablated.ran.stdout.splitlines()
    assert first == (
        "warning arm 'broken': towers.dual_augmented is added to towers without hidden layers: nothing crosses; set "
        "towers.hidden_units"
    )
    assert not [line for line in rest if line.startswith("warning arm")]


def test_figures_are_of_the_same_users_and_an_untrained_share_of_chance_is_beaten(ablated: Ablated) -> None:
    found = json.loads((ablated.folder / "figures.json").read_text())
    recall = {arm["name"]: arm["metrics"]["recall@20"] for arm in found["arms"]}
    assert len({figure["num_users"] for figure in recall.values()}) == 1
    # The catalogue is two halves by taste: 20 of the user's own half of 60, and more by popularity.
    assert recall["default"]["mean"] > 20 / 60
    default = found["arms"][5]
    compared = {comparison["name"]: comparison for comparison in found["comparisons"]}
    assert compared["learned"]["reference"] == default["letter"]
    difference = recall["learned"]["mean"] - recall["default"]["mean"]
    assert compared["learned"]["metrics"]["recall@20"]["interval"]["mean"] == pytest.approx(difference)
    assert default["training_seconds"] > 0
    assert "default" not in compared


def test_every_comparison_has_a_p_value_a_verdict_and_a_leakage_check(ablated: Ablated) -> None:
    found = json.loads((ablated.folder / "figures.json").read_text())
    assert [comparison["name"] for comparison in found["comparisons"]] == [*BASELINES, *FITTED[1:]]
    for comparison in found["comparisons"]:
        decides = comparison["metrics"]["recall@20"]
        assert 0 < decides["p_value"] <= decides["adjusted_p"] <= 1
        assert comparison["verdict"]["decision"] in ("ship", "do not ship", "undecided")
    # Half of the catalogue is of the other taste, so that popularity wastes half of its places.
    assert found["comparisons"][0]["verdict"]["decision"] == "do not ship"
    *tuned, leakage = found["notes"]
    assert leakage == f"no leakage: features at {ablated.cut} hold no event, moment or item from the cut on"
    names = ["item-kNN", "EASE", "ALS"]
    assert [note.startswith(f"{ablated.cut}, {name}: ") for name, note in zip(names, tuned, strict=True)] == [True] * 3


def test_arms_of_sparcode_share_a_fit_and_differ_in_their_lists(ablated: Ablated) -> None:
    fits = [path.name for path in (ablated.folder / "runs" / "corner_shop" / "arms").iterdir()]
    assert "tables-1" in fits
    assert not {"unquantised-1", "graph-1", "both-1"} & set(fits)
    lists = sorted(path.stem for path in ablated.lists("tables-1").parent.iterdir() if path.suffix == ".npy")
    assert lists == ["hnsw", "sparcode", "two_tower_and_sparcode", "unquantised"]
    report = json.loads((ablated.folder / "figures.json").read_text())
    found = {arm["name"]: arm for arm in report["arms"]}
    assert found["tables"]["metrics"]["recall@20"]["mean"] > 20 / 60
    compared = {comparison["name"]: comparison["reference"] for comparison in report["comparisons"]}
    assert compared["both"] == found["tables"]["letter"]


def test_a_graph_of_vectors_that_are_weighted_by_value_ranks_by_value(ablated: Ablated) -> None:
    unweighted, weighted = (
        np.load(ablated.lists(fit).with_stem(way)) for fit, way in (("learned-1", "exact"), ("valued-1", "hnsw"))
    )
    # Prices rise with the number of an item modulo 7.
    assert (weighted[:, :5] % 7).mean() > (unweighted[:, :5] % 7).mean() + 0.5


def test_the_size_and_the_latency_of_an_arms_search_are_measured(ablated: Ablated) -> None:
    found = {arm["name"]: arm["cost"] for arm in json.loads((ablated.folder / "figures.json").read_text())["arms"]}
    assert [found[name] for name in BASELINES] == [None] * 5
    size = {name: found[name]["size_bytes"] for name in FITTED}
    assert size["both"] > size["default"]
    assert size["graph"] > size["default"]
    assert 0 < size["tables"] < size["both"]
    for name in FITTED:
        assert 0 < found[name]["median_ms"] <= found[name]["p99_ms"]
    assert (found["default"]["build_seconds"], found["tables"]["build_seconds"] > 0) == (0, True)
    assert "query p50 / p99, ms" in (ablated.folder / "doc.md").read_text()


def test_the_document_keeps_its_text_and_gets_the_tables(ablated: Ablated) -> None:
    text = (ablated.folder / "doc.md").read_text()
    assert text.startswith("# Kept\n\n<!-- ablations of corner_shop: begin -->")
    assert "| learned |" in text
    assert "- broken: seed 1" in text


def test_finished_fits_are_reused_when_a_seed_is_added(ablated: Ablated) -> None:
    written = ablated.lists("learned-1").stat().st_mtime_ns
    ran = ablated.again("--only", "learned", "--json", ablated.folder / "two.json")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ablated.lists("learned-1").stat().st_mtime_ns == written
    assert ablated.lists("learned-2").exists()
    assert "broken" not in ran.stdout
    # The model is never read again: only the lists stay.
    assert not list(ablated.folder.glob("runs/*/arms/learned-*/models/*"))
    [learned] = [
        arm for arm in json.loads((ablated.folder / "two.json").read_text())["arms"] if arm["name"] == "learned"
    ]
    assert len(set(learned["by_seed"])) == 2
