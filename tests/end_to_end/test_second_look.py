"""The second look from raw orders to the answer: fitted, compared, gated, served, and kept from night to night."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from serving.bundles.manifest import read_manifest
from serving.config import ServeSections
from serving.open import open_recommender
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

FIRST = dt.date(2024, 2, 4)
SECOND = FIRST + dt.timedelta(days=1)
OVERRIDES = ("serving.second_look={epochs: 4, depth: 40, history: 5}", "training.validation_days=4")
FLAGS = [part for override in OVERRIDES for part in ("--set", override)]


@dataclass(frozen=True)
class Nights:
    """Two nights of a shop with a second look, and what they printed."""

    shop: Any
    first: Any
    second: Any


@pytest.fixture(scope="module")
def nights(first_night: Any, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    shop = first_night.elsewhere(tmp_path_factory.mktemp("second_look"))
    first = shop.night(FIRST, *FLAGS)
    shop.arrive(SECOND)
    return Nights(shop, first, shop.night(SECOND, *FLAGS))


def line_of(ran: Any, step: str) -> str:
    """What a step has printed."""
    [line] = [line for line in ran.stdout.splitlines() if line.startswith(step)]
    return str(line)


def test_a_night_fits_it_between_the_index_and_the_bundle_and_its_gates_pass(nights: Nights) -> None:
    for ran in (nights.first, nights.second):
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        steps = [line.split()[0] for line in ran.stdout.splitlines() if line.strip()]
        assert steps[steps.index("index") :][:5] == ["index", "second_look", "bundle", "gates", "publish"]
        assert "lists of" in line_of(ran, "second_look")
    names = json.loads((nights.shop.root / "gates" / f"{SECOND}.json").read_text())
    assert "second_look" in json.dumps(names)


def test_a_warm_start_adds_its_lists_to_those_of_the_night_before(nights: Nights) -> None:
    first, second = (
        read_manifest(nights.shop.root / "bundles" / nights.shop.version(day)).facts.second_look_report
        for day in (FIRST, SECOND)
    )
    assert first is not None
    assert second is not None
    assert second.num_lists > first.num_lists
    assert second.lists == ("repeat", "two_tower", "popularity")


def test_what_is_served_was_compared_with_it(nights: Nights) -> None:
    facts = read_manifest(nights.shop.root / "bundles" / nights.shop.version(FIRST)).facts
    assert "second_look" in {one.retriever for one in facts.served.tried}


def test_a_request_may_ask_for_it_and_is_told_what_counted(nights: Nights) -> None:
    config = load(nights.shop.config, (*OVERRIDES, f"as_of={SECOND}"))
    recommender = open_recommender(pick(ServeSections, config), RunPaths(nights.shop.root, SECOND))
    found = recommender.recommend(["c00", "c01", "unknown"], k=30, retriever="second_look", explain=True)
    for answer in found.answers:
        assert len({item["item_id"] for item in answer.items}) == 30
    explained = found.answers[0].items[0]["explanation"]
    assert {*explained["found_by"]} <= {"repeat", "two_tower", "popularity"}
    assert 1 <= len(explained["counted"]) <= 3
    # Popular items answer who is unknown, and nothing has counted.
    assert found.answers[2].fallback == "popularity"


def test_the_command_line_fits_it_alone_and_names_the_key_where_it_is_left_out(nights: Nights) -> None:
    planned = nights.shop.do("second-look", "--dry-run", "--as-of", str(SECOND), *FLAGS)
    assert planned.returncode == 0, planned.stderr
    plan = planned.stdout.split("resolved configuration:")[0]
    assert [line.split()[0] for line in plan.splitlines() if line.strip()] == ["second_look"]
    refused = nights.shop.do("second-look", "--as-of", str(SECOND))
    assert refused.returncode == 1
    assert "serving.second_look is null" in refused.stderr
