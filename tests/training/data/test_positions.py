"""Earlier positions in batches: their targets, and histories that close up."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.data.batches import BatchPlan, Span, batches
from training.data.positions import Targets, without_some
from training.negatives.source import Descriptions

plan_of = runpy.run_path(str(Path(__file__).parent / "test_batches.py"))["plan"]


def plan(span: Span, **changes: Any) -> BatchPlan:
    made: BatchPlan = plan_of(span, **changes)
    return made


def test_targets_are_the_latest_items_that_something_describes() -> None:
    # Item 4 is described by rows 0 and 3, item 2 by row 1; 9 is a bucket of unknown ids.
    descriptions = Descriptions(np.array([4, 2, 5, 4]), num_of_examples=3, num_item_rows=7, catalogue_size=6)
    history = np.array([[4, 2, 6], [9, 4, 0], [0, 0, 0]], np.int32)
    rows = set()
    for seed in range(20):
        found = Targets.of(history, 2, descriptions, np.random.default_rng(seed))
        items = np.where(found.place >= 0, found.items[found.place], -1)
        assert items.tolist() == [[4, 2], [-1, 4], [-1, -1]]
        known = found.items > 0
        np.testing.assert_array_equal(descriptions.items[found.rows[known]], found.items[known])
        rows |= set(found.rows[known].tolist())
    assert rows == {0, 1, 3}


def test_items_that_are_left_out_make_room_for_older_ones() -> None:
    rng = np.random.default_rng(1)
    items = np.tile(np.array([[5, 3, 0, 8, 0]], np.int32), (2000, 1))
    ages = np.tile(np.array([[1, 2, 0, 4, 0]], np.float32), (2000, 1))
    found = without_some(items, ages, 0.25, rng)
    rows, kept_ages = found["user_history"], found["user_history_age_days"]
    assert (rows.dtype, kept_ages.dtype) == (np.int32, np.float32)
    lengths = (rows > 0).sum(axis=1)
    assert ((np.arange(5) < lengths[:, None]) == (rows > 0)).all()
    assert {tuple(row[row > 0]) for row in rows} == {
        (5, 3, 8), (5, 3), (5, 8), (3, 8), (5,), (3,), (8,), ()
    }  # fmt: skip
    age_of = np.array([0, 0, 0, 2, 0, 1, 0, 0, 4], np.float32)
    np.testing.assert_array_equal(kept_ages, age_of[rows])
    assert abs(lengths.mean() / 3 - 0.75) < 0.02


def test_batches_describe_the_targets_of_positions_and_correct_for_them(groups_span: Span) -> None:
    seen = 0
    for batch in batches(groups_span, plan(groups_span, num_positions=2, history_dropout=0.3), seed=[1]):
        place, items = batch["target"], batch["target/item_id"]
        rows, columns = np.nonzero(place >= 0)
        wanted = batch["user/user_history"][rows, columns]
        np.testing.assert_array_equal(items[place[rows, columns]], wanted)
        assert (wanted > 0).all()
        seen += len(rows)
        # An item has one q, whether it is a candidate or a target.
        q_of = dict(zip(batch["item/item_id"].tolist(), batch["log_q"].tolist(), strict=True))
        for which in set(place[place >= 0].tolist()):
            log_q = float(batch["target_log_q"][which])
            assert log_q == q_of.get(int(items[which]), log_q)
        names = {name.removeprefix("target/") for name in batch if name.startswith("target/")}
        assert names == {name.removeprefix("item/") for name in batch if name.startswith("item/")}
        assert len({len(batch[f"target/{name}"]) for name in names} | {len(batch["target_log_q"])}) == 1
    assert seen > 50


def test_without_positions_batches_are_what_they_were(groups_span: Span) -> None:
    plain = list(batches(groups_span, plan(groups_span), seed=[1]))
    none = list(batches(groups_span, replace(plan(groups_span), num_positions=0), seed=[1]))
    for one, other in zip(plain, none, strict=True):
        assert one.keys() == other.keys()
        assert not [name for name in one if "target" in name]
        assert all(np.array_equal(one[name], other[name]) for name in one)
