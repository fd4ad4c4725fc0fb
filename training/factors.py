"""What do co-purchases alone say about items? A truncated SVD of who has met what, as a frozen description of each item.

Shape letters: U users, N item rows, F factors, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

Ints = npt.NDArray[np.int64]


def item_factors(
    user_rows: Ints, item_rows: Ints, *, num_user_rows: int, num_item_rows: int, num_factors: int, seed: int
) -> npt.NDArray[np.float32]:
    """Right singular vectors of the binary matrix of users and items.

        X ~ U S V',   factors_i = V_i / rms

    The squared loss over all cells, zeros included, is what makes them robust where users are few: with some thousand
    users a softmax model learns little from histories that it does not also overfit. The length of a row grows with the
    item's popularity, and is kept.

    Args:
        user_rows: [P] int64, one entry per pair that has met.
        item_rows: [P] int64.
        num_user_rows: U.
        num_item_rows: N.
        num_factors: F; fewer are computed, and the rest are 0, where the matrix is too small.
        seed: Of the starting vector.

    Returns:
        [N, F] float32, scaled so that the mean square length of the rows of items that were met is F / 100.

    Source: Cremonesi et al., RecSys 2010 (PureSVD).
    """
    matrix = sparse.csr_array(
        (np.ones(len(user_rows), np.float32), (user_rows, item_rows)), shape=(num_user_rows, num_item_rows)
    )
    factors = np.zeros((num_item_rows, num_factors), np.float32)
    rank = min(num_factors, min(matrix.shape) - 1)
    if rank < 1 or not len(user_rows):
        return factors
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(np.float32)
    _, _, right = svds(matrix, k=rank, v0=start)
    # A singular vector's sign is arbitrary: make its largest entry positive, largest singular value first.
    right = right[::-1]
    right = right * np.sign(right[np.arange(rank), np.abs(right).argmax(axis=1)])[:, None]
    factors[:, :rank] = right.T
    return factors
