"""Has a codebook collapsed? How many codes the tokens of an epoch fall into, and how evenly.

Shape letters: M parts, N rows of a codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# Of the codes that there are: below it, most of a codebook says nothing.
TOO_FEW = 0.1
# Of the examples: those whose own item scores 0 teach nothing, as relu has no gradient there.
TOO_MANY_ZEROS = 0.5


@dataclass(frozen=True)
class CodeUsage:
    """How the tokens of an epoch were quantised.

    Attributes:
        counts: [M, N] float64, tokens of each code of each part.
        num_restarts: Dead codes that were put elsewhere.
        zero_share: Share of the examples whose own item scored 0.
        bias: b at the end of the epoch.
    """

    counts: Floats
    num_restarts: int
    zero_share: float
    bias: float

    @property
    def perplexity(self) -> Floats:
        """Exp of the entropy of each part's codes, between 1 and N: as many as if all were used alike: [M]."""
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        return np.asarray(np.exp(-(shares * logs).sum(axis=1)))

    @property
    def num_used(self) -> npt.NDArray[np.int64]:
        """Codes of each part that any token fell into: [M]."""
        return np.asarray((self.counts > 0).sum(axis=1))

    def metrics(self) -> dict[str, float]:
        """Figures for the log; of the parts, the worst."""
        return {
            "perplexity": float(self.perplexity.min()),
            "codes_in_use": float(self.num_used.min()),
            "restarted_codes": float(self.num_restarts),
            "zero_share": self.zero_share,
            "bias": self.bias,
        }

    def warnings(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        num_codes, found = self.counts.shape[1], []
        for part, (perplexity, used) in enumerate(zip(self.perplexity, self.num_used, strict=True)):
            if perplexity < max(TOO_FEW * num_codes, 2.0):
                found.append(
                    f"the codebook of part {part} has collapsed: {used} of {num_codes} codes are in use, with a "
                    f"perplexity of {perplexity:.1f}. Lower sparcode.commitment or sparcode.learning_rate, or raise "
                    "sparcode.restart_below"
                )
        if self.zero_share > TOO_MANY_ZEROS:
            found.append(
                f"{self.zero_share:.0%} of the examples score 0 for their own item and teach nothing: the bias is "
                f"{self.bias:.2f}. Raise sparcode.initial_bias"
            )
        return found
