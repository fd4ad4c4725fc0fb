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
        self.state: dict[int, tuple[int, float, float]] = {}

    def update(self, ids: list[int]) -> None:
        self.step += 1
        for one in set(ids):
            draws = ids.count(one)
            if one not in self.state:
                self.state[one] = (self.step, self.initial_gap * draws, draws)
                continue
            last, gap, mean = self.state[one]
            keep = 1 - self.rate
            self.state[one] = (
                self.step, keep * gap + self.rate * (self.step - last), keep * mean + self.rate * draws
            )  # fmt: skip

    def expected_draws(self, one: int) -> float:
        _, gap, draws = self.state.get(one, (0, 1.0, 0.0))
        return draws / gap


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=10))
def test_without_collisions_it_equals_the_slow_twin(steps: list[list[int]]) -> None:
    found, twin = made(), SlowTwin(0.1, 10.0)
    for ids in steps:
        found.update(np.array(ids, np.int64))
        twin.update(ids)
    expected = [twin.expected_draws(one) for one in range(6)]
    np.testing.assert_allclose(found.expected_draws(np.arange(6)), expected, rtol=1e-12)


def test_by_hand() -> None:
    frequency = made(rate=0.5, initial_gap=4.0)
    for ids in ([7, 7], [], [7, 7, 7, 7]):
        frequency.update(np.array(ids, np.int64))
    # First sight: gap 8 for 2 draws. Third step: gap (8 + 2) / 2 = 5, draws (2 + 4) / 2 = 3.
    assert frequency.expected_draws(np.array([7])).tolist() == [3 / 5]


def test_the_first_occurrence_gives_no_gap_however_late() -> None:
    frequency = made(initial_gap=50.0)
    for _ in range(1000):
        frequency.update(np.array([1]))
    assert frequency.expected_draws(np.array([2])).tolist() == [0]
    frequency.update(np.array([2]))
    np.testing.assert_allclose(frequency.expected_draws(np.array([1, 2])), [1, 1 / 50], rtol=1e-6)


def test_an_item_that_is_in_every_batch_many_times_does_not_saturate_at_one() -> None:
    frequency = made()
    for _ in range(200):
        frequency.update(np.array([3] * 40 + [4]))
    np.testing.assert_allclose(frequency.expected_draws(np.array([3, 4])), [40, 1], rtol=1e-6)


def test_frequencies_that_change_are_followed() -> None:
    frequency = made(rate=0.2)
    for step in range(100):
        frequency.update(np.array([1] * (8 if step < 50 else 2)))
    np.testing.assert_allclose(frequency.expected_draws(np.array([1])), 2, rtol=1e-3)


def simulated(num_steps: int, **changes: Any) -> tuple[Ints, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """2,000 items by Zipf's law, 1,024 a batch: true draws, those found, the share of batches that hold each."""
    shares = 1 / np.arange(1, 2001) / (1 / np.arange(1, 2001)).sum()
    rng, frequency, ids = np.random.default_rng(0), made(rate=0.01, **changes), np.arange(2000)
    for _ in range(num_steps):
        frequency.update(np.repeat(ids, rng.multinomial(1024, shares)))
    return 1024 * shares, frequency.expected_draws(ids), 1 - (1 - shares) ** 1024


def rmse(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.average(np.log(found / truth) ** 2, weights=weight)))


def test_the_draws_of_a_long_tailed_catalogue_are_found_within_a_tenth() -> None:
    truth, found, present = simulated(1500)
    for weight in (np.ones(2000), truth):
        assert rmse(found, truth, weight) < 0.12
    # What the share of batches that hold an item, the literal rule's limit, would be off by.
    assert rmse(present, truth, truth) > 1.5


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
        assert np.array_equal(restored.expected_draws(np.arange(100)), whole.expected_draws(np.arange(100)))
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
    expected = yesterday.expected_draws(moved)
    assert (expected > 0).all()
    assert np.array_equal(today.expected_draws(after), expected)
    assert not today.expected_draws(np.arange(100)).any()
    # And continues as it would have in its old row.
    today.update(after[:50])
    yesterday.update(moved[:50])
    assert np.array_equal(today.expected_draws(after), yesterday.expected_draws(moved))


def test_a_state_without_an_estimate_or_of_other_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="no streaming estimate of frequency; do a full retrain, with --full"):
        made().restore({"item_id_table/embeddings": np.zeros((2, 2))})
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
        "print(found.expected_draws(np.arange(70)).tolist())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state.npz")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "7"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.strip() == str(frequency.expected_draws(np.arange(70)).tolist())


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
    assert frequency.expected_draws(np.array(ids, np.int64)).tolist() == [1 / 10] * len(ids)
