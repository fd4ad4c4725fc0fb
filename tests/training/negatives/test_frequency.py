"""Streaming estimate of how often an item comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.ids import stable_number
from training.config import StreamingConfig
from training.negatives.sampling_bias import StreamingFrequency

Ints = npt.NDArray[np.int64]
REPOSITORY = Path(__file__).parents[3]


def made(numbers: Ints | None = None, **changes: Any) -> StreamingFrequency:
    """Of items whose numbers are their rows, unless others are given."""
    return StreamingFrequency(
        np.arange(10_000) if numbers is None else numbers,
        **{"num_hashes": 3, "num_buckets": 65_536, "rate": 0.1, "initial_gap": 10.0, **changes}
    )  # fmt: skip


class SlowTwin:
    """The rule without hashes, an id at a time."""

    def __init__(self, rate: float, initial_gap: float) -> None:
        self.rate, self.initial_gap, self.step = rate, initial_gap, 0
        self.gaps: dict[int, list[float]] = {}
        self.state: dict[int, tuple[int, float, float]] = {}

    def update(self, ids: list[int]) -> None:
        self.step += 1
        for one in set(ids):
            draws, share = ids.count(one), ids.count(one) / len(ids)
            expected = self.initial_gap ** (1 / draws)
            if one not in self.state and self.step > expected:
                self.gaps[one], self.state[one] = [], (self.step, expected, share)
                continue
            last, gap, mean = self.state.get(one, (0, 0.0, 0.0))
            self.gaps.setdefault(one, []).append(self.step - last)
            rate = max(self.rate, 1 / len(self.gaps[one]))
            gap, mean = (1 - rate) * gap + rate * self.gaps[one][-1], (1 - rate) * mean + rate * share
            self.state[one] = (self.step, gap, mean)

    def share(self, one: int) -> float:
        last, gap, share = self.state.get(one, (0, 1.0, 0.0))
        return share / max(gap, (self.step - last) / 3)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=20))
def test_without_collisions_it_equals_the_slow_twin(steps: list[list[int]]) -> None:
    found, twin = made(rate=0.3, initial_gap=4.0), SlowTwin(0.3, 4.0)
    for ids in steps:
        found.update(np.array(ids, np.int64))
        twin.update(ids)
    expected = [twin.share(one) for one in range(6)]
    np.testing.assert_allclose(found.shares(np.arange(6)), expected, rtol=1e-12)


def test_by_hand() -> None:
    frequency = made(rate=0.4, initial_gap=4.0)
    for ids in ([7, 8], [9], [7, 7], [7], [7]):
        frequency.update(np.array(ids, np.int64))
    # Gaps 1, 2, 1, 1 at the rates 1, 1/2, .4, .4: 1, 3/2, 13/10, 59/50; shares 1/2, 1, 1, 1: 1/2, 3/4, 17/20, 91/100.
    np.testing.assert_allclose(frequency.shares(np.array([7])), [91 / 100 / (59 / 50)], rtol=1e-12)


@pytest.mark.parametrize("first_step", [1, 1001])
@pytest.mark.parametrize("rate", [0.05, 0.01])
def test_a_frequent_item_is_found_with_its_second_sight_whenever_it_appears(rate: float, first_step: int) -> None:
    frequency = made(rate=rate, initial_gap=100.0)
    for _ in range(first_step - 1):
        frequency.update(np.array([1]))
    for _ in range(2):
        frequency.update(np.repeat([2, 3], [125, 899]))
    np.testing.assert_allclose(frequency.shares(np.array([2, 3])), [125 / 1024, 899 / 1024], rtol=1e-12)


@pytest.mark.parametrize(("draws", "gap"), [(1, 64), (2, 8), (3, 4), (6, 2)])
def test_the_first_occurrence_gives_no_gap_however_late(draws: int, gap: int) -> None:
    frequency = made(initial_gap=64.0)
    for _ in range(1000):
        frequency.update(np.array([1]))
    assert frequency.shares(np.array([2])).tolist() == [0]
    frequency.update(np.repeat([1, 2], [12 - draws, draws]))
    np.testing.assert_allclose(frequency.shares(np.array([2])), [draws / 12 / gap], rtol=1e-12)


def test_an_item_that_vanishes_loses_its_share() -> None:
    frequency = made(rate=0.05, initial_gap=100.0)
    for _ in range(200):
        frequency.update(np.repeat([1, 2], [5, 1019]))
    found = []
    for _ in range(300):
        frequency.update(np.array([2]))
        found.append(frequency.shares(np.array([1]))[0] * 1024)
    np.testing.assert_allclose([found[step - 1] for step in (1, 3, 30, 300)], [5, 5, 5 / 10, 5 / 100], rtol=1e-12)
    frequency.update(np.repeat([1, 2], [5, 1019]))
    assert found[-1] < frequency.shares(np.array([1]))[0] * 1024 < 5


def test_an_item_that_is_in_every_batch_many_times_does_not_saturate_at_one() -> None:
    frequency = made()
    for _ in range(200):
        frequency.update(np.array([3] * 40 + [4]))
    np.testing.assert_allclose(frequency.shares(np.array([3, 4])), [40 / 41, 1 / 41], rtol=1e-12)


def test_shares_do_not_depend_on_the_sizes_of_the_steps() -> None:
    frequency = made()
    for step in range(200):
        frequency.update(np.repeat([3, 4], np.array([3, 1]) * (1 + step % 7)))
    np.testing.assert_allclose(frequency.shares(np.array([3, 4])), [3 / 4, 1 / 4], rtol=1e-12)


def test_frequencies_that_change_are_followed() -> None:
    frequency = made(rate=0.2)
    for step in range(100):
        frequency.update(np.repeat([1, 2], [8, 8] if step < 50 else [2, 14]))
    np.testing.assert_allclose(frequency.shares(np.array([1, 2])), [2 / 16, 14 / 16], rtol=1e-3)


def simulated(
    num_steps: int, *, rate: float = 0.01, **changes: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """2,000 items by Zipf's law, 1,024 a batch: true shares, those found, the share of batches that hold each."""
    shares = 1 / np.arange(1, 2001) / (1 / np.arange(1, 2001)).sum()
    rng, frequency, ids = np.random.default_rng(0), made(rate=rate, **changes), np.arange(2000)
    for _ in range(num_steps):
        frequency.update(np.repeat(ids, rng.multinomial(1024, shares)))
    return shares, frequency.shares(ids), 1 - (1 - shares) ** 1024


def rmse(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.average(np.log(found / truth) ** 2, weights=weight)))


def test_the_draws_of_a_long_tailed_catalogue_are_found_within_a_tenth() -> None:
    truth, found, present = simulated(1500)
    for weight in (np.ones(2000), truth):
        assert rmse(found, truth, weight) < 0.12
    # What the share of batches that hold an item, the literal rule's limit, would be off by.
    assert rmse(present, 1024 * truth, truth) > 1.5


@pytest.mark.parametrize(("num_steps", "by_draws", "top"), [(10, 0.45, 0.1), (50, 0.25, 0.05), (360, 0.12, 0.05)])
def test_the_defaults_find_the_shares_within_the_steps_of_a_small_shop(
    num_steps: int, by_draws: float, top: float
) -> None:
    defaults = StreamingConfig()
    truth, found, _ = simulated(num_steps, rate=defaults.rate, initial_gap=defaults.initial_gap)
    seen = found > 0
    assert rmse(found[seen], truth[seen], truth[seen]) < by_draws
    assert abs(np.log(found[0] / truth[0])) < top


def test_the_longest_of_several_gaps_repairs_collisions() -> None:
    errors = []
    for num_hashes in (1, 4):
        truth, found, _ = simulated(600, num_hashes=num_hashes, num_buckets=4096)
        assert (np.isfinite(found) & (found > 0)).all()
        errors.append(rmse(found, truth, np.ones(2000)))
    assert errors[1] < 0.5 * errors[0]


def test_one_restored_from_a_state_is_one_that_never_stopped(tmp_path: Path) -> None:
    rng, changes = np.random.default_rng(1), {"num_hashes": 2, "num_buckets": 50, "rate": 0.3, "initial_gap": 7.0}
    steps = [rng.integers(0, 100, 30) for _ in range(20)]
    whole, restored = made(**changes), made(**changes)
    for rows in steps[:10]:
        whole.update(rows)
    with (tmp_path / "state.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **whole.state(), other=np.zeros(3))
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        restored.restore(dict(state.items()))
    for rows in steps[10:]:
        assert np.array_equal(restored.shares(np.arange(100)), whole.shares(np.arange(100)))
        whole.update(rows)
        restored.update(rows)
    for name, array in whole.state().items():
        assert array.any()
        assert np.array_equal(restored.state()[name], array)


def test_an_item_keeps_its_estimate_where_its_row_has_moved() -> None:
    numbers, before = stable_number([f"i{item}" for item in range(200)]), np.arange(200)
    yesterday = made(numbers)
    for step in range(20):
        yesterday.update(np.repeat(before, (step + before) % 3))
    # Another order, every third item gone, and a hundred new ones.
    moved = np.random.default_rng(2).permutation(before[before % 3 > 0])
    today = made(np.concatenate([stable_number([f"new {item}" for item in range(100)]), numbers[moved]]))
    today.restore(yesterday.state())
    after = np.arange(100, 100 + len(moved))
    expected = yesterday.shares(moved)
    assert (expected > 0).all()
    assert np.array_equal(today.shares(after), expected)
    assert not today.shares(np.arange(100)).any()
    # And continues as it would have in its old row.
    today.update(after[:50])
    yesterday.update(moved[:50])
    assert np.array_equal(today.shares(after), yesterday.shares(moved))


def test_a_state_without_an_estimate_or_of_other_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="no streaming estimate of frequency of this version; do a full retrain, with"):
        made().restore({"item_id_table/embeddings": np.zeros((2, 2)), "@frequency/draws": np.zeros((3, 64))})
    with pytest.raises(ValueError, match=r"has \[3, 64\] hashes and cells in the state, expected \[2, 64\] as conf"):
        made(num_hashes=2, num_buckets=64).restore(made(num_buckets=64).state())


def test_another_process_finds_the_same_cells(tmp_path: Path) -> None:
    names = [f"i{item}" for item in range(70)]
    frequency = made(stable_number(names), num_buckets=50)
    frequency.update(np.arange(200) % 70)
    np.savez(tmp_path / "state.npz", **frequency.state())
    script = (
        "import sys, numpy as np; from features.ids import stable_number; "
        "from training.negatives.sampling_bias import StreamingFrequency; "
        "numbers = stable_number([f'i{item}' for item in range(70)]); "
        "found = StreamingFrequency(numbers, num_hashes=3, num_buckets=50, rate=0.1, initial_gap=10.0); "
        "found.restore(dict(np.load(sys.argv[1]).items())); "
        "print(found.shares(np.arange(70)).tolist())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state.npz")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "7"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.strip() == str(frequency.shares(np.arange(70)).tolist())


def test_the_hashes_are_independent_and_use_all_cells() -> None:
    cells = made(num_buckets=64)._cells(np.arange(6400))
    for hashed in cells:
        assert np.bincount(hashed.astype(np.int64), minlength=64).max() < 200
    pairs = cells[0].astype(np.int64) * 64 + cells[1].astype(np.int64)
    assert len(np.unique(pairs)) > 2500  # of 4,096; 3,237 are expected of even pairs


@pytest.mark.parametrize("ids", [[], [5]])
def test_few_ids(ids: list[int]) -> None:
    frequency = made()
    frequency.update(np.array(ids, np.int64))
    assert frequency.shares(np.array(ids, np.int64)).tolist() == [1] * len(ids)
