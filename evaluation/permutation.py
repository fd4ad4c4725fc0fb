"""How often would chance alone make such a difference? Paired permutation test over users.

U users, A differences side by side, S samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK_FLIPS = 1 << 22
"""Signs held at a time: 32 MiB of float64."""
_TIE = 1e-10
"""Of the sum of all absolute differences: sums closer than this are the same sum, added up in another order."""


def permutation_p_values(
    differences: npt.NDArray[np.float64], *, num_samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Two-sided p-value of each mean difference, by flipping the signs of users' differences.

    If two arms are alike, a user's figures might as well have come from the other arm each, which changes the sign of
    the difference:

        p = (1 + #{samples with |mean of the flipped| >= |mean|}) / (1 + S)

    The sample that flips nothing is counted with the others, so that p is never 0 and the test never too eager.

    Args:
        differences: [U, A] float64, an arm's figure minus the other's; a user with nan is not counted in that column.
        num_samples: S, random flips; the smallest p-value is 1 / (1 + S).
        seed: Same seed and number of users, same flips, in all columns alike.

    Returns:
        [A] float64; 1 where all differences are 0, nan where no user has one.

    Raises:
        ValueError: `num_samples` < 1, or the differences are not [U, A] or not finite.

    Source: Fisher, The Design of Experiments, 1935, section 21; the count with one added is of Phipson and Smyth,
        SAGMB 2010.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; draw at least 1")
    if differences.ndim != 2 or np.isinf(differences).any():
        raise ValueError(f"differences are of shape {differences.shape}, expected finite numbers or nan [U, A]")
    values = np.nan_to_num(differences)
    total = values.sum(axis=0)
    # The number of users is the same with every sign: sums compare as means do.
    reached = np.abs(total) - _TIE * np.abs(values).sum(axis=0)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_FLIPS // max(len(values), 1))
    as_large = np.zeros(values.shape[1], np.int64)
    for start in range(0, num_samples, block):
        kept = _coins(rng, min(block, num_samples - start), len(values))
        as_large += (np.abs(2 * (kept @ values) - total) >= reached).sum(axis=0)
    return np.where(np.isnan(differences).all(axis=0), np.nan, (1 + as_large) / (1 + num_samples))


def _coins(rng: np.random.Generator, num_samples: int, num_users: int) -> npt.NDArray[np.float64]:
    """Fair zeros and ones, [samples, users]: 64 of one draw, and the same ones whatever the blocks are."""
    draws = rng.integers(0, 2**64, size=(num_samples, -(-num_users // 64)), dtype=np.uint64)
    return np.unpackbits(draws.view(np.uint8), axis=1, count=num_users).astype(np.float64)
