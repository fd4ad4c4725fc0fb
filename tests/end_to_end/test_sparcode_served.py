"""SparCode reaches the answer: served scores are the sums of the model's own scores."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from beam_jobs.code_tables import make_codes
from beam_jobs.config import CodesSections
from serving.bundles.bundle import Bundle, BundleError
from serving.config import ServeSections
from serving.open import open_recommender
from serving.recommender import Recommender
from serving.retrieval.vectors import read_vectors
from serving.sparcode import all_to_all
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import load_interaction
from serving.sparcode.postings import read_postings
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

NUM_ITEMS = 120
USERS = ("c00", "c01", "c30")
OVERRIDES = (
    "sparcode={parts: 2, codes: 8, interest_tokens: 2, hidden_units: 4, batch_size: 64, num_uniform: 16}",
    "serving.fusion_weights={repeat: 1.0, two_tower: 0.3, sparcode: 0.3}",
)
FLAGS = [part for override in OVERRIDES for part in ("--set", override)]


@pytest.fixture(scope="module")
def shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The first day's shop, run once more with SparCode in a copy of its runs."""
    made = first_day.copy(tmp_path_factory.mktemp("sparcode") / "runs")
    ran = made.do("run", "--now", "2024-03-01", *FLAGS)
    assert (ran.returncode, ran.stderr) == (0, "")
    return replace(made, ran=ran)


@pytest.fixture(scope="module")
def paths(shop: Any) -> RunPaths:
    return RunPaths(shop.root, shop.day)


@pytest.fixture(scope="module")
def recommender(shop: Any, paths: RunPaths) -> Recommender:
    return open_recommender(pick(ServeSections, load(shop.config, OVERRIDES)), paths)


def test_the_run_reports_code_usage_and_the_cost_of_tables(shop: Any) -> None:
    assert "validation sparcode epoch 1: loss" in shop.ran.stdout
    assert "codes in use, perplexity" in shop.ran.stdout
    (printed,) = [line for line in shop.ran.stdout.splitlines() if line.startswith("codes ")]
    # Three of the learned vector and the history, and one of the factors, of each of 60 users.
    assert "codes of 240 tokens" in printed
    assert "of all scores" in printed


def test_early_stopping_keeps_the_epoch_with_the_best_held_out_recall(shop: Any, paths: RunPaths) -> None:
    (printed,) = [line.strip() for line in shop.ran.stdout.splitlines() if "after 0 and so on" in line]
    match = re.fullmatch(r"sparcode: (\d) epochs, as recall@\d+ was ([\d., ]+) after 0 and so on", printed)
    assert match is not None
    found = [float(value) for value in match[2].split(", ")]
    assert len(found) == 3
    assert found[int(match[1])] == max(found)
    assert json.loads((paths.model / "lineage.json").read_text())["sparcode_epochs"] == int(match[1])
    assert shop.ran.stdout.count("final sparcode epoch") == int(match[1])


def test_served_scores_are_the_models_own_quantised_ones_for_every_item(
    recommender: Recommender, paths: RunPaths
) -> None:
    model = paths.model / "sparcode"
    bias = json.loads((model / "sparcode.json").read_text())["bias"]
    rows = recommender.bundle.encoder.user_ids.rows(list(USERS)) - 1
    expected_rows, expected = all_to_all.search(
        read_vectors(paths.codes / "user_tokens")[rows],
        np.load(paths.codes / "item_tokens.npy"),
        interaction=load_interaction(model / "interaction.npz"),
        bias=bias,
        codebook=Codebook.load(model / "codebook.npy"),
        k=NUM_ITEMS,
    )
    found = recommender.recommend(USERS, k=NUM_ITEMS, retriever="sparcode")
    assert found.retriever == "sparcode"
    assert {"features", "encoding", "tokenizer"} <= found.stage_microseconds.keys()
    assert "user_tower" not in found.stage_microseconds
    for answer, own_rows, own_scores in zip(found.answers, expected_rows, expected, strict=True):
        wanted = {f"a{row:03}": score for row, score in zip(own_rows, own_scores, strict=True) if row >= 0}
        # What is popular comes behind what the lists have, up to k.
        assert (len(answer.items), "filled" in answer.reasons) == (NUM_ITEMS, len(wanted) < NUM_ITEMS)
        served = {item["item_id"]: item["score"] for item in answer.items[: len(wanted)]}
        assert served.keys() == wanted.keys()
        assert len(served) > NUM_ITEMS / 4
        # Three lists of float16 each.
        for item_id, score in served.items():
            assert score == pytest.approx(wanted[item_id], rel=2e-3, abs=2e-3)


def test_an_unknown_user_gets_popular_items(recommender: Recommender) -> None:
    (answer,) = recommender.recommend(["nobody"], k=5, retriever="sparcode").answers
    assert (answer.unknown_user, answer.fallback, len(answer.items)) == (True, "popularity", 5)


def test_it_takes_part_in_the_fused_list_and_in_the_report(shop: Any, paths: RunPaths) -> None:
    report = json.loads((paths.report / "report.json").read_text())
    for task in report["tasks"]:
        arms = {arm["name"]: arm for arm in task["arms"]}
        assert arms["SparCode"]["metrics"]["recall@20"]["mean"] > 0
    asked = ["--json", "-k", "5", "--user", USERS[0], "--retriever", "fused", *FLAGS]
    assert len(json.loads(shop.do("recommend", *asked).stdout)["answers"][0]["items"]) == 5


def test_a_target_cuts_the_tables_and_shows_the_curve(shop: Any, tmp_path: Path) -> None:
    shutil.copytree(shop.runs, tmp_path / "runs", symlinks=True)
    cut = replace(shop, runs=tmp_path / "runs")
    before = json.loads((paths_of(cut).codes / "report.json").read_text())
    size = before["curve"][2]["size_bytes"]
    ran = cut.do("codes", "--now", "2024-03-01", *FLAGS, "--target-size", str(size))
    assert (ran.returncode, ran.stderr) == (0, "")
    after = json.loads((paths_of(cut).codes / "report.json").read_text())
    assert after["size_bytes"] <= size < before["size_bytes"]
    assert after["bias"] < before["bias"]
    assert ran.stdout.count("kept") == 1


def test_tables_have_no_postings_of_withdrawn_items_and_their_recall_leaves_them_out(
    shop: Any, paths: RunPaths, tmp_path: Path
) -> None:
    before = read_postings(paths.codes / "served" / "postings")
    _, items, _ = before.lists(np.arange(len(before.keys)))
    withdrawn = np.sort(np.argsort(np.bincount(items, minlength=NUM_ITEMS))[-10:])
    shutil.copytree(shop.runs, tmp_path / "runs", symlinks=True)
    copied = paths_of(replace(shop, runs=tmp_path / "runs"))
    left = pa.table({"item_id": [f"a{row:03}" for row in withdrawn]})
    pq.write_table(left, copied.tables / "withdrawn_items.parquet")
    config = load(shop.config, OVERRIDES)
    make_codes(pick(CodesSections, config), config.beam, copied)
    postings = read_postings(copied.codes / "served" / "postings")
    _, found, _ = postings.lists(np.arange(len(postings.keys)))
    assert (postings.num_items, len(postings.keys)) == (NUM_ITEMS, len(before.keys))
    np.testing.assert_array_equal(found, items[~np.isin(items, withdrawn)])
    # No list is cut by the cap: the tables find all that is offered.
    recalls = [json.loads((codes / "report.json").read_text())["recall"] for codes in (paths.codes, copied.codes)]
    assert recalls[1] == pytest.approx(recalls[0], abs=0.02)


@pytest.mark.parametrize("broken", ["postings", "codebook"])
def test_a_bundle_with_tables_of_another_make_is_refused(
    broken: str, shop: Any, paths: RunPaths, tmp_path: Path
) -> None:
    current = (paths.bundles / "current").resolve()
    folder = tmp_path / current.name
    shutil.copytree(current, folder)
    target = folder / "sparcode" / ("codebook.npy" if broken == "codebook" else "postings/items.npy")
    if broken == "codebook":
        Codebook(np.load(target) + np.float32(0.01)).save(target)
    else:
        target.write_bytes(target.read_bytes()[:-64])
    with pytest.raises(BundleError, match=rf"{target.name}: (SHA-256 is|has \d+ bytes)"):
        Bundle.open(folder)


def paths_of(shop: Any) -> RunPaths:
    return RunPaths(shop.root, shop.day)
