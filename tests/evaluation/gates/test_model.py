"""Checks of a fit: a worse fit, broken vectors and collapsed lists fail, bad luck does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.gates.gates import check
from serving.retrieval.vectors import read_vectors

NUM_HELD_OUT = 300


def write_held_out(shop: Any, fit: Any, parent: Any) -> None:
    with (shop.paths.model / "held_out.npz").open("wb") as file:
        np.savez(file, users=np.arange(len(fit)), k=np.asarray(100), fit=fit, parent=parent)


@pytest.fixture
def parent_recall() -> Any:
    return np.random.default_rng(2).uniform(0, 0.2, NUM_HELD_OUT)


def test_a_fit_that_is_worse_beyond_doubt_fails(trained: Any, parent_recall: Any) -> None:
    write_held_out(trained, parent_recall * 0.8, parent_recall)
    found = check(trained.candidate(), "held_out_recall")
    assert found.outcome == "failed"
    assert "recall@100 of 300 users held out is" in found.sentence
    expected = 2.8 * (parent_recall * 0.2).std() / NUM_HELD_OUT**0.5
    assert found.found["smallest_detectable"] == pytest.approx(expected, rel=0.01)
    assert found.found["high"] < found.expected["lowest"] == pytest.approx(-0.02 * parent_recall.mean())
    assert check(trained.candidate(recall_margin=0.3), "held_out_recall").outcome == "passed"


def test_a_fit_that_is_worse_by_luck_or_within_the_margin_passes(trained: Any, parent_recall: Any) -> None:
    write_held_out(trained, np.random.default_rng(3).permutation(parent_recall) - 0.003, parent_recall)
    assert check(trained.candidate(), "held_out_recall").outcome == "passed"
    write_held_out(trained, parent_recall * 0.99, parent_recall)
    assert check(trained.candidate(), "held_out_recall").outcome == "passed"


def test_few_held_out_users_are_not_checked(trained: Any) -> None:
    write_held_out(trained, np.zeros(99), np.ones(99))
    found = check(trained.candidate(), "held_out_recall")
    assert found.outcome == "not applicable"
    assert "99 users held out met something new, expected at least 100" in found.sentence
    assert "raise daily.holdout_share" in found.to_do
    first = check(trained.candidate(parent=False), "held_out_recall")
    assert (first.outcome, first.to_do) == ("not applicable", "nothing now: the next night is compared with this one")


@pytest.mark.parametrize("name", ["vectors", "collapse", "changed_lists"])
def test_ordinary_vectors_pass(trained: Any, name: str) -> None:
    assert check(trained.candidate(), name).outcome == "passed"


def test_new_items_that_are_behind_all_others_fail_where_there_is_a_limit(trained: Any) -> None:
    items = trained.paths.catalogue(trained.paths.as_of) / "items.parquet"
    table = pq.read_table(items)
    place = table.column_names.index("item_num_events")
    events = np.ones(table.num_rows, np.int64)
    assert check(trained.candidate(), "cold_items").outcome in ("passed", "not applicable")
    pq.write_table(table.set_column(place, "item_num_events", pa.array(events)), items)
    found = check(trained.candidate(max_cold_rank=0.1), "cold_items")
    assert (found.outcome, found.sentence) == ("not applicable", "every item has events")
    num_users, width = read_vectors(trained.paths.vectors / "users").shape
    same, other = np.eye(width)[0], 0.6 * np.eye(width)[0] + 0.8 * np.eye(width)[1]
    vectors = np.tile(same, (table.num_rows, 1))
    vectors[3] = other
    trained.write_vectors(trained.paths, users=np.tile(same, (num_users, 1)), items=vectors)
    events[3] = 0
    pq.write_table(table.set_column(place, "item_num_events", pa.array(events)), items)
    found = check(trained.candidate(max_cold_rank=0.5), "cold_items")
    assert found.outcome == "failed"
    last = f"{table.num_rows:,}"
    assert found.sentence == (
        f"1 items with 0 events: mean score +0.600, median rank {last} of {last}, the best of a user {last}; expected "
        f"at most {table.num_rows / 2:,.0f}"
    )
    assert "training.item_dropout" in found.to_do
    assert check(trained.candidate(max_cold_rank=1.0), "cold_items").outcome == "passed"
    assert check(trained.candidate(), "cold_items").outcome == "passed"


def test_vectors_that_are_not_finite_fail(trained: Any, make_unit: Callable[..., Any]) -> None:
    spoiled = make_unit(30)
    spoiled[[3, 5], 1] = np.nan, np.inf
    trained.write_vectors(trained.paths, items=spoiled)
    found = check(trained.candidate(), "vectors")
    assert found.outcome == "failed"
    assert "2 of 30 items' vectors are not finite" in found.sentence


def test_vectors_of_another_length_fail(trained: Any, make_unit: Callable[..., Any]) -> None:
    trained.write_vectors(trained.paths, users=make_unit(120) * 1.5)
    found = check(trained.candidate(), "vectors")
    assert found.outcome == "failed"
    assert found.found["users_norm_off"] == pytest.approx(0.5)


def test_the_same_list_for_everybody_fails(trained: Any, make_unit: Callable[..., Any]) -> None:
    one = make_unit(120) * 0.1 + make_unit(1)
    trained.write_vectors(trained.paths, users=one / np.linalg.norm(one, axis=1, keepdims=True))
    found = check(trained.candidate(), "collapse")
    assert found.outcome == "failed"
    assert "of the way to the same list for all users" in found.sentence


def test_vectors_on_one_direction_fail(trained: Any, make_unit: Callable[..., Any]) -> None:
    one = make_unit(30) * 0.01 + make_unit(1)
    trained.write_vectors(trained.paths, items=one / np.linalg.norm(one, axis=1, keepdims=True))
    found = check(trained.candidate(max_common_share=None, min_distinct_ratio=None), "collapse")
    assert found.outcome == "failed"
    assert "mean cosine of two items is above 0.99" in found.sentence


def test_lists_with_half_of_the_previous_nights_items_fail(trained: Any, make_unit: Callable[..., Any]) -> None:
    far = make_unit(30)
    far[10:] = -np.abs(far[10:])
    trained.write_vectors(trained.paths, users=np.abs(make_unit(120)), items=far)
    candidate = trained.candidate(max_common_share=None, max_mean_cosine=None, min_distinct_ratio=0.9)
    found = check(candidate, "collapse")
    assert found.outcome == "failed"
    assert "of the 30 the previous night, below 0.9" in found.sentence


def test_lists_equal_to_the_previous_nights_are_a_warning(trained: Any) -> None:
    trained.write_vectors(trained.before)
    found = check(trained.candidate(), "changed_lists")
    assert found.outcome == "warned"
    assert "100.0% of the lists are those of the previous night" in found.sentence
    assert check(trained.candidate(parent=False), "changed_lists").outcome == "not applicable"
