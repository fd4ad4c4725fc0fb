"""Co-purchase factors: a truncated SVD of which users have met which items.

Shape letters: U users, N item rows, F factors, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from features.encoding import Encoder
from towers.co_purchase import with_factors
from towers.two_tower import TwoTower
from training.config import TowerConfig
from training.negatives.known_positives import KnownPositives

Ints = npt.NDArray[np.int64]
Factors = npt.NDArray[np.float32]

# Singular values of a float32 matrix that are smaller, relative to the largest, are 0 up to rounding.
RELATIVE_TOLERANCE = 1e-3


def item_factors(
    user_rows: Ints,
    item_rows: Ints,
    *,
    num_user_rows: int,
    num_item_rows: int,
    num_factors: int,
    power: float,
    seed: int,
) -> Factors:
    """Right singular vectors of the binary matrix of users and items, with their lengths tempered.

        X ~ U S V',   f_i = V_i / |V_i| * (|V_i| / max_j |V_j|)^power

    Its squared loss over all cells, zeros included, is what makes it robust where users are few: with some thousand of
    them a softmax over examples learns little from histories but what is popular. The length of V_i grows with the
    item's popularity; a power below 1 lifts the tail.

    Args:
        user_rows: [P] int64, one entry per pair that has met.
        item_rows: [P] int64.
        num_user_rows: U.
        num_item_rows: N.
        num_factors: F; where the rank of the matrix is smaller, the rest are 0. One of full rank loses its last factor.
        power: Exponent of the length.
        seed: Of the starting vector.

    Returns:
        [N, F] float32, rows of length at most one; zeros for an item that no user has met.

    Source: Cremonesi et al., RecSys 2010 (PureSVD). Departs from it: the lengths.
    """
    matrix: sparse.csr_array = sparse.csr_array(
        (np.ones(len(user_rows), np.float32), (user_rows, item_rows)), shape=(num_user_rows, num_item_rows)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    factors = np.zeros((num_item_rows, num_factors), np.float32)
    rank = min(num_factors, min(matrix.shape) - 1)
    if rank < 1 or not matrix.nnz:
        return factors
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(np.float32)
    _, strengths, right = svds(matrix, k=rank, v0=start)
    # Beyond the rank of the matrix the solver fills up with arbitrary directions, on items that no user has met too.
    real = strengths > RELATIVE_TOLERANCE * strengths.max()
    right = right[real][::-1]
    right[:, np.bincount(item_rows, minlength=num_item_rows) == 0] = 0.0
    factors[:, : len(right)] = _without_sign(right).T
    return _tempered(factors, power)


def with_factors_of(
    encoder: Encoder, known: KnownPositives, *, towers: TowerConfig, seed: int
) -> Callable[[TwoTower], TwoTower]:
    """Appends co-purchase factors to learned towers.

    Args:
        encoder: The dataset's encoder.
        known: What each user had met at the moment of which the factors are.
        towers: Width, weight and power of the factors.
        seed: Of the factorisation.
    """
    if not towers.factor_dim:
        return lambda learned: learned
    factors = item_factors(
        known.owners,
        known.items,
        num_user_rows=len(known.starts) - 1,
        # Histories and new items may point at buckets, which have no factors.
        num_item_rows=encoder.item_ids.num_table_rows,
        num_factors=towers.factor_dim,
        power=towers.factor_power,
        seed=seed,
    )
    return lambda learned: with_factors(learned, factors, weight=towers.factor_weight)


def _without_sign(right: Factors) -> Factors:
    """Makes the largest entry of each vector positive: the sign of a singular vector is arbitrary."""
    largest = right[np.arange(len(right)), np.abs(right).argmax(axis=1)]
    return np.asarray(right * np.sign(largest)[:, None])


def _tempered(factors: Factors, power: float) -> Factors:
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    scale = np.where(lengths > 0, (lengths / lengths.max()) ** power / np.maximum(lengths, 1e-30), 0.0)
    return np.asarray(factors * scale, dtype=np.float32)
