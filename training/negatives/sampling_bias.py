"""Sampling-bias correction: log q of an item in a batch, from counted or from streamed frequencies.

Shape letters: n rows, N items (rows of their table), C candidates of a batch, H hashes, Z cells of a hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]
# Stands before the names of arrays in a state, where variables have none that begin so.
PREFIX = "@frequency/"
Floats = npt.NDArray[np.float64]


def presence(shares: Floats, *, num_examples: int, absences: Iterable[Floats | float]) -> Floats:
    """Probability that a row meets an item among its candidates, by all sources together.

        q_j = 1 - (1 - p_j)^n prod_s a_sj

    One item has one q whichever source brought it: what matters is whether it is there, not from where. It fits a loss
    in which an item counts once in a row: then 1/q times its term is, on average, its term of the softmax over the
    catalogue. The number of draws, which Yi et al. take, counts repeats, and where own items and known positives are
    masked those do not add up: the two agree where items are rare.

    Args:
        shares: [C] float64, p: the share of each candidate's item among the examples.
        num_examples: n, examples whose items the row meets besides its own: B - 1 of the batch, and those of the queue.
        absences: Of each further source s, [C] or one probability for all: a, that it does not bring the item. That of
            B' distinct items drawn evenly out of N is 1 - B'/N, that of R independent draws (1 - 1/N)^R.

    Returns:
        [C] float64 between 0 and 1, positive for every item that a source can bring.

    Source: Yi et al., RecSys 2019, section 3, for the correction; the product over sources follows from their
        independence.
    """
    absent = np.power(1 - np.minimum(shares, 1.0), num_examples)
    for absence in absences:
        absent = absent * absence
    return np.asarray(1 - absent, dtype=np.float64)


def log_of(probabilities: Floats) -> npt.NDArray[np.float32]:
    """Natural logarithm, and 0 where no source can bring the item: it is there as an own one, and for sure."""
    return np.log(np.where(probabilities > 0, probabilities, 1.0)).astype(np.float32)


class StreamingFrequency:
    """Expected draws of each item into a batch, from a fixed number of cells.

    Of each cell it keeps the step t at which it was last seen, and running means of the gap g between steps that saw it
    and of its draws m in such a step:

        g <- (1 - alpha) g + alpha (t - last),   m <- (1 - alpha) m + alpha (draws in step t),   last <- t

    An item is drawn m / g times a step. It has a cell in each of several hashes; those that share a cell are seen
    together and more often than each, so that the longest of the gaps per draw is nearest to the truth. What is hashed
    is a number of the item, not its row: rows move as tables grow, and the estimate is kept from night to night.

    Args:
        numbers: [N] int64 not negative, of the item of each row, which stays when the row moves.
        num_hashes: H, independent of each other and the same in every process.
        num_buckets: Z.
        rate: Alpha, how fast a new gap replaces the old mean.
        initial_gap: Steps between draws of an item that has been seen once: the first sight has no gap.

    Source: Yi et al., RecSys 2019, algorithms 2 and 3. Departs from them: theirs is the share of the batches that hold
        an id, at most 1 however often it comes in each; here draws count. The first sight does not count as a gap.
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
        self._gap, self._draws = np.zeros(shape), np.zeros(shape)

    def update(self, rows: Ints) -> None:
        """Takes in a step.

        Args:
            rows: [n] of items, as often as they are drawn.
        """
        self._step += 1
        for hashed, cells in enumerate(self._cells(rows)):
            seen, draws = np.unique(cells, return_counts=True)
            last = self._last[hashed, seen]
            is_first = last == 0
            gap, mean_draws = self._gap[hashed, seen], self._draws[hashed, seen]
            gap += self._rate * (self._step - last - gap)
            mean_draws += self._rate * (draws - mean_draws)
            self._gap[hashed, seen] = np.where(is_first, self._initial_gap * draws, gap)
            self._draws[hashed, seen] = np.where(is_first, draws, mean_draws)
            self._last[hashed, seen] = self._step

    def expected_draws(self, rows: Ints) -> Floats:
        """Expected draws of the items of rows into a step: [n] float64, 0 for those never seen."""
        found = np.full(len(rows), np.inf)
        for hashed, cells in enumerate(self._cells(rows)):
            gap, draws = self._gap[hashed, cells], self._draws[hashed, cells]
            found = np.minimum(found, np.divide(draws, gap, out=np.zeros(len(rows)), where=gap > 0))
        return found

    def state(self) -> dict[str, Array]:
        """What it has seen: name -> array."""
        arrays = {"last": self._last, "gap": self._gap, "draws": self._draws, "step": np.asarray(self._step)}
        return {PREFIX + name: array for name, array in arrays.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Takes over a state as if there had been no break; items may have other rows than then.

        Args:
            state: What `state` gave, and maybe other arrays.

        Raises:
            ValueError: The state has no estimate, or one of other cells.
        """
        if f"{PREFIX}step" not in state:
            raise ValueError(
                "the state of the warm start has no streaming estimate of frequency; do a full retrain, with --full"
            )
        last, gap, draws = (state[PREFIX + name] for name in ("last", "gap", "draws"))
        if last.shape != self._last.shape:
            raise ValueError(
                f"the streaming estimate has {list(last.shape)} hashes and cells in the state, expected "
                f"{list(self._last.shape)} as configured; do a full retrain, with --full"
            )
        self._step = int(state[f"{PREFIX}step"])
        self._last, self._gap, self._draws = last.astype(np.int64), gap.astype(np.float64), draws.astype(np.float64)

    def _cells(self, rows: Ints) -> list[npt.NDArray[np.uint64]]:
        """The cell of each item in each hash: (a number + b mod 2^64) / 2^32, mod Z, a and b odd and of the hash."""
        num_buckets = np.uint64(self._last.shape[1])
        numbers = self._numbers[rows].astype(np.uint64)
        return [((numbers * factor + shift) >> np.uint64(32)) % num_buckets for factor, shift in self._hashes]
