"""How often does an item come, when nobody has counted beforehand? A streaming estimate from the gaps between sights.

Shape letters: n ids, H hashes, Z cells of a hash.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class StreamingFrequency:
    """Expected draws of each id into a batch, from a fixed number of cells.

    Of each cell it keeps the step t at which it was last seen, and running means of the gap g between steps that saw it
    and of its draws m in such a step:

        g <- (1 - alpha) g + alpha (t - last),   m <- (1 - alpha) m + alpha (draws in step t),   last <- t

    An id is drawn m / g times a step. An id has a cell in each of several hashes; those that share a cell are seen
    together and more often than each, so that the longest of the gaps per draw is nearest to the truth.

    Args:
        num_hashes: H, independent of each other and the same in every process.
        num_buckets: Z.
        rate: Alpha, how fast a new gap replaces the old mean.
        initial_gap: Steps between draws of an id that has been seen once: the first sight tells no gap.

    Source: Yi et al., RecSys 2019, algorithms 2 and 3. Departs from them: theirs is the share of the batches that hold
        an id, at most 1 however often it comes in each; here draws count. The first sight does not count as a gap.
    """

    def __init__(self, *, num_hashes: int, num_buckets: int, rate: float, initial_gap: float) -> None:
        """Has seen nothing."""
        self._rate, self._initial_gap = rate, initial_gap
        self._step = 0
        shape = (num_hashes, num_buckets)
        self._hashes = [
            np.random.SeedSequence(number).generate_state(2, np.uint64) | np.uint64(1) for number in range(num_hashes)
        ]
        self._last = np.zeros(shape, np.int64)  # 0 where never: steps count from 1
        self._gap, self._draws = np.zeros(shape), np.zeros(shape)

    def update(self, ids: Ints) -> None:
        """Takes in a step.

        Args:
            ids: [n] not negative, as often as they are drawn.
        """
        self._step += 1
        for hashed, cells in enumerate(self._cells(ids)):
            seen, draws = np.unique(cells, return_counts=True)
            last = self._last[hashed, seen]
            is_first = last == 0
            gap, mean_draws = self._gap[hashed, seen], self._draws[hashed, seen]
            gap += self._rate * (self._step - last - gap)
            mean_draws += self._rate * (draws - mean_draws)
            self._gap[hashed, seen] = np.where(is_first, self._initial_gap * draws, gap)
            self._draws[hashed, seen] = np.where(is_first, draws, mean_draws)
            self._last[hashed, seen] = self._step

    def expected_draws(self, ids: Ints) -> Floats:
        """Expected draws of ids into a step: [n] float64, 0 for those never seen."""
        found = np.full(len(ids), np.inf)
        for hashed, cells in enumerate(self._cells(ids)):
            gap, draws = self._gap[hashed, cells], self._draws[hashed, cells]
            found = np.minimum(found, np.divide(draws, gap, out=np.zeros(len(ids)), where=gap > 0))
        return found

    def save(self, path: Path) -> None:
        """Writes the state as `.npz`; `load` continues as if there had been no break."""
        with path.open("wb") as file:
            np.savez(
                file, last=self._last, gap=self._gap, draws=self._draws,
                step=self._step, rate=self._rate, initial_gap=self._initial_gap,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> StreamingFrequency:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as state:
            num_hashes, num_buckets = state["last"].shape
            loaded = cls(
                num_hashes=num_hashes, num_buckets=num_buckets,
                rate=float(state["rate"]), initial_gap=float(state["initial_gap"]),
            )  # fmt: skip
            loaded._step = int(state["step"])
            loaded._last, loaded._gap, loaded._draws = state["last"], state["gap"], state["draws"]
        return loaded

    def _cells(self, ids: Ints) -> list[npt.NDArray[np.uint64]]:
        """The cell of each id in each hash: (a id + b mod 2^64) / 2^32, mod Z, with fixed odd a and b of each hash."""
        num_buckets = np.uint64(self._last.shape[1])
        rows = np.asarray(ids).astype(np.uint64)
        return [((rows * factor + shift) >> np.uint64(32)) % num_buckets for factor, shift in self._hashes]
