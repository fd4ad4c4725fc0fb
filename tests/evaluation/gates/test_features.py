"""Checks of features: lost examples, features from the future, doubled ids and stale features fail."""

from __future__ import annotations

import datetime as dt
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.gates.features import differences
from evaluation.gates.gates import check
from features.columns import seconds_of

NEWEST, OLDEST = dt.date(2024, 3, 10), dt.date(2024, 2, 10)


@pytest.mark.parametrize("name", ["examples", "catalogue", "freshness"])
def test_an_ordinary_night_passes(trained: Any, name: str) -> None:
    assert check(trained.candidate(), name).outcome == "passed"


@pytest.mark.parametrize("day", [NEWEST, OLDEST])
def test_lost_examples_of_any_day_are_noticed(trained: Any, day: dt.date) -> None:
    trained.write_examples(day, 399)
    found = check(trained.candidate(), "examples")
    assert found.outcome == "failed"
    assert f"such as {day}: 399 examples of 400 events" in found.sentence


def test_a_day_without_examples_is_noticed(trained: Any) -> None:
    for file in (trained.paths.examples / str(NEWEST)).iterdir():
        file.unlink()
    assert "0 examples of 400 events" in check(trained.candidate(), "examples").sentence


def test_a_feature_younger_than_its_event_is_noticed(trained: Any) -> None:
    trained.write_examples(NEWEST, user_as_of_seconds=seconds_of(NEWEST) + 1)
    found = check(trained.candidate(), "examples")
    assert found.outcome == "failed"
    assert "120 of 120 rows have features from after their moment" in found.sentence


def test_nan_is_noticed_in_examples(trained: Any) -> None:
    trained.write_examples(NEWEST, item_price=float("inf"))
    assert "30 values of item_price are not finite" in check(trained.candidate(), "examples").sentence


def test_nan_is_noticed_in_the_catalogue(trained: Any) -> None:
    trained.write_examples(NEWEST, user_value=float("nan"))
    trained.write_catalogue()
    found = check(trained.candidate(), "catalogue")
    assert found.outcome == "failed"
    assert "120 values of user_value are not finite" in found.sentence


def test_a_doubled_item_and_a_lost_item_are_noticed(trained: Any) -> None:
    path = trained.paths.catalogue(dt.date(2024, 3, 11)) / "items.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), path)
    assert "2 ids occur twice" in check(trained.candidate(), "catalogue").sentence
    pq.write_table(table.slice(1), path)
    assert "it has 29 ids, and the tables have 30" in check(trained.candidate(), "catalogue").sentence


def test_old_features_and_another_days_online_store_are_noticed(trained: Any) -> None:
    trained.write_catalogue(age_days=2)
    found = check(trained.candidate(), "freshness")
    assert found.outcome == "failed"
    assert "the newest features of users are 2 days old" in found.sentence
    assert check(trained.candidate(max_feature_age_days=2), "freshness").outcome == "passed"
    trained.write_catalogue()
    shutil.rmtree(trained.paths.features / "online")
    found = check(trained.candidate(), "freshness")
    assert found.outcome == "failed"
    assert "the online store holds none of 2024-03-11; expected at most 0 days" in found.sentence


def test_rows_differ_by_any_value_but_not_by_the_last_bit() -> None:
    offline = pa.table({"user_id": ["a", "b", "c"], "value": [0.1, 2.0, None], "history": [["x"], ["x", "y"], []]})
    online = pa.table(
        {"user_id": ["a", "b", "c"], "value": [0.1 + 1e-9, 2.1, None], "history": [["x"], ["y", "x"], None]}
    )
    assert differences(offline, online) == {"user_id": 0, "value": 1, "history": 2}
