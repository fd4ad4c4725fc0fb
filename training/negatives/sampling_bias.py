"""Sampling-bias correction: log q of an item in a batch, from counted or from streamed frequencies.

Shape letters: n rows, N items (rows of their table), C candidates of a batch, H hashes, Z cells of a hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Array = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]
# Stands before the names of arrays in a state, where variables have none that begin so.
PREFIX = "@frequency/"
Floats = npt.NDArray[np.float64]


def presence(absences: Iterable[Floats | float]) -> Floats:
    """Probability that a row meets an item among its candidates, by all sources together.

        q_j = 1 - prod_s a_sj

    One item has one q whichever source brought it: what matters is whether it is there, not from where. It fits a loss
    in which an item counts once in a row: then 1/q times its term is, on average, its term of the softmax over the
    catalogue. The number of draws, which Yi et al. take, counts repeats, and where own items and known positives are
    masked those do not add up: the two agree where items are rare.

    Args:
        absences: Of each source s, [C] or one probability for all: a, that it does not bring the item. That of B'
            distinct items drawn evenly out of N is 1 - B'/N, that of R independent draws (1 - 1/N)^R, that of examples
            `absence_from_examples`, or (1 - p)^n where only their shares p are known.

    Returns:
        [C] float64 between 0 and 1, positive for every item that a source can bring.

    Source: Yi et al., RecSys 2019, section 3, for the correction; the product over sources follows from their
        independence.
    """
    absent: Floats | float = 1.0
    for absence in absences:
        absent = absent * absence
    return np.asarray(1 - np.asarray(absent), dtype=np.float64)


def absence_from_examples(counts: Ints, *, population: int, num_drawn: int) -> Floats:
    """Probability that none of the examples that are drawn from a span without replacement has an item.

        a_j = C(E - c_j, n) / C(E, n)

    It is (1 - c_j / E)^n where n is small against E. A span of one day is a few batches, or less than one: then each of
    its items is in each of them.

    Args:
        counts: [C] int64, c: the item's examples among those of the span.
        population: E, examples that can be drawn: for a batch those of the span but the row's own.
        num_drawn: n, at most E.

    Returns:
        [C] float64 between 0 and 1.
    """
    rest = np.maximum(population - counts, 0)
    there = rest >= num_drawn
    rest = np.where(there, rest, num_drawn)
    # In pairs that are equal where the count is 0, so that such an item is absent for sure.
    log_ways = gammaln(rest + 1) - gammaln(population + 1)
    log_absent = log_ways - (gammaln(rest - num_drawn + 1) - gammaln(population - num_drawn + 1))
    return np.where(there, np.exp(log_absent), 0.0)


def log_of(probabilities: Floats) -> npt.NDArray[np.float32]:
    """Natural logarithm, and 0 where no source can bring the item: it is there as an own one, and for sure."""
    return np.log(np.where(probabilities > 0, probabilities, 1.0)).astype(np.float32)


class StreamingFrequency:
    """Share of each item in a step's draws, from a fixed number of cells.

    Of each cell it keeps the step t at which it was last seen, and running means of the gap g between steps that saw it
    and of its share m of the draws of such a step. At the k-th gap

        rate = max(alpha, 1/k),   g <- g + rate (t - last - g),   m <- m + rate (share in step t - m),   last <- t

    so that they are plain means until 1/alpha gaps are seen. An item's share of a step is m / g on average. One that
    has not been seen for e steps is taken to have a gap of at least e/3, however short its gaps were: with a shorter
    one it would have been seen with a probability of 95% (the rule of three).

    An item has a cell in each of several hashes; those that share a cell are seen together and more often than each, so
    that the smallest of the shares is nearest to the truth. What is hashed is a number of the item, not its row: rows
    move as tables grow, and the estimate is kept from night to night.

    Args:
        numbers: [N] int64 not negative, of the item of each row, which stays when the row moves.
        num_hashes: H, independent of each other and the same in every process.
        num_buckets: Z.
        rate: Alpha, how fast a new gap replaces the old mean, at least.
        initial_gap: Steps until an item that came once, in one draw, is expected to come again; with m draws in that
            step it is the m-th root. Where less has passed since the first step, that counts as the first gap.
            Otherwise the item may be a new one, and the first gap that is seen replaces what was expected.

    Source: Yi et al., RecSys 2019, algorithms 2 and 3. Departs from them: theirs is the share of the batches that hold
        an id, at most 1 however often it comes in each; here draws count, as shares, since the batches of different
        spans differ in size. The rate falls to alpha instead of beginning there. Items that vanish are forgotten.
    """

    def __init__(self, numbers: Ints, *, num_hashes: int, num_buckets: int, rate: float, initial_gap: float) -> None:
        """Has seen nothing."""
        self._numbers = numbers
        self._rate, self._initial_gap = rate, initial_gap
        self._step = 0
        shape = (num_hashes, num_buckets)
        self._hashes = [
            np.random.SeedSequence(number).generate_state(2, np.uint64) | np.uint64(1) for number in range(num_hashes)
        ]
        self._last = np.zeros(shape, np.int64)  # 0 where never: steps count from 1
        self._num_gaps = np.zeros(shape, np.int64)
        self._gap, self._share = np.zeros(shape), np.zeros(shape)

    def update(self, rows: Ints) -> None:
        """Takes in a step.

        Args:
            rows: [n] of items, as often as they are drawn.
        """
        self._step += 1
        for hashed, cells in enumerate(self._cells(rows)):
            seen, draws = np.unique(cells, return_counts=True)
            last, gap, share = self._last[hashed, seen], self._gap[hashed, seen], self._share[hashed, seen]
            expected = self._initial_gap ** (1 / draws)
            # A first gap that is longer than expected is not one: the item may not have been there.
            is_gap = (last > 0) | (self._step <= expected)
            num_gaps = self._num_gaps[hashed, seen] + is_gap
            rate = np.maximum(self._rate, 1 / np.maximum(num_gaps, 1))
            gap += rate * (np.where(is_gap, self._step - last, expected) - gap)
            share += rate * (draws / len(rows) - share)
            self._gap[hashed, seen], self._share[hashed, seen] = gap, share
            self._last[hashed, seen], self._num_gaps[hashed, seen] = self._step, num_gaps

    def shares(self, rows: Ints) -> Floats:
        """Expected share of the items of rows in a step's draws: [n] float64, 0 for those never seen."""
        found = np.full(len(rows), np.inf)
        for hashed, cells in enumerate(self._cells(rows)):
            gap = np.maximum(self._gap[hashed, cells], (self._step - self._last[hashed, cells]) / 3)
            found = np.minimum(found, self._share[hashed, cells] / np.maximum(gap, 1.0))
        return found

    def state(self) -> dict[str, Array]:
        """What it has seen: name -> array."""
        arrays = {
            "last": self._last, "num_gaps": self._num_gaps, "gap": self._gap, "share": self._share,
            "step": np.asarray(self._step),
        }  # fmt: skip
        return {PREFIX + name: array for name, array in arrays.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Takes over a state as if there had been no break; items may have other rows than then.

        Args:
            state: What `state` gave, and maybe other arrays.

        Raises:
            ValueError: The state has no estimate, or one of other cells.
        """
        if f"{PREFIX}num_gaps" not in state:
            raise ValueError(
                "the state of the warm start has no streaming estimate of frequency of this version; do a full "
                "retrain, with --full"
            )
        last, num_gaps, gap, share = (state[PREFIX + name] for name in ("last", "num_gaps", "gap", "share"))
        if last.shape != self._last.shape:
            raise ValueError(
                f"the streaming estimate has {list(last.shape)} hashes and cells in the state, expected "
                f"{list(self._last.shape)} as configured; do a full retrain, with --full"
            )
        self._step = int(state[f"{PREFIX}step"])
        self._last, self._num_gaps = last.astype(np.int64), num_gaps.astype(np.int64)
        self._gap, self._share = gap.astype(np.float64), share.astype(np.float64)

    def _cells(self, rows: Ints) -> list[npt.NDArray[np.uint64]]:
        """The cell of each item in each hash: (a number + b mod 2^64) / 2^32, mod Z, a and b odd and of the hash."""
        num_buckets = np.uint64(self._last.shape[1])
        numbers = self._numbers[rows].astype(np.uint64)
        return [((numbers * factor + shift) >> np.uint64(32)) % num_buckets for factor, shift in self._hashes]
