"""Methods reach the answer: business weights, mined negatives, two models side by side and their cascade, interests."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from features.columns import seconds_of
from serving.bundles.bundle import Bundle
from serving.config import ServeSections
from serving.open import open_recommender
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.ranking import Scores
from serving.retrieval.vectors import read_vectors
from twinspire.config import Config
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

NUM_ITEMS = 120
USERS = ("c00", "c01", "c30")
WEIGHTED = ("index.weight=value", "index.weight_power=0.5", "index.min_recall=0.9")
ENSEMBLE = (
    "training.log_q=khrylchenko2025",
    "training.negatives.easy_per_hard=10",
    "training.negatives.mined_band=[11, 40]",
    "training.negatives.mined_per_user=10",
    "training.hard_model_weight=0.7",
    "serving.retriever=cascade",
)
INTERESTS = ("towers.interests={num: 4}", "serving.retriever=two_tower")


@dataclass(frozen=True)
class Served:
    """What a run of the first day's shop with some overrides left behind.

    Attributes:
        shop: The shop in a folder of its own, with what the run printed.
        overrides: `key=value` of the run.
    """

    shop: Any
    overrides: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """The overrides on the command line."""
        return [part for override in self.overrides for part in ("--set", override)]

    @property
    def config(self) -> Config:
        """As the run resolved it."""
        return load(self.shop.config, self.overrides)

    @property
    def paths(self) -> RunPaths:
        """Of the run."""
        return RunPaths(self.shop.root, self.shop.day)

    @cached_property
    def recommender(self) -> Recommender:
        """Over what the run published."""
        return open_recommender(pick(ServeSections, self.config), self.paths)


def run(shop: Any, folder: Path, overrides: tuple[str, ...]) -> Served:
    """Runs the shop's day once more with overrides, in a copy of its runs."""
    served = Served(shop.copy(folder), overrides)
    ran = served.shop.do("run", "--now", "2024-03-01", *served.flags)
    assert (ran.returncode, ran.stderr) == (0, "")
    return replace(served, shop=replace(served.shop, ran=ran))


@pytest.fixture(scope="module")
def weighted_shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return run(first_day, tmp_path_factory.mktemp("weighted") / "runs", WEIGHTED)


@pytest.fixture(scope="module")
def ensemble_shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return run(first_day, tmp_path_factory.mktemp("ensemble") / "runs", ENSEMBLE)


@pytest.fixture(scope="module")
def interests_shop(first_day: Any, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return run(first_day, tmp_path_factory.mktemp("interests") / "runs", INTERESTS)


def lines_of(served: Served) -> dict[str, str]:
    """Step -> the outcome that the run printed."""
    lines = [line.split(maxsplit=1) for line in served.shop.ran.stdout.splitlines() if line.strip()]
    return {first: rest[0] if rest else "" for first, *rest in lines}


@pytest.fixture(scope="module")
def weights(weighted_shop: Served) -> npt.NDArray[np.float64]:
    """[N] square root of each article's mean price in the raw orders before the day, over the largest."""
    orders = pd.concat(pd.read_csv(path) for path in (weighted_shop.shop.config.parent / "orders").glob("*.csv"))
    known = orders[orders.customer.notna() & (orders.ordered_at < seconds_of(weighted_shop.shop.day) * 1000)]
    prices = known.groupby("article").amount.mean().reindex([f"a{item:03}" for item in range(NUM_ITEMS)])
    filled = prices.fillna(prices.median()).clip(lower=prices.quantile(0.01)).to_numpy()
    found: npt.NDArray[np.float64] = np.sqrt(filled / filled.max())
    return found


def vectors_of(served: Served) -> tuple[Scores, Scores]:
    """Vectors of `USERS` and of all items."""
    users, items = (read_vectors(served.paths.vectors / name) for name in ("users", "items"))
    rows = served.recommender.bundle.encoder.user_ids.rows(list(USERS))
    return users[rows - 1], items


def test_a_weight_is_put_on_at_the_index_and_nothing_is_fitted_again(weighted_shop: Served) -> None:
    lines = lines_of(weighted_shop)
    assert all(lines[step].startswith("unchanged") for step in ("train", "embed"))
    assert "weighted by value^0.5" in lines["index"]
    card = (weighted_shop.shop.root / "bundles" / "current" / "MODEL_CARD.md").read_text()
    assert "times the item's business weight w = value^0.5" in card


def test_served_items_are_ordered_by_cosine_times_tempered_price(
    weighted_shop: Served, weights: npt.NDArray[np.float64]
) -> None:
    users, items = vectors_of(weighted_shop)
    expected = (users @ items.T) * weights
    # More than serving.max_fetch: exact search answers.
    found = weighted_shop.recommender.recommend(USERS, k=NUM_ITEMS, retriever="two_tower")
    for answer, scores in zip(found.answers, expected, strict=True):
        served = np.array([int(item["item_id"][1:]) for item in answer.items])
        assert sorted(served) == list(range(NUM_ITEMS))
        np.testing.assert_allclose([item["score"] for item in answer.items], scores[served], atol=1e-5)
        # Descending, except for items whose scores differ by less than the precision of float32.
        assert np.diff(scores[served]).max() < 1e-6
    cosines = users @ items.T
    assert not np.array_equal(np.argsort(-cosines, axis=1)[:, :5], np.argsort(-expected, axis=1)[:, :5])


def test_the_shell_answers_from_the_weighted_index(weighted_shop: Served, weights: npt.NDArray[np.float64]) -> None:
    asked = ["--json", "--retriever", "two_tower", "-k", "10", *weighted_shop.flags]
    ran = weighted_shop.shop.do("recommend", *asked, "--user", USERS[0])
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = json.loads(ran.stdout)["answers"][0]["items"]
    users, items = vectors_of(weighted_shop)
    expected = (users[0] @ items.T) * weights
    served = [int(item["item_id"][1:]) for item in shown]
    np.testing.assert_allclose([item["score"] for item in shown], expected[served], atol=1e-5)
    assert len(set(served) & set(np.argsort(-expected)[:10].tolist())) >= 9


def test_the_report_compares_the_weighted_index_with_weighted_exact_search(weighted_shop: Served) -> None:
    report = json.loads((weighted_shop.paths.report / "report.json").read_text())
    for task in report["tasks"]:
        arms = {arm["name"]: arm for arm in task["arms"]}
        assert arms["two-tower, HNSW"]["index_recall"]["20"] > 0.9


def test_hard_negatives_are_mined_from_the_days_own_fit_before_two_models_are_fitted(ensemble_shop: Served) -> None:
    lines = lines_of(ensemble_shop)
    steps = [step for step in lines if step in ("ingest", "features", "mine", "train", "embed")]
    assert steps == ["ingest", "features", "mine", "train", "embed"]
    assert f"of 60 users from ranks 11 to 40 of the fit of {ensemble_shop.shop.day}" in lines["mine"]
    # Two models of width 8, then four factors and the coordinate of the missing length.
    assert "120 item vectors and 60 user vectors of width 21" in lines["embed"]
    bundle = Bundle.open(ensemble_shop.paths.bundles / "current")
    assert bundle.manifest.facts.index_report.parts == (8, 8, 5)
    assert "8 + 8 + 5 side by side" in (bundle.folder / "MODEL_CARD.md").read_text()


def test_a_second_run_with_mined_negatives_finds_every_step_unchanged(ensemble_shop: Served) -> None:
    ran = ensemble_shop.shop.do("run", "--dry-run", *ensemble_shop.flags)
    plan = [line for line in ran.stdout.split("resolved configuration:")[0].splitlines() if line.strip()]
    assert len(plan) == 9
    assert all("unchanged, would be skipped" in line for line in plan)


def test_the_cascade_answers_where_it_is_configured(ensemble_shop: Served) -> None:
    recommender = ensemble_shop.recommender
    found = recommender.recommend(USERS, k=10)
    assert found.retriever == "cascade"
    users, items = vectors_of(ensemble_shop)
    # serving.fusion_depth: the first model's list has 60 items.
    for answer, user in zip(found.answers, users, strict=True):
        first = np.argsort(-items[:, :8] @ user[:8], kind="stable")[:60]
        second = items[:, 8:] @ user[8:]
        expected = first[np.argsort(-second[first], kind="stable")][:10]
        served = [int(item["item_id"][1:]) for item in answer.items]
        np.testing.assert_allclose([item["score"] for item in answer.items], second[served], atol=1e-5)
        # The index may miss a few of the first list.
        assert len(set(served) & set(expected.tolist())) >= 8


def test_the_report_has_the_cascade_exactly_and_as_served(ensemble_shop: Served) -> None:
    report = json.loads((ensemble_shop.paths.report / "report.json").read_text())
    for task in report["tasks"]:
        arms = {arm["name"]: arm for arm in task["arms"]}
        assert (arms["cascade"]["layer"], arms["served (cascade)"]["layer"]) == ("exact", "index")
        assert arms["served (cascade)"]["index_recall"]["20"] > 0.8
        assert arms["cascade"]["metrics"]["recall@20"]["mean"] > 0


def test_a_cascade_over_vectors_of_one_model_is_refused(ensemble_shop: Served) -> None:
    bundle = ensemble_shop.recommender.bundle
    report = replace(bundle.manifest.facts.index_report, parts=(21,))
    facts = bundle.manifest.facts.model_copy(update={"index_report": report})
    single = replace(bundle, manifest=bundle.manifest.model_copy(update={"facts": facts}))
    config = ensemble_shop.config
    with pytest.raises(
        ValueError, match=r"retriever is 'cascade', which needs .* 1 part, width 21; fit a second model"
    ):
        retrievers_of(single, config.serving, ef_search=config.index.ef_search)


def test_mining_without_an_earlier_fit_is_an_error_with_advice(first_day: Any, tmp_path: Path) -> None:
    for part in ("tables", "features", "steps"):
        shutil.copytree(first_day.root / part, tmp_path / "corner_shop" / part, symlinks=True)
    shop = replace(first_day, runs=tmp_path)
    flags = [part for override in ENSEMBLE for part in ("--set", override)]
    assert shop.do("features", "--now", "2024-03-01", *flags).returncode == 0
    ran = shop.do("mine", "--now", "2024-03-01", *flags)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "run once with training.negatives.easy_per_hard: null (and training.hard_model_weight: null" in ran.stderr


def test_several_interests_are_fitted_embedded_and_published(interests_shop: Served) -> None:
    users, items = vectors_of(interests_shop)
    # Eight learned numbers, four factors and the missing length: four times for a user.
    assert (users.shape[1], items.shape[1]) == (4 * 13, 13)
    np.testing.assert_allclose(np.linalg.norm(users.reshape(-1, 13), axis=1), 1, atol=1e-5)
    assert "interests find" in interests_shop.shop.ran.stdout
    bundle = Bundle.open(interests_shop.paths.bundles / "current")
    assert (bundle.manifest.dimension, bundle.manifest.facts.index_report.num_interests) == (13, 4)
    assert "the best of 4 vectors of a user" in (bundle.folder / "MODEL_CARD.md").read_text()
    metrics = json.loads((interests_shop.paths.model / "epochs.json").read_text())["final"][-1]["metrics"]
    assert sum(metrics[f"interest_{number}_share"] for number in (1, 2, 3, 4)) == pytest.approx(1)


def test_lists_of_several_interests_are_those_of_the_largest_score(interests_shop: Served) -> None:
    users, items = vectors_of(interests_shop)
    best = np.einsum("ukd,nd->ukn", users.reshape(len(users), 4, 13), items).max(axis=1)
    recommender = interests_shop.recommender
    for answer, scores in zip(recommender.recommend(USERS, k=30, retriever="exact").answers, best, strict=True):
        served = np.array([int(item["item_id"][1:]) for item in answer.items])
        np.testing.assert_allclose([item["score"] for item in answer.items], scores[served], atol=1e-5)
        np.testing.assert_allclose(scores[served], -np.sort(-scores)[:30], atol=1e-5)
    found = recommender.recommend(USERS, k=30, explain=True, exclude_known=True, deny_categories=("tools",))
    for answer in found.answers:
        served = [item["item_id"] for item in answer.items]
        assert len(served) == len(set(served)) == 30
        by_index = [item["explanation"] for item in answer.items if item["explanation"]["found_by"]]
        assert {explanation["interest"]["number"] for explanation in by_index} <= {1, 2, 3, 4}
        assert by_index


def test_the_report_measures_several_interests_exactly_and_by_the_index(interests_shop: Served) -> None:
    report = json.loads((interests_shop.paths.report / "report.json").read_text())
    for task in report["tasks"]:
        arms = {arm["name"]: arm for arm in task["arms"]}
        assert arms["two-tower, HNSW"]["index_recall"]["20"] > 0.9
        assert arms["two-tower"]["metrics"]["recall@20"]["mean"] > 0


def test_a_second_run_with_interests_finds_every_step_unchanged(interests_shop: Served) -> None:
    ran = interests_shop.shop.do("run", "--dry-run", *interests_shop.flags)
    plan = [line for line in ran.stdout.split("resolved configuration:")[0].splitlines() if line.strip()]
    assert len(plan) == 8
    assert all("unchanged, would be skipped" in line for line in plan)
