"""Days of examples become batches."""

from __future__ import annotations

import datetime as dt
import inspect
import runpy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from features.encoding import Encoder, moments_of
from features.examples import Day
from training.data.batches import BatchPlan, Span, batches, count_items, epoch_batches, load_span, spans
from training.negatives.known_positives import KnownPositives
from training.negatives.private import UserNegatives
from training.negatives.sampling_bias import StreamingFrequency

FIRST_DAY = dt.date(2020, 1, 1)
NUM_ITEM_ROWS = 25
sources_of = runpy.run_path(str(Path(__file__).parents[1] / "fit_for_tests.py"))["sources_of"]
DRAWN = inspect.signature(sources_of).parameters


def plan(span: Span, **changes: Any) -> BatchPlan:
    drawn = {name: changes.pop(name) for name in DRAWN if name in changes}
    made = BatchPlan(
        batch_size=16,
        in_batch=True,
        queue_size=0,
        sources=sources_of(**{"num_uniform": 7, **drawn}),
        known=KnownPositives.of(np.array([1, 2]), np.array([1, 5]), num_user_rows=25),
        num_item_rows=NUM_ITEM_ROWS,
        catalogue_size=NUM_ITEM_ROWS - 1,
        correct=True,
        frequency=None,
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


def test_items_of_histories_are_left_out_at_random_in_batches_alone(groups_span: Span) -> None:
    before = groups_span.users["user_history"].copy()
    found = list(batches(groups_span, plan(groups_span, history_dropout=0.4), seed=[1]))
    again = list(batches(groups_span, plan(groups_span, history_dropout=0.4), seed=[1]))
    assert all(map(equal, found, again))
    np.testing.assert_array_equal(groups_span.users["user_history"], before)
    num_kept = sum(int((batch["user/user_history"] > 0).sum()) for batch in found)
    whole = list(batches(groups_span, plan(groups_span), seed=[1]))
    num_items = sum(int((batch["user/user_history"] > 0).sum()) for batch in whole)
    # Four standard errors of a share.
    assert abs(num_kept / num_items - 0.6) < 4 * (0.4 * 0.6 / num_items) ** 0.5


def test_items_are_described_without_events_wherever_they_are_in_a_batch(groups_span: Span, encoder: Encoder) -> None:
    none = encoder.without_events()
    for values in none.values():
        values += 50  # as nothing in the data is
    drawn = {"num_uniform": 7, "num_random": 2, "num_positions": 2}
    found = list(batches(groups_span, plan(groups_span, item_dropout=0.4, without_events=none, **drawn), seed=[1]))
    again = list(batches(groups_span, plan(groups_span, item_dropout=0.4, without_events=none, **drawn), seed=[1]))
    assert all(map(equal, found, again))
    num_dropped = num_items = 0
    for batch in found:
        dropped: dict[int, set[bool]] = {}
        for prefix in ("item/", "target/"):
            numbers = batch[prefix + "item_numeric"][:, : len(none["item_numeric"])]
            are_dropped = (numbers == none["item_numeric"]).all(axis=1)
            assert (are_dropped == (numbers == none["item_numeric"]).any(axis=1)).all()
            for item, is_dropped in zip(batch[prefix + "item_id"].tolist(), are_dropped.tolist(), strict=True):
                dropped.setdefault(item, set()).add(is_dropped)
        assert all(len(states) == 1 for states in dropped.values())
        num_dropped += sum(states == {True} for states in dropped.values())
        num_items += len(dropped)
    # Four standard errors of a share.
    assert abs(num_dropped / num_items - 0.4) < 4 * (0.4 * 0.6 / num_items) ** 0.5


def test_what_items_are_compared_with_does_not_depend_on_whether_they_are_described_with_events(
    groups_span: Span, encoder: Encoder
) -> None:
    plans = [plan(groups_span, item_dropout=share, without_events=encoder.without_events()) for share in (0.0, 0.9)]
    whole, dropped = (next(batches(groups_span, one, seed=[1])) for one in plans)
    for name in ("item/item_id", "mask", "log_q", "weight", "user/user_id", "user/user_history"):
        np.testing.assert_array_equal(whole[name], dropped[name])
    assert not np.array_equal(whole["item/item_numeric"], dropped["item/item_numeric"])


def test_what_is_known_of_events_is_missing_in_a_share_of_the_examples(groups_span: Span) -> None:
    numbers = np.arange(1, 1 + len(groups_span), dtype=np.int32)
    missing = np.zeros(len(groups_span.users["user_id"]), np.int32)
    users = {**groups_span.users, "device": missing, "place": missing}
    span = replace(groups_span, users=users, context={"device": numbers, "place": -numbers})
    owner = {number: groups_span.users["user_id"][row] for number, row in zip(numbers, span.user_row, strict=True)}
    for share in (0.0, 0.4, 1.0):
        found = list(batches(span, plan(span, context_dropout=share), seed=[1]))
        devices, places = (np.concatenate([batch[f"user/{name}"] for batch in found]) for name in ("device", "place"))
        np.testing.assert_array_equal(devices, -places)
        given = devices[devices > 0]
        assert len(set(given)) == len(given)
        # Four standard errors of a share.
        assert abs(len(given) / len(numbers) - (1 - share)) <= 4 * (share * (1 - share) / len(numbers)) ** 0.5
        for batch in found:
            for user, device in zip(batch["user/user_id"], batch["user/device"], strict=True):
                assert device == 0 or owner[device] == user
    assert not span.users["device"].any()


def test_uniform_negatives_follow_the_own_items_and_are_taken_from_their_pool_in_turn(groups_span: Span) -> None:
    pool_size = len(groups_span.uniform["item_id"])
    numbered = np.broadcast_to(1000 + np.arange(pool_size)[:, None], groups_span.uniform["item_numeric"].shape)
    marked = replace(groups_span, uniform={**groups_span.uniform, "item_numeric": numbered.astype(np.float32)})
    drawn: Counter[float] = Counter()
    for batch in batches(marked, plan(marked, num_uniform=16), seed=[1]):
        number_of = batch["item/item_numeric"][:, 0]
        assert (number_of[:-16] < 1000).all()
        assert (number_of[-16:] >= 1000).all()
        drawn.update(number_of[-16:].tolist())
        assert len(set(batch["item/item_id"][-16:].tolist())) >= 12  # none twice but where a round ends
    # Twelve batches of sixteen from a pool of 96: everybody comes twice.
    assert len(drawn) == pool_size == 96
    assert set(drawn.values()) == {2}


def test_without_uniform_negatives_only_own_items_are_candidates(groups_span: Span) -> None:
    empty = replace(groups_span, uniform={name: values[:0] for name, values in groups_span.uniform.items()})
    batch = next(batches(empty, plan(groups_span, num_uniform=0), seed=[1]))
    assert batch["mask"].shape == (16, 16)


def missing(counts: npt.NDArray[Any], population: int, num_drawn: int) -> npt.NDArray[np.float64]:
    """Chance that a draw without replacement has none of an item's examples, counted out."""
    total = comb(population, num_drawn)
    return np.array([comb(population - int(count), num_drawn) / total for count in counts])


def test_log_q_is_the_log_of_the_presence_or_zero(groups_span: Span) -> None:
    counts = count_items([groups_span], NUM_ITEM_ROWS)
    batch = next(batches(groups_span, plan(groups_span), seed=[1]))
    # 15 of the 191 other examples, and 7 of the 24 items drawn evenly.
    expected = np.log(1 - missing(counts[batch["item/item_id"]], 191, 15) * (1 - 7 / 24))
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
        load_span(tmp_path, days, encoder, only_first=only_first, user_balance=0, reward="reward", reward_power=1.0)
        for only_first in (True, False)
    )
    assert pairs(kept) == {(2, 2, 2.0): 1}
    assert pairs(every) == {(2, 2, 2.0): 1, (2, 3, 3.0): 1, (3, 2, 1.0): 1}
    nothing = load_span(tmp_path, days[1:], encoder, only_first=True, user_balance=1, reward="reward", reward_power=1.0)
    assert len(nothing) == 0


class Reader:
    """Reads spans and remembers which days it was asked for."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.asked: list[list[dt.date]] = []
        self._folder, self._encoder = folder, encoder

    def __call__(self, days: Sequence[dt.date]) -> Span:
        self.asked.append(list(days))
        return load_span(
            self._folder, days, self._encoder, only_first=True, user_balance=1, reward="reward", reward_power=1.0
        )


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


def test_a_span_is_let_go_of_before_the_next_one_is_read(
    groups_folder: Path, groups_days: list[dt.date], groups_span: Span, encoder: Encoder
) -> None:
    read, made = Reader(groups_folder / "examples", encoder), plan(groups_span)
    earlier: list[weakref.ref[Span]] = []

    def load(days: Sequence[dt.date]) -> Span:
        assert not [one for one in earlier if one() is not None]
        span = read(days)
        earlier.append(weakref.ref(span))
        return span

    assert list(epoch_batches(spans(groups_days, 1, load, held=None), made, seed=[1]))
    assert len(earlier) == len(groups_days)


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


def lists(items: npt.ArrayLike, num_users: int = 25) -> UserNegatives:
    """The same list for every user."""
    items = np.asarray(items, np.int64)
    return UserNegatives.of(np.repeat(np.arange(num_users), len(items)), np.tile(items, num_users), num_user_rows=25)


def test_private_negatives_follow_the_shared_ones_row_by_row(groups_span: Span) -> None:
    made = plan(
        groups_span, mined=lists([3, 4, 5]), num_mined=2, impressions=lists([9]), num_impressions=1, num_random=2
    )
    for batch in batches(groups_span, made, seed=[1]):
        items = batch["item/item_id"][16 + 7 :].reshape(16, 5)
        assert np.isin(items[:, :2], [3, 4, 5]).all()
        assert (items[:, 0] != items[:, 1]).all()
        assert (items[:, 2] == 9).all()
        assert (batch["mask"].shape, batch["log_q"].shape) == ((16, 16 + 7 + 5), (16 + 7,))
        assert (batch["private_log_q"].shape, batch["private_log_q"].dtype) == ((16, 5), np.float32)
        assert not batch["private_log_q"][:, :3].any()
        assert (batch["private_log_q"][:, 3:] < 0).all()


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_a_hard_negative_counts_so_many_easy_ones_of_its_row(groups_span: Span, weight: float) -> None:
    made = plan(groups_span, mined=lists([3, 4, 5]), num_mined=2, num_random=2, hard_weight=weight)
    for batch in batches(groups_span, made, seed=[1]):
        num_rows, num_shared = batch["mask"].shape[0], len(batch["log_q"])
        assert (batch["private_log_q"][:, 2:] < 0).all()
        for row in range(num_rows):
            easy = [
                1 / np.exp(batch["log_q"][column])
                for column in range(num_shared)
                if column != row and not batch["mask"][row, column]
            ]
            hard = 1 / np.exp(batch["private_log_q"][row, :2])
            np.testing.assert_allclose(hard, weight * np.mean(easy), rtol=1e-5)


def test_where_scores_are_not_corrected_a_hard_negative_is_not_either(groups_span: Span) -> None:
    made = plan(groups_span, mined=lists([3, 4, 5]), num_mined=2, hard_weight=1.0, correct=False)
    assert not any(batch["private_log_q"].any() for batch in batches(groups_span, made, seed=[1]))


def test_without_private_negatives_there_is_no_log_q_of_them(groups_span: Span) -> None:
    assert "private_log_q" not in next(batches(groups_span, plan(groups_span), seed=[1]))


def test_private_negatives_have_the_features_of_rows_of_their_item(groups_span: Span) -> None:
    made = plan(groups_span, mined=lists([3, 7]), num_mined=2, num_random=3)
    names = list(groups_span.items)
    described = {
        tuple(np.concatenate([np.ravel(side[name][row]) for name in names]).tolist())
        for side in (groups_span.items, groups_span.uniform)
        for row in range(len(side["item_id"]))
    }
    batch = next(batches(groups_span, made, seed=[1]))
    for row in range(len(batch["item/item_id"])):
        assert tuple(np.concatenate([np.ravel(batch["item/" + name][row]) for name in names]).tolist()) in described


def test_an_item_that_the_span_does_not_describe_is_masked(groups_span: Span) -> None:
    made = plan(groups_span, mined=lists([25]), num_mined=2, num_item_rows=NUM_ITEM_ROWS + 1, catalogue_size=25)
    assert next(batches(groups_span, made, seed=[1]))["mask"][:, 16 + 7 :].all()


def test_without_in_batch_negatives_the_own_items_of_others_are_masked(groups_span: Span) -> None:
    batch = next(batches(groups_span, plan(groups_span, in_batch=False), seed=[1]))
    assert np.array_equal(batch["mask"][:, :16], ~np.eye(16, dtype=bool))
    assert not batch["mask"][:, 16:].all(axis=1).any()
    np.testing.assert_allclose(batch["log_q"], np.log(7 / 24), rtol=1e-6)


def test_an_own_item_that_no_sampler_brings_is_not_corrected(groups_span: Span) -> None:
    made = plan(groups_span, in_batch=False, num_uniform=0, mined=lists([3]), num_mined=1)
    assert not next(batches(groups_span, made, seed=[1]))["log_q"].any()


def test_the_queue_holds_the_last_own_items_through_the_spans_of_an_epoch(groups_span: Span) -> None:
    made = plan(groups_span, queue_size=40, known=KnownPositives.of(np.array([1]), np.array([1]), num_user_rows=25))
    counts = count_items([groups_span], NUM_ITEM_ROWS)
    own: list[int] = []
    found = list(epoch_batches([groups_span, groups_span], made, seed=[1]))
    assert len(found) == 24
    for batch in found:
        expected = np.array(([0] * 40 + own)[-40:])
        assert batch["mask"].shape == (16, 16 + 7 + 40)
        queue_mask = batch["mask"][:, 16 + 7 :]
        assert queue_mask[:, expected == 0].all()
        earlier = set(batch["item/item_id"].tolist())
        for column, item in enumerate(expected):
            assert queue_mask[:, column].all() == (item == 0 or item in earlier)
            earlier.add(int(item))
        # Of the second pass of 192 examples, what of the queue is from the first is from other examples.
        num_queued = min(len(own), 40)
        earlier_pass = max(num_queued - (len(own) - 192), 0) if len(own) >= 192 else 0
        examples = missing(counts[expected], 191, 15 + num_queued - earlier_pass)
        examples *= missing(counts[expected], 192, earlier_pass)
        presence = np.log(1 - examples * (1 - len(set(batch["item/item_id"][16:])) / 24))
        np.testing.assert_allclose(batch["log_q"][16 + 7 :], presence, rtol=1e-5)
        own += batch["item/item_id"][:16].tolist()


def test_an_epoch_begins_with_an_empty_queue(groups_span: Span) -> None:
    made = plan(groups_span, queue_size=5)
    for _ in range(2):
        assert next(epoch_batches([groups_span], made, seed=[1]))["mask"][:, -5:].all()


def test_streaming_shares_take_the_place_of_the_counts(groups_span: Span) -> None:
    frequency, twin = (
        StreamingFrequency(np.arange(NUM_ITEM_ROWS), num_hashes=3, num_buckets=4096, rate=0.1, initial_gap=10.0)
        for _ in range(2)
    )
    made = plan(groups_span, frequency=frequency)
    for batch in batches(groups_span, made, seed=[1]):
        items = batch["item/item_id"].astype(np.int64)
        twin.update(items[:16])
        shares = twin.shares(items)
        uniform = len(set(items[16:].tolist())) / 24
        np.testing.assert_allclose(batch["log_q"], np.log(1 - (1 - shares) ** 15 * (1 - uniform)), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 192])
def test_more_uniform_negatives_than_items_bring_every_item_once(groups_span: Span, batch_size: int) -> None:
    made = plan(groups_span, num_uniform=200, in_batch=False, batch_size=batch_size)
    batch = next(batches(groups_span, made, seed=[1]))
    distinct = len(set(batch["item/item_id"][batch_size:].tolist()))
    assert distinct == 24
    assert not batch["log_q"].any()  # all of them are there: q is 1
    counted = (~batch["mask"][:, batch_size:]).sum(axis=1)
    assert (counted <= 24 - 1).all()
    assert np.isfinite(batch["log_q"]).all()


def test_a_batch_of_one_row_has_its_private_and_uniform_negatives(groups_span: Span) -> None:
    made = plan(groups_span, batch_size=1, num_random=4, queue_size=3)
    for batch in batches(groups_span, made, seed=[1]):
        assert batch["mask"].shape == (1, 1 + 7 + 3 + 4)
        assert not batch["mask"][0, 0]
        assert np.isfinite(batch["log_q"]).all()


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        ({"num_uniform": 7}, "7 uniform negatives for each batch"),
        ({"num_uniform": 0, "num_random": 3}, "3 random negatives for each row"),
    ],
)
def test_even_draws_that_are_missing_are_refused(groups_span: Span, drawn: dict[str, int], asked: str) -> None:
    empty = replace(groups_span, uniform={name: values[:0] for name, values in groups_span.uniform.items()})
    described = len(groups_span.items["item_id"])
    message = f"{asked} are asked for, but the span has no even draws, only {described} descriptions"
    with pytest.raises(ValueError, match=message):
        next(batches(empty, plan(groups_span, **drawn), seed=[1]))
