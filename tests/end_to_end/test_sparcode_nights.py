"""SparCode's warm starts from night to night, after a fit of it and after a night that did best without."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pytest

from serving.bundles.bundle import Bundle

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

SECOND, THIRD = dt.date(2024, 2, 5), dt.date(2024, 2, 6)
SPARCODE = "sparcode={{parts: 2, codes: 8, hidden_units: 4, batch_size: 64, choose_epochs: false, epochs: {epochs}}}"


@pytest.fixture(scope="module", params=[0, 1], ids=["unfitted", "fitted"])
def shop(request: pytest.FixtureRequest, first_night: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two nights after the first: a full retrain because of SparCode, and a warm start from it."""
    shop = first_night.elsewhere(tmp_path_factory.mktemp("sparcode_nights") / "shop")
    for day in (SECOND, THIRD):
        shop.arrive(day)
        ran = shop.night(day, "--set", SPARCODE.format(epochs=request.param))
        assert (ran.returncode, ran.stderr) == (0, "")
    return shop, request.param, ran.stdout


def state_of(shop: Any, day: dt.date) -> dict[str, Any]:
    with np.load(shop.root / "models" / str(day) / "state" / "sparcode.npz") as state:
        return dict(state)


def test_the_night_after_is_a_warm_start_and_fits_as_the_full_retrain_did(shop: Any) -> None:
    shop, epochs, output = shop
    lineages = [json.loads((shop.root / "models" / str(day) / "lineage.json").read_text()) for day in (SECOND, THIRD)]
    assert [line["is_warm_start"] for line in lineages] == [False, True]
    assert [line["sparcode_epochs"] for line in lineages] == [epochs, epochs]
    assert ("final sparcode epoch 1" in output) == (epochs > 0)


def test_learned_weights_are_carried_over(shop: Any) -> None:
    shop, epochs, _ = shop
    before, after = state_of(shop, SECOND), state_of(shop, THIRD)
    assert before.keys() == after.keys()
    steps = [int(state["@iterations"]) for state in (before, after)]
    if epochs:
        assert 0 < steps[0] < steps[1]
    else:
        assert steps == [0, 0]
        np.testing.assert_array_equal(before["products"], after["products"])


def test_the_night_after_serves_tables_of_its_own(shop: Any) -> None:
    shop, _, _ = shop
    opened = [Bundle.open(shop.root / "bundles" / shop.version(day)) for day in (SECOND, THIRD)]
    reports = [bundle.manifest.facts.sparcode_report for bundle in opened]
    assert all(report is not None and report.num_postings > 0 for report in reports)
