"""How often does an item come into a batch? The log q that corrects sampled softmax.

Shape letters: N items, C candidates of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def expected_draws(
    candidate_counts: npt.NDArray[np.int64],
    *,
    num_examples: int,
    batch_size: int,
    num_uniform: int,
    catalogue_size: int,
) -> npt.NDArray[np.float64]:
    """Expected number of times that items come into a batch, by all samplers together.

        q_j = B p_j + B' / catalogue,   p_j = examples of j / examples

    One item has one q whichever sampler brought it: what matters is how often it appears, not from where.

    Args:
        candidate_counts: [C] int64, examples of each candidate in the data that is trained on.
        num_examples: Examples altogether.
        batch_size: B, rows of the batch, whose items are each other's negatives.
        num_uniform: B', negatives drawn evenly from the catalogue.
        catalogue_size: Items that those are drawn from.

    Returns:
        [C] float64, positive for every item that a sampler can bring.

    Source: Yi et al., RecSys 2019, section 3; the sum over samplers follows from linearity of expectation.
    """
    in_batch = batch_size * candidate_counts / max(num_examples, 1)
    uniform = num_uniform / max(catalogue_size, 1)
    return np.asarray(in_batch + uniform, dtype=np.float64)
