"""How do days of examples become batches?"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.encoding import Encoder, moments_of
from features.examples import Day
from training.dataset import BatchPlan, Span, balance_users, batches, count_items, load_span, spans
from training.negatives import KnownPositives

FIRST_DAY = dt.date(2020, 1, 1)
NUM_ITEM_ROWS = 25


def plan(span: Span, **changes: Any) -> BatchPlan:
    made = BatchPlan(
        batch_size=16,
        num_uniform=7,
        known=KnownPositives.of(np.array([1, 2]), np.array([1, 5]), num_user_rows=25),
        item_counts=count_items([span], NUM_ITEM_ROWS),
        correct=True,
    )
    return replace(made, **changes)


def pairs(span: Span) -> Counter[tuple[int, int, float]]:
    users, items = span.users["user_id"][span.user_row], span.items["item_id"][span.item_row]
    return Counter(zip(users.tolist(), items.tolist(), span.weight.tolist(), strict=True))


def equal(left: dict[str, npt.NDArray[Any]], right: dict[str, npt.NDArray[Any]]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def test_a_span_holds_the_examples_of_its_days_with_their_features(
    groups_folder: Path, groups_days: list[dt.date], groups_span: Span, encoder: Encoder
) -> None:
    expected = []
    for day in groups_days:
        loaded = Day.load(groups_folder / "examples" / str(day))
        users = encoder.encode_users(loaded.users, as_of_seconds=moments_of(loaded.users))
        for user, item in zip(
            loaded.events["user_row"].to_pylist(), loaded.events["item_row"].to_pylist(), strict=True
        ):
            row = encoder.item_ids.rows([loaded.items["item_id"][item].as_py()])[0]
            expected.append((*(values[user].tolist() for values in users.values()), int(row)))
    found = [
        (*(values[user].tolist() for values in groups_span.users.values()), int(groups_span.items["item_id"][item]))
        for user, item in zip(groups_span.user_row, groups_span.item_row, strict=True)
    ]
    assert found == expected
    assert len(groups_span) == 24 * 8
    assert len(groups_span.users["user_id"]) == 24 * 4  # one row for a basket of two items
    assert groups_span.weight.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 20, 100, 192, 500])
def test_each_example_comes_once_in_an_epoch_in_batches_of_equal_size(groups_span: Span, batch_size: int) -> None:
    found = list(batches(groups_span, plan(groups_span, batch_size=batch_size), seed=[1]))
    sizes = {len(batch["weight"]) for batch in found}
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == max(1, round(192 / batch_size))
    met = Counter(
        (user, item, weight)
        for batch in found
        for user, item, weight in zip(
            batch["user/user_id"].tolist(), batch["item/item_id"].tolist(), batch["weight"].tolist(), strict=False
        )
    )
    assert met == pairs(groups_span)


def test_a_batch_has_the_promised_arrays(groups_span: Span, encoder: Encoder) -> None:
    batch = next(batches(groups_span, plan(groups_span), seed=[1]))
    rows, columns = 16, 16 + 7
    for tower, prefix, count in (("user", "user/", rows), ("item", "item/", columns)):
        for spec in encoder.input_specs(tower):  # type: ignore[arg-type]
            values = batch[prefix + spec.name]
            assert values.shape == ((count,) if spec.length is None else (count, spec.length))
            assert values.dtype == spec.dtype
    assert (batch["mask"].shape, batch["mask"].dtype) == ((rows, columns), bool)
    assert (batch["log_q"].shape, batch["log_q"].dtype) == ((columns,), np.float32)
    assert (batch["weight"].shape, batch["weight"].dtype) == ((rows,), np.float32)


def test_the_same_seed_gives_the_same_batches_and_another_one_does_not(groups_span: Span) -> None:
    first, again, other = (list(batches(groups_span, plan(groups_span), seed=[1, epoch])) for epoch in (0, 0, 1))
    assert all(equal(left, right) for left, right in zip(first, again, strict=True))
    assert not any(equal(left, right) for left, right in zip(first, other, strict=True))


def test_uniform_negatives_stand_behind_the_own_items_and_come_from_their_pool_in_turn(groups_span: Span) -> None:
    pool_size = len(groups_span.uniform["item_id"])
    numbered = np.broadcast_to(1000 + np.arange(pool_size)[:, None], groups_span.uniform["item_numeric"].shape)
    marked = replace(groups_span, uniform={**groups_span.uniform, "item_numeric": numbered.astype(np.float32)})
    drawn: Counter[float] = Counter()
    for batch in batches(marked, plan(marked, num_uniform=16), seed=[1]):
        number_of = batch["item/item_numeric"][:, 0]
        assert (number_of[:-16] < 1000).all()
        assert (number_of[-16:] >= 1000).all()
        drawn.update(number_of[-16:].tolist())
    # Twelve batches of sixteen from a pool of 96: everybody comes twice.
    assert len(drawn) == pool_size == 96
    assert set(drawn.values()) == {2}


def test_without_uniform_negatives_only_own_items_are_candidates(groups_span: Span) -> None:
    empty = replace(groups_span, uniform={name: values[:0] for name, values in groups_span.uniform.items()})
    batch = next(batches(empty, plan(groups_span, num_uniform=0), seed=[1]))
    assert batch["mask"].shape == (16, 16)


def test_log_q_is_the_log_of_the_draws_or_zero(groups_span: Span) -> None:
    counts = count_items([groups_span], NUM_ITEM_ROWS)
    batch = next(batches(groups_span, plan(groups_span), seed=[1]))
    expected = np.log(16 * counts[batch["item/item_id"]] / 192 + 7 / 24)
    np.testing.assert_allclose(batch["log_q"], expected, rtol=1e-6)
    uncorrected = next(batches(groups_span, plan(groups_span, correct=False), seed=[1]))
    assert not uncorrected["log_q"].any()


def test_items_are_counted_over_spans(groups_span: Span) -> None:
    counts = count_items([groups_span, groups_span], NUM_ITEM_ROWS)
    expected = Counter(groups_span.items["item_id"][groups_span.item_row].tolist())
    assert counts.tolist() == [2 * expected[row] for row in range(NUM_ITEM_ROWS)]
    assert count_items([], 3).tolist() == [0, 0, 0]


def test_only_first_meetings_are_kept_where_asked(
    tmp_path: Path, write_days: Callable[..., list[dt.date]], event: Any, encoder: Encoder
) -> None:
    events = [
        event(1, 1, first=True, reward=2.0),
        event(1, 2, second=5, first=False, reward=3.0),
        event(2, 1, day=1, first=False),
    ]
    days = write_days(tmp_path, events)
    kept, every = (
        load_span(tmp_path, days, encoder, only_first=only_first, user_balance=0) for only_first in (True, False)
    )
    assert pairs(kept) == {(2, 2, 2.0): 1}
    assert pairs(every) == {(2, 2, 2.0): 1, (2, 3, 3.0): 1, (3, 2, 1.0): 1}
    nothing = load_span(tmp_path, days[1:], encoder, only_first=True, user_balance=1)
    assert len(nothing) == 0


class Reader:
    """Reads spans and remembers which days it was asked for."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.asked: list[list[dt.date]] = []
        self._folder, self._encoder = folder, encoder

    def __call__(self, days: Sequence[dt.date]) -> Span:
        self.asked.append(list(days))
        return load_span(self._folder, days, self._encoder, only_first=True, user_balance=1)


def test_spans_come_in_the_order_of_time_each_day_once(
    groups_folder: Path, groups_days: list[dt.date], encoder: Encoder
) -> None:
    read = Reader(groups_folder / "examples", encoder)
    found = list(spans(groups_days, 3, read, held=None))
    assert read.asked == [groups_days[:3], groups_days[3:]]
    assert [len(span) for span in found] == [24 * 6, 24 * 2]


def test_a_span_is_read_when_its_turn_comes(groups_folder: Path, groups_days: list[dt.date], encoder: Encoder) -> None:
    read = Reader(groups_folder / "examples", encoder)
    turns: Iterator[Span] = spans(groups_days, 1, read, held=None)
    assert read.asked == []
    next(turns)
    next(turns)
    assert read.asked == [groups_days[:1], groups_days[1:2]]


def test_held_spans_are_read_once_and_others_again_with_the_same_result(
    groups_folder: Path, groups_days: list[dt.date], encoder: Encoder
) -> None:
    epochs: dict[bool, list[list[dict[str, Any]]]] = {}
    for keep in (True, False):
        read = Reader(groups_folder / "examples", encoder)
        held: dict[dt.date, Span] | None = {} if keep else None
        epochs[keep] = [
            [batch for span in spans(groups_days, 2, read, held=held) for batch in batches(span, plan(span), seed=[4])]
            for _ in range(2)
        ]
        assert len(read.asked) == (2 if keep else 4)
    reference = epochs[True][0]
    for found in (*epochs[True], *epochs[False]):
        assert all(equal(left, right) for left, right in zip(found, reference, strict=True))


def test_days_without_examples_give_no_span(
    tmp_path: Path, write_days: Callable[..., list[dt.date]], event: Any, encoder: Encoder
) -> None:
    days = write_days(tmp_path, [event(1, 1), event(2, 1, day=1, first=False), event(3, 1, day=2)])
    found = list(spans(days, 1, Reader(tmp_path, encoder), held={}))
    assert [pairs(span).most_common(1)[0][0][0] for span in found] == [2, 4]


def with_weights(users: npt.NDArray[np.int64], weight: npt.NDArray[np.float32]) -> Span:
    distinct, row = np.unique(users, return_inverse=True)
    none = {"item_id": np.zeros(1, np.int32)}
    return Span({"user_id": distinct.astype(np.int32)}, none, none, row, np.zeros(len(users), np.int64), weight)


def test_balanced_users_count_alike() -> None:
    span = with_weights(np.array([4, 4, 4, 7]), np.ones(4, np.float32))
    # w = 1/3, 1/3, 1/3, 1 with mean 1/2, scaled back to a mean of 1.
    np.testing.assert_allclose(balance_users(span, 1.0).weight, [2 / 3, 2 / 3, 2 / 3, 2], rtol=1e-6)
    # w = 3^-1/2 three times and 1: mean (3^1/2 + 1) / 4.
    mean = (3**0.5 + 1) / 4
    np.testing.assert_allclose(balance_users(span, 0.5).weight, [3**-0.5 / mean] * 3 + [1 / mean], rtol=1e-6)
    assert balance_users(span, 0) is span


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1))
def test_balancing_keeps_the_mean_and_the_ratios_within_a_user(seed: int, num_examples: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 6, num_examples)
    weight = rng.exponential(1, num_examples).astype(np.float32)
    balanced = balance_users(with_weights(users, weight), power).weight
    assert balanced.dtype == np.float32
    assert balanced.mean() == pytest.approx(weight.mean(), rel=1e-5)
    for user in np.unique(users):
        own = users == user
        np.testing.assert_allclose(balanced[own] / balanced[own].sum(), weight[own] / weight[own].sum(), rtol=1e-4)


def test_rewards_of_zero_stay_zero() -> None:
    span = with_weights(np.array([1, 1, 2]), np.zeros(3, np.float32))
    assert balance_users(span, 1.0).weight.tolist() == [0, 0, 0]
