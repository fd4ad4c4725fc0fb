"""Checks of drift: a shift of numbers or categories fails, chance does not."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest

from evaluation.gates.drift import binned, drift_of
from evaluation.gates.gates import check

NEWEST = dt.date(2024, 3, 10)


def test_the_index_by_hand() -> None:
    # (1/2 - 1/4) ln 2 + (1/2 - 3/4) ln (2/3) = 1/4 ln 3
    found = drift_of(np.array([50, 50]), np.array([25, 75]), num_new=100, num_before=100)
    assert found.index == pytest.approx(math.log(3) / 4)


def test_an_empty_bin_counts_as_half_a_sample() -> None:
    found = drift_of(np.array([100, 0]), np.array([50, 50]), num_new=100, num_before=100)
    share = 0.005 / 1.005
    assert found.index == pytest.approx((1 / 1.005 - 0.5) * math.log(2 / 1.005) + (share - 0.5) * math.log(2 * share))


def test_chance_exceeds_the_threshold_once_in_a_thousand() -> None:
    rng = np.random.default_rng(5)
    shares = np.full(10, 0.1)
    draws = [drift_of(rng.multinomial(300, shares), rng.multinomial(900, shares), num_new=300, num_before=900)
             for _ in range(2000)]  # fmt: skip
    assert sum(draw.beyond_chance > 0 for draw in draws) < 12


def test_numbers_fall_between_deciles_and_missing_ones_apart() -> None:
    before = np.append(np.arange(100.0), np.nan)
    new, earlier = binned(np.array([-5.0, 1000.0, np.nan]), before)
    assert earlier.tolist() == [0] + [10] * 10 + [0, 1]
    assert new.tolist() == [1] + [0] * 10 + [1, 1]


def test_a_constant_has_a_bin_below_and_a_bin_above() -> None:
    new, earlier = binned(np.array([0.5, 1.0, 2.0, 2.0]), np.ones(50))
    assert (earlier.tolist(), new.tolist()) == ([0, 50, 0, 0], [1, 1, 2, 0])


def test_rare_unseen_and_missing_values_have_their_bins() -> None:
    before = np.array([f"v{value:02}" for value in range(25) for _ in range(30 - value)] + [None], dtype=object)
    new, earlier = binned(np.array(["v00", "v24", "unseen", None], dtype=object), before)
    assert (new[0], new[20], new[21]) == (1, 2, 1)
    assert (earlier[0], earlier[20], earlier[21]) == (30, sum(range(6, 11)), 1)


@pytest.mark.parametrize("name", ["numeric_drift", "category_drift"])
def test_an_ordinary_day_passes(trained: Any, name: str) -> None:
    assert check(trained.candidate(), name).outcome == "passed"


@pytest.mark.parametrize(
    ("name", "field", "value", "column"),
    [
        ("numeric_drift", "user_num_events", 0, "user_events"),
        ("numeric_drift", "age", None, "age"),
        ("numeric_drift", "value", 100.0, "value"),
        ("numeric_drift", "reward", 0.5, "reward"),
        ("category_drift", "country", None, "users.country"),
        ("category_drift", "aisle", "Fruit", "items.aisle"),
    ],
)
def test_a_shift_is_noticed(trained: Any, name: str, field: str, value: Any, column: str) -> None:
    trained.write_examples(NEWEST, **{field: value})
    found = check(trained.candidate(), name)
    assert found.outcome == "failed"
    assert f"{column} has a stability index of" in found.sentence
    assert found.found[column] > found.expected["max_drift"] == 0.25


def test_few_users_are_not_checked(trained: Any) -> None:
    trained.write_examples(NEWEST, age=None)
    found = check(trained.candidate(drift_min_users=121), "numeric_drift")
    assert found.outcome == "not applicable"
    assert "the new days have 120 users, expected at least 121" in found.sentence


def test_a_young_log_is_not_checked(trained: Any) -> None:
    for file in sorted((trained.paths.tables / "events").iterdir())[:-50]:
        file.unlink()
    assert "begin less than 56 days before 2024-03-10" in check(trained.candidate(), "numeric_drift").sentence
