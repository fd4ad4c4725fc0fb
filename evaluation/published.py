"""Recall and NDCG of vectors on a published split, by the rules of its table.

Shape letters: U users, N items, D vector width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from evaluation.metrics import find_hits, ndcg_at_k, recall_at_k
from features.sources.lightgcn import Pairs
from serving.retrieval import exact

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Means over the users with something to find.

    Attributes:
        recall: Hits among the first k / all that the user has in the judged pairs.
        ndcg: Ideal cut at min(k, what the user has).
        num_users: Users counted.
    """

    recall: float
    ndcg: float
    num_users: int


def score(user_vectors: Floats, item_vectors: Floats, *, fitted: Pairs, judged: Pairs, k: int) -> Score:
    """Exact search over all items that the user does not have among the fitted pairs.

    Args:
        user_vectors: [U, D] float32.
        item_vectors: [N, D] float32.
        fitted: Masked.
        judged: To be found; every one counts in the denominator.
        k: Length of the lists.
    """
    shape = (len(user_vectors), len(item_vectors))
    users = np.unique(judged.users)
    ranked, _ = exact.search(user_vectors[users], item_vectors, k=k, exclude=_matrix(fitted, shape, np.float32)[users])
    found = find_hits(ranked, _matrix(judged, shape, bool)[users])
    return Score(float(recall_at_k(found, k).mean()), float(ndcg_at_k(found, k).mean()), len(users))


def hold_out(pairs: Pairs, share: float, *, seed: int | None) -> tuple[Pairs, Pairs]:
    """Splits each user's pairs; who has few keeps at least one.

    Args:
        pairs: By user, in the order of their lines.
        share: Of a user's pairs that are held out, rounded down.
        seed: Of a choice at random; None holds out the last ones of each line.

    Returns:
        What is kept and what is held out, both in order.
    """
    counts = np.bincount(pairs.users)
    place = pairs.from_last
    if seed is not None:
        order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), pairs.users))
        place = np.empty(len(pairs), np.int64)
        place[order] = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[pairs.users[order]]
    out = place < np.floor(counts * share)[pairs.users]
    return Pairs(pairs.users[~out], pairs.items[~out]), Pairs(pairs.users[out], pairs.items[out])


def _matrix(pairs: Pairs, shape: tuple[int, int], dtype: type) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(pairs), dtype), (pairs.users, pairs.items)), shape=shape)
