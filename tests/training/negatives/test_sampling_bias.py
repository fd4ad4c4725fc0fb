"""How likely an item comes into a batch; its correction gives the softmax over the catalogue."""

from __future__ import annotations

import runpy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from training.data.batches import BatchPlan, Span, epoch_batches
from training.negatives.even_draws import per_row, uniform
from training.negatives.known_positives import KnownPositives, false_negatives
from training.negatives.private import PrivateNegatives, UserNegatives, mask_private
from training.negatives.sampling_bias import absence_from_examples, log_of, presence
from training.negatives.source import Descriptions

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NUM_ITEMS = 20
sources_of = runpy.run_path(str(Path(__file__).parents[1] / "fit_for_tests.py"))["sources_of"]
SHARES = 1 / np.arange(1, NUM_ITEMS + 1) / (1 / np.arange(1, NUM_ITEMS + 1)).sum()


def absences(num_uniform: int, num_random: int, *, catalogue_size: int) -> list[Floats | float]:
    """Of distinct even draws for the batch and of even draws for a row, as their sources give them."""
    even = np.arange(1, num_uniform + 2)
    descriptions = Descriptions(even, 0, num_item_rows=num_uniform + 2, catalogue_size=catalogue_size)
    rng = np.random.default_rng(0)
    shared, private = uniform(num=num_uniform)(descriptions, rng), per_row(num=num_random)(descriptions, rng)
    drawn = even[shared.shared()]
    assert len(set(drawn.tolist())) == num_uniform
    return [shared.absence(even, drawn), private.absence(even, drawn[:0])]


def test_the_presence_is_what_no_sampler_misses() -> None:
    examples = absence_from_examples(np.array([3, 1, 0]), population=6, num_drawn=3)
    found = presence([examples, *absences(2, 2, catalogue_size=4)])
    # Missed by three of six examples, by two of the four items, and twice by one of four.
    missed = [share * Fraction(2, 4) * Fraction(3, 4) ** 2 for share in (Fraction(1, 20), Fraction(1, 2), 1)]
    np.testing.assert_allclose(found, [float(1 - part) for part in missed], rtol=1e-12)


@pytest.mark.parametrize(
    ("counts", "population", "num_drawn", "expected"),
    [
        # All of a span are there, and its items with them; those of other spans are not.
        ([2, 1, 0], 3, 3, [0, 0, 1]),
        ([4, 0], 3, 0, [1, 1]),
        # The item of every example, the row's own among them.
        ([4], 3, 2, [0]),
        ([0], 0, 0, [1]),
        # C(7, 2) / C(10, 2) = 21/45, and one of ten that is not among two.
        ([3, 1], 10, 2, [21 / 45, 8 / 10]),
    ],
)
def test_examples_are_drawn_from_a_span_without_replacement(
    counts: list[int], population: int, num_drawn: int, expected: list[float]
) -> None:
    found = absence_from_examples(np.array(counts), population=population, num_drawn=num_drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_an_item_without_an_example_is_absent_for_sure() -> None:
    for population in (3, 1_234, 7_654_321):
        assert absence_from_examples(np.array([0]), population=population, num_drawn=3).tolist() == [1]


def test_of_a_long_span_the_draws_are_as_good_as_independent() -> None:
    found = absence_from_examples(np.array([1, 50, 200_000]), population=10_000_000, num_drawn=1023)
    np.testing.assert_allclose(1 - found, 1 - (1 - np.array([1e-7, 5e-6, 0.02])) ** 1023, rtol=1e-3)


def test_where_items_are_rare_the_presence_is_the_expected_number_of_draws() -> None:
    examples = absence_from_examples(np.array([1, 3]), population=10**6, num_drawn=50)
    found = presence([examples, *absences(7, 4, catalogue_size=10**6)])
    np.testing.assert_allclose(found, [50e-6 + 11e-6, 150e-6 + 11e-6], rtol=1e-3)


@pytest.mark.parametrize(
    ("samplers", "expected"),
    [
        ({"num_examples": 0, "num_uniform": 0, "catalogue_size": 5}, [0, 0, 0]),
        ({"num_examples": 2, "num_uniform": 0, "catalogue_size": 5}, [1, 5 / 6, 0]),
        ({"num_examples": 0, "num_uniform": 9, "catalogue_size": 5}, [1, 1, 1]),
        ({"num_examples": 0, "num_uniform": 1, "catalogue_size": 0}, [1, 1, 1]),
    ],
)
def test_samplers_that_bring_nothing_or_everything(samplers: dict[str, int], expected: list[float]) -> None:
    missed = absences(samplers["num_uniform"], 0, catalogue_size=samplers["catalogue_size"])
    examples = absence_from_examples(np.array([4, 2, 0]), population=4, num_drawn=samplers["num_examples"])
    np.testing.assert_allclose(presence([examples, *missed]), expected, rtol=1e-12)


def test_an_item_that_no_sampler_brings_is_not_corrected() -> None:
    found = log_of(np.array([0.0, 1.0, 0.5]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, np.log(0.5)], rtol=1e-6)


# Mixes of samplers; hard negatives are the first three items of the list of each user.
MIXES: dict[str, dict[str, Any]] = {
    "in-batch": {},
    "uniform": {"in_batch": False, "num_uniform": 7},
    "mixed": {"num_uniform": 7},
    "queue": {"queue_size": 50},
    "private": {"in_batch": False, "num_random": 12},
    "mined": {"num_uniform": 5, "num_mined": 2},
    "queue over spans": {"queue_size": 50, "num_spans": 2},
    "everything over spans": {"num_uniform": 4, "num_random": 3, "queue_size": 20, "num_mined": 1, "num_spans": 4},
    "everything": {"num_uniform": 4, "num_random": 3, "queue_size": 20, "num_mined": 1, "num_impressions": 1},
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_corrected_terms_of_real_batches_are_on_average_those_of_the_catalogue(mix: dict[str, Any]) -> None:
    num_examples, batch_size, epochs = 640, 32, 60
    rng = np.random.default_rng(1)
    own = rng.choice(NUM_ITEMS, num_examples, p=SHARES) + 1
    every_item = np.tile(np.arange(1, NUM_ITEMS + 1, dtype=np.int32), 5)
    made = [
        Span(
            users={"user_id": users.astype(np.int32)},
            items={"item_id": own[users].astype(np.int32)},
            uniform={"item_id": every_item},
            user_row=np.arange(len(users)),
            item_row=np.arange(len(users)),
            weight=np.ones(len(users), np.float32),
        )
        for users in np.array_split(np.arange(num_examples), mix.get("num_spans", 1))
    ]
    owners = np.repeat(np.arange(num_examples), 3)
    mined, impressions = (
        UserNegatives.of(owners, np.resize(np.array(items), len(owners)), num_user_rows=num_examples)
        for items in ([1, 2, 20], [5, 2, 19])
    )
    rest = {name: value for name, value in mix.items() if name in ("in_batch", "queue_size")}
    drawn = {name: value for name, value in mix.items() if name not in {*rest, "num_spans"}}
    plan = BatchPlan(
        **{
            "batch_size": batch_size, "in_batch": True, "queue_size": 0,
            "sources": sources_of(**{"num_uniform": 0, "mined": mined, "impressions": impressions, **drawn}),
            "known": KnownPositives.of(np.zeros(0, np.int64), np.zeros(0, np.int64), num_user_rows=num_examples),
            "num_item_rows": NUM_ITEMS + 1, "catalogue_size": NUM_ITEMS,
            "correct": True, "frequency": None, **rest,
        }
    )  # fmt: skip
    terms, pulls, rows = np.zeros(NUM_ITEMS + 1), np.zeros(NUM_ITEMS + 1), np.zeros(NUM_ITEMS + 1)
    for epoch in range(epochs):
        queue = np.zeros(0, np.int64)
        for batch in epoch_batches(made, plan, seed=[epoch]):
            num_rows, num_shared = batch_size, batch_size + mix.get("num_uniform", 0)
            item_ids = batch["item/item_id"].astype(np.int64)
            padded = np.concatenate([np.zeros(plan.queue_size, np.int64), queue])[-plan.queue_size or len(queue) :]
            shared = np.concatenate([item_ids[:num_shared], padded])
            private = item_ids[num_shared:].reshape(num_rows, -1)
            columns = np.concatenate([np.tile(shared, (num_rows, 1)), private], axis=1)
            log_q = np.tile(batch["log_q"], (num_rows, 1))
            if private.shape[1]:
                log_q = np.concatenate([log_q, batch["private_log_q"]], axis=1)
            counted = ~batch["mask"]
            counted[np.arange(num_rows), np.arange(num_rows)] = False
            terms += np.bincount(columns[counted], np.exp(-log_q[counted]), minlength=NUM_ITEMS + 1)
            if not private.shape[1]:
                # With their gradients: columns of the queue take none.
                fresh = counted & (np.arange(len(shared)) < num_shared)
                pull = np.exp(-log_q) * batch.get("item_gradient", np.ones(len(shared)))
                pulls += np.bincount(columns[fresh], pull[fresh], minlength=NUM_ITEMS + 1)
            rows += num_rows - np.bincount(item_ids[:num_rows], minlength=NUM_ITEMS + 1)
            queue = np.concatenate([queue, item_ids[:num_rows]])
    # An item's term e^s counts 1 in a row of another item, however often and by whichever sampler it comes.
    np.testing.assert_allclose((terms / rows)[1:], 1, atol=0.13)
    assert (terms / rows)[1:].mean() == pytest.approx(1, abs=0.03)
    if not mix.get("num_random") and not mix.get("num_mined"):
        # So does the gradient for its vector, although it reaches it only where the batch itself has the item.
        np.testing.assert_allclose((pulls / rows)[1:], 1, atol=0.2)
        assert (pulls / rows)[1:].mean() == pytest.approx(1, abs=0.03)


def share_of_daily_item(num_days: int) -> Floats:
    """What the item that is sold daily counts in rows of the item that is sold on their day alone: [days].

    Each day has 48 examples of item 1 and 16 of an item of that day alone. Scores are equal, so in a softmax over the
    two items of a day it is a half.
    """
    items = np.repeat(np.stack([np.ones(num_days), np.arange(2, num_days + 2)], axis=1), [48, 16], axis=1)
    users = np.arange(items.size)
    plan = BatchPlan(
        batch_size=16, in_batch=True, queue_size=0, sources=[],
        known=KnownPositives.of(np.zeros(0, np.int64), np.zeros(0, np.int64), num_user_rows=items.size),
        num_item_rows=num_days + 2, catalogue_size=num_days + 1, correct=True, frequency=None,
    )  # fmt: skip
    total, num_rows = np.zeros(num_days), np.zeros(num_days)
    for epoch in range(20):
        made = [
            Span(
                users={"user_id": users[begin : begin + 64]},
                items={"item_id": items.ravel()[begin : begin + 64].astype(np.int64)},
                uniform={"item_id": np.zeros(0, np.int64)},
                user_row=np.arange(64), item_row=np.arange(64), weight=np.ones(64, np.float32),
            )
            for begin in range(0, items.size, 64)
        ]  # fmt: skip
        for batch in epoch_batches(made, plan, seed=[epoch]):
            own = batch["item/item_id"].astype(np.int64)
            terms = np.where(batch["mask"], 0, np.exp(-batch["log_q"]))
            negatives = terms * ((own == 1) & (own != own[:, None]))
            chosen = own > 1
            found = (negatives.sum(axis=1) / terms.sum(axis=1))[chosen]
            total += np.bincount(own[chosen] - 2, found, minlength=num_days)
            num_rows += np.bincount(own[chosen] - 2, minlength=num_days)
    return total / num_rows


def test_day_by_day_the_gradient_is_that_of_the_softmax_over_the_items_of_the_day() -> None:
    # With q of all ten days it is .24: an item of one day was taken for one that is in a third of the batches.
    shares = share_of_daily_item(10)
    np.testing.assert_allclose(shares, 1 / 2, atol=0.03)
    assert shares.mean() == pytest.approx(1 / 2, abs=0.005)


class Simulation:
    """Batches of a catalogue whose scores are known: how far is the loss's gradient from that of the full softmax?"""

    def __init__(self, *, num_rows: int, in_batch: bool, num_uniform: int, num_queued: int, num_random: int) -> None:
        self.rows, self.in_batch = num_rows, in_batch
        self.uniform, self.queued, self.random = num_uniform, num_queued, num_random
        self.scores = np.random.default_rng(5).normal(0, 1, (num_rows, NUM_ITEMS + 1))

    def gradients(self, rng: np.random.Generator) -> dict[str, Floats]:
        """Gradients of the mean loss with respect to the scores of the items, summed over rows: [items] each."""
        users = np.arange(self.rows)
        own, queued = (1 + rng.choice(NUM_ITEMS, number, p=SHARES) for number in (self.rows, self.queued))
        uniform = 1 + rng.permutation(NUM_ITEMS)[: self.uniform]
        private = 1 + rng.integers(0, NUM_ITEMS, (self.rows, self.random))
        shared = np.concatenate([own, uniform, queued])
        known = KnownPositives.of(np.zeros(0, np.int64), np.zeros(0, np.int64), num_user_rows=self.rows)
        mask = false_negatives(users, shared, known, in_batch=self.in_batch)
        drawn = PrivateNegatives(private, np.zeros_like(private), num_certain=0)
        mask = mask_private(mask, drawn, users, shared, known, in_batch=self.in_batch)
        present = np.append(
            1.0,
            presence(
                [
                    (1 - SHARES) ** ((self.rows - 1) * self.in_batch + self.queued),
                    *absences(self.uniform, self.random, catalogue_size=NUM_ITEMS),
                ]
            ),
        )
        items = np.concatenate([np.tile(shared, (self.rows, 1)), private], axis=1)
        # As it was: repeats count, but for those of the row's own item, and q is the expected number of draws.
        repeats_count = items == own[:, None]
        repeats_count[:, : self.rows] |= not self.in_batch
        repeats_count[users, users] = False
        from_examples = self.rows * self.in_batch + self.queued
        draws = np.append(1.0, from_examples * SHARES + (self.uniform + self.random) / NUM_ITEMS)
        every = np.arange(1, NUM_ITEMS + 1)
        found = {"presence": self._gradient(own, items, mask, present, present)}
        found["certain own"] = self._gradient(own, items, mask, present, np.ones_like(present))
        found["draws"] = self._gradient(own, items, repeats_count, draws, draws)
        others = np.concatenate([own[:, None], np.tile(every, (self.rows, 1))], axis=1)
        is_own = others == own[:, None]
        is_own[:, 0] = False
        ones = np.ones(NUM_ITEMS + 1)
        found["full"] = self._gradient(own, others, is_own, ones, ones, own_column=np.zeros(self.rows, np.int64))
        return found

    def _gradient(
        self, own: Ints, items: Ints, mask: npt.NDArray[np.bool_], q: Floats, q_own: Floats,
        own_column: Ints | None = None,
    ) -> Floats:  # fmt: skip
        rows = np.arange(self.rows)
        own_column = rows if own_column is None else own_column
        weight = np.where(mask, 0, 1 / q[items])
        weight[rows, own_column] = 1 / q_own[own]
        terms = weight * np.exp(self.scores[rows[:, None], items])
        shares = terms / terms.sum(axis=1, keepdims=True)
        shares[rows, own_column] -= 1
        return np.bincount(items.ravel(), shares.ravel(), minlength=NUM_ITEMS + 1) / self.rows

    def distances(self, num_batches: int) -> dict[str, float]:
        """Length of the difference from the full softmax's gradient, relative to it, of means over batches."""
        rng = np.random.default_rng(3)
        totals: dict[str, Floats] = {}
        for _ in range(num_batches):
            for name, gradient in self.gradients(rng).items():
                totals[name] = totals.get(name, np.zeros(NUM_ITEMS + 1)) + gradient
        full = totals.pop("full")
        return {name: float(np.linalg.norm(total - full) / np.linalg.norm(full)) for name, total in totals.items()}


NONE = {"num_rows": 8, "in_batch": False, "num_uniform": 0, "num_queued": 0, "num_random": 0}
GROWING: dict[str, list[dict[str, Any]]] = {
    "in-batch": [{**NONE, "in_batch": True, "num_rows": size} for size in (30, 100, 400)],
    "uniform": [{**NONE, "num_uniform": size} for size in (8, 15, 20)],
    "mixed": [{**NONE, "in_batch": True, "num_rows": size, "num_uniform": size // 10} for size in (30, 80, 200)],
    "queue": [{**NONE, "num_queued": size} for size in (30, 100, 500)],
    "private": [{**NONE, "num_random": size} for size in (20, 60, 200)],
}


@pytest.mark.parametrize("name", GROWING)
def test_the_gradient_tends_to_that_of_the_full_softmax(name: str) -> None:
    found = [Simulation(**size).distances(60) for size in GROWING[name]]
    for way in ("presence", "certain own"):
        distances = [distance[way] for distance in found]
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < 0.01
    if name != "uniform":
        # Where items repeat, counting draws stays off however many there are.
        assert found[-1]["draws"] > 0.04
        assert found[1]["presence"] < 0.6 * found[1]["draws"]
