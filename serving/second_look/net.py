"""The net of the second look: one score for each candidate of a user, computed with NumPy.

E entries, F inputs of an entry, H items of a history, Q inputs of a candidate with one of these, C codes, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.second_look.inputs import Floats, Inputs

LIMIT = 8.0
"""Standard deviations at which an input is cut off, so that nothing that was never trained on outweighs all."""
WEIGHTS = ("attention", "hidden", "hidden_bias", "output")
"""Names of the net's own arrays, which training changes."""


@dataclass(frozen=True)
class Net:
    """A hidden layer over the inputs of a candidate and what it attends to in the history.

        a_ch = exp(w_c . p_h) / (1 + sum_h exp(w_c . p_h))      attention of code c to item h, or to none
        g_c  = sum_h a_ch p_h                                   what code c has found
        s    = v . relu(W [x; g_1 .. g_C] + b)

    x are the standardised inputs of the candidate and p_h those of it with item h of the history. As both are cosines,
    counts and days, and no coordinates, the net outlives a new fit of the towers.

    Source: Zhou et al., Deep Interest Network, KDD 2018, section 4.3, with several codes as in Poly-encoders (Humeau et
    al., ICLR 2020, section 4.4).

    Attributes:
        names: F names of the inputs.
        mean: [F] of the inputs in training.
        spread: [F] their standard deviation.
        attention: [Q, C].
        hidden: [F + C Q, U].
        hidden_bias: [U].
        output: [U].
    """

    names: tuple[str, ...]
    mean: Floats
    spread: Floats
    attention: Floats
    hidden: Floats
    hidden_bias: Floats
    output: Floats

    def standardised(self, values: Floats) -> Floats:
        """The inputs of candidates as the first layer takes them: [E, F]."""
        found: Floats = np.clip((values - self.mean) / self.spread, -LIMIT, LIMIT)
        return found

    def attended(self, inputs: Inputs) -> Floats:
        """What each code finds in the history: [E, C Q]."""
        (num_entries, length, width), num_codes = inputs.pairs.shape, self.attention.shape[1]
        logits = (inputs.pairs.reshape(-1, width) @ self.attention).reshape(num_entries, length, num_codes)
        powers = np.exp(np.minimum(logits, 60)) * inputs.is_met[..., None]
        shares = powers / (1 + powers.sum(axis=1, keepdims=True))
        found: Floats = np.matmul(shares.transpose(0, 2, 1), inputs.pairs).reshape(num_entries, num_codes * width)
        return found

    def scores(self, inputs: Inputs) -> Floats:
        """[E], comparable among the candidates of a user alone."""
        return self._scores(np.hstack([self.standardised(inputs.values), self.attended(inputs)]))

    def _scores(self, read: Floats) -> Floats:
        found: Floats = np.maximum(read @ self.hidden + self.hidden_bias, 0) @ self.output
        return found

    def counted(self, inputs: Inputs) -> Floats:
        """By how much each input raises each score over what it would be with the mean of that input: [E, F + 1].

        The last one is what the candidate attends to in the history.
        """
        values, attended = self.standardised(inputs.values), self.attended(inputs)
        whole, num_inputs = self._scores(np.hstack([values, attended])), values.shape[1]
        found = np.zeros((len(values), num_inputs + 1), np.float32)
        for place in range(num_inputs):
            without = values.copy()
            without[:, place] = 0
            found[:, place] = whole - self._scores(np.hstack([without, attended]))
        found[:, -1] = whole - self._scores(np.hstack([values, np.zeros_like(attended)]))
        return found

    @property
    def weights(self) -> dict[str, Floats]:
        """The arrays that training changes."""
        return {name: getattr(self, name) for name in WEIGHTS}

    def with_weights(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> Net:
        """The same net with other weights."""
        attention, hidden, bias, output = (np.asarray(weights[name], np.float32) for name in WEIGHTS)
        return replace(self, attention=attention, hidden=hidden, hidden_bias=bias, output=output)

    def save(self, file: Path) -> None:
        """Writes it."""
        with file.open("wb") as opened:
            arrays = {"names": np.array(self.names), "mean": self.mean, "spread": self.spread, **self.weights}
            np.savez(opened, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: Path) -> Net:
        """Reads what `save` wrote."""
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in ("mean", "spread", *WEIGHTS)}
            return cls(tuple(kept["names"].tolist()), **arrays)
