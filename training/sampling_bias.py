"""How likely does an item come into a batch? The log q that corrects sampled softmax.

Shape letters: N items, C candidates of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def presence(
    shares: Floats, *, num_examples: int, num_uniform: int, num_random: int, catalogue_size: int
) -> Floats:  # fmt: skip
    """Probability that a row meets an item among its candidates, by all samplers together.

        q_j = 1 - (1 - p_j)^n (1 - B'/N) (1 - 1/N)^R

    One item has one q whichever sampler brought it: what matters is whether it is there, not from where. It fits a loss
    in which an item counts once in a row: then 1/q times its term is, on average, its term of the softmax over the
    catalogue. The number of draws, which Yi et al. take, counts repeats, and where own items and known positives are
    masked those do not add up: the two agree where items are rare.

    Args:
        shares: [C] float64, p: the share of each candidate's item among the examples.
        num_examples: n, examples whose items the row meets beside its own: B - 1 of the batch, and those of the queue.
        num_uniform: B', distinct items drawn evenly from the catalogue for the batch.
        num_random: R, items drawn evenly from the catalogue for the row alone, perhaps some of them twice.
        catalogue_size: N.

    Returns:
        [C] float64 between 0 and 1, positive for every item that a sampler can bring.

    Source: Yi et al., RecSys 2019, section 3, for the correction; the product over samplers follows from their
        independence.
    """
    absent = np.power(1 - np.minimum(shares, 1.0), num_examples)
    absent = absent * (1 - min(num_uniform / max(catalogue_size, 1), 1.0))
    absent = absent * (1 - 1 / max(catalogue_size, 1)) ** num_random
    return np.asarray(1 - absent, dtype=np.float64)


def log_of(probabilities: Floats) -> npt.NDArray[np.float32]:
    """Natural logarithm, and 0 where no sampler can bring the item: it is there as an own one, and for sure."""
    return np.log(np.where(probabilities > 0, probabilities, 1.0)).astype(np.float32)
