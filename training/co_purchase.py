"""Co-purchase factors: a truncated SVD of which users have met which items.

Shape letters: U users, N item rows, F factors, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from evaluation.metrics import find_hits, recall_at_k
from features.encoding import Encoder
from serving.retrieval import exact
from serving.retrieval.interests import by_interest
from towers.co_purchase import ItemFactors, with_factors
from towers.two_tower import TwoTower
from training.config import TowerConfig
from training.negatives.known_positives import KnownPositives

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Singular values of a float32 matrix that are smaller, relative to the largest, are 0 up to rounding.
RELATIVE_TOLERANCE = 1e-3

UNCHOSEN_WEIGHT = 2.0
"""What factors count where no validation days choose it."""
WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""What is chosen from."""
Powers = tuple[float, ...]
Suggest = Callable[[Floats, Ints], Floats]
"""From factors [N, F] and the item rows of the pairs that have met [P] to factors of all items [N, F]."""
UNCHOSEN_POWERS: Powers = (0.25, 0.3, 1.0)
"""Of users, items and lengths, where no validation days choose them."""
POWERS: tuple[Powers, ...] = ((0.0, 0.0, 0.5), UNCHOSEN_POWERS)
"""What is chosen from: PureSVD with tempered lengths, and what finds more on most data."""


def item_factors(
    user_rows: Ints,
    item_rows: Ints,
    *,
    num_user_rows: int,
    num_item_rows: int,
    num_factors: int,
    user_power: float,
    item_power: float,
    length_power: float = 1.0,
    seed: int,
) -> ItemFactors:
    """Right singular vectors of the matrix of who has met what, rows and columns scaled down by their sizes.

        D_u^-a X D_i^-b ~ U S V',   f_i = n_i^b V_i / max_j |n_j^b V_j|,   w_i = (n_i / min_j n_j)^-2b

    With a third power, c, the length of f_i becomes |f_i|^c.

    X is binary, D_u and D_i hold the users' and the items' number of pairs, n_i that of item i. A user's factors are
    the sum of w_i f_i over the history, so that an item of the history counts n_i^-b V_i. Without the scaling the most
    active users and the most popular items take most of the singular vectors.

    Its squared loss over all cells, zeros included, is what makes it robust where users are few: with some thousand of
    them a softmax over examples learns little from histories but what is popular.

    Args:
        user_rows: [P] int64, one entry per pair that has met.
        item_rows: [P] int64.
        num_user_rows: U.
        num_item_rows: N.
        num_factors: F; where the rank of the matrix is smaller, the rest are 0. One of full rank loses its last factor.
        user_power: a, 0 to 1; 0 and `item_power` 0 give PureSVD.
        item_power: b, 0 to 1.
        length_power: c, 0 to 1; a smaller one lifts the tail.
        seed: Of the starting vector.

    Returns:
        Of every item row; zeros for an item that no user has met.

    Source: Shen et al., CIKM 2021 (GF-CF, the ideal low-pass filter), with a and b 1/2; Cremonesi et al., RecSys 2010
    (PureSVD), with both 0.
    """
    matrix: sparse.csr_array = sparse.csr_array(
        (np.ones(len(user_rows), np.float32), (user_rows, item_rows)), shape=(num_user_rows, num_item_rows)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    nothing = ItemFactors(np.zeros((num_item_rows, num_factors), np.float32), np.zeros(num_item_rows, np.float32))
    rank = min(num_factors, min(matrix.shape) - 1)
    if rank < 1 or not matrix.nnz:
        return nothing
    of_user = np.maximum(np.diff(matrix.indptr), 1).astype(np.float32)
    of_item = np.bincount(matrix.indices, minlength=num_item_rows).astype(np.float32)
    is_met = of_item > 0
    of_item[~is_met] = 1.0
    scaled = matrix.multiply((of_user**-user_power)[:, None]).multiply((of_item**-item_power)[None, :]).tocsr()
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(np.float32)
    _, strengths, right = svds(scaled, k=rank, v0=start)
    # Beyond the rank of the matrix the solver fills up with arbitrary directions, on items that no user has met too.
    real = strengths > RELATIVE_TOLERANCE * strengths.max()
    right = right[real][::-1]
    right[:, ~is_met] = 0.0
    own = np.zeros((num_item_rows, num_factors), np.float32)
    own[:, : len(right)] = (_without_sign(right) * of_item**item_power).T
    weights = np.where(is_met, (of_item / of_item[is_met].min()) ** (-2 * item_power), 0.0)
    own /= np.linalg.norm(own, axis=1).max()
    lengths = np.linalg.norm(own, axis=1, keepdims=True)
    own *= np.where(lengths > 0, np.maximum(lengths, 1e-30) ** (length_power - 1), 0.0)
    return ItemFactors(own, weights.astype(np.float32))


def with_factors_of(
    encoder: Encoder, known: KnownPositives, *, towers: TowerConfig, seed: int, suggest: Suggest | None = None
) -> Callable[[TwoTower], TwoTower]:
    """Appends co-purchase factors to learned towers.

    Args:
        encoder: The dataset's encoder.
        known: What each user had met at the moment of which the factors are.
        towers: Width, weight and power of the factors.
        seed: Of the factorisation.
        suggest: Gives factors to the items that no user has met; None leaves them without.
    """
    if not towers.factor_dim:
        return lambda learned: learned
    user_power, item_power, length_power = towers.factor_powers or UNCHOSEN_POWERS
    factors = item_factors(
        known.owners,
        known.items,
        num_user_rows=len(known.starts) - 1,
        # Histories and new items may point at buckets, which have no factors.
        num_item_rows=encoder.item_ids.num_table_rows,
        num_factors=towers.factor_dim,
        user_power=user_power,
        item_power=item_power,
        length_power=length_power,
        seed=seed,
    )
    if suggest is not None:
        factors = ItemFactors(suggest(factors.own, known.items), factors.weights)
    weight = UNCHOSEN_WEIGHT if towers.factor_weight is None else towers.factor_weight
    return lambda learned: with_factors(learned, factors, weight=weight)


def recall_by_weight(
    user_vectors: Floats,
    item_vectors: Floats,
    *,
    learned_width: int,
    seen: sparse.csr_array,
    relevant: sparse.csr_array,
    k: int,
    weights: Sequence[float] = WEIGHTS,
) -> dict[float, float]:
    """Recall with each weight that the factors may have.

    The towers are fitted without the factors, so that another weight only scales coordinates of the user vectors.

    Args:
        user_vectors: [U, D + F + 1] float32, with factors at `UNCHOSEN_WEIGHT`; several interests side by side.
        item_vectors: [N, D + F + 1] float32.
        learned_width: D.
        seen: [U, N], items that are left out of a user's list.
        relevant: [U, N], what is to be found.
        k: Length of the lists.
        weights: That are tried.

    Returns:
        Weight -> mean recall@k over the users with something relevant, 0 where there is none.
    """
    users = np.flatnonzero(np.diff(relevant.indptr))
    found = {}
    for weight in weights:
        weighted = with_weight(user_vectors[users], weight, learned_width=learned_width, width=item_vectors.shape[1])
        rows, _ = exact.search(weighted, item_vectors, k=k, exclude=seen[users])
        found[weight] = float(np.mean(recall_at_k(find_hits(rows, relevant[users]), k))) if len(users) else 0.0
    return found


def with_weight(user_vectors: Floats, weight: float, *, learned_width: int, width: int) -> Floats:
    """User vectors with another weight of the factors, from those at `UNCHOSEN_WEIGHT`, of the same shape.

    Args:
        user_vectors: [n, K (D + F + 1)] float32, K of each user side by side.
        weight: What the factors are to count.
        learned_width: D.
        width: D + F + 1.
    """
    scaled = np.array(by_interest(user_vectors, width=width))
    scaled[:, :, learned_width:] *= weight / UNCHOSEN_WEIGHT
    unit = scaled / np.linalg.norm(scaled, axis=2, keepdims=True)
    return np.asarray(unit.reshape(user_vectors.shape), dtype=np.float32)


def _without_sign(right: Floats) -> Floats:
    """Makes the largest entry of each vector positive: the sign of a singular vector is arbitrary."""
    largest = right[np.arange(len(right)), np.abs(right).argmax(axis=1)]
    return np.asarray(right * np.sign(largest)[:, None])
