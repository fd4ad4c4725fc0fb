"""Recall and NDCG by the rules of the tables that papers publish for splits of pairs.

Shape letters: U users, N items, D vector width, T users of test.
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
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Means over the users with something to find.

    Attributes:
        recall: Hits among the first k / all that the user has in test.
        ndcg: Ideal cut at min(k, what the user has).
        users: [T] int64, rows of the users counted.
        lists: [T, k] int32, rows of their items, the best first; -1 where there are fewer.
    """

    recall: float
    ndcg: float
    users: Ints
    lists: npt.NDArray[np.int32]


def score(user_vectors: Floats, item_vectors: Floats, *, fitted: Pairs, test: Pairs, k: int) -> Score:
    """Exact search over all items that the user does not have among the fitted pairs.

    Args:
        user_vectors: [U, D] float32.
        item_vectors: [N, D] float32.
        fitted: By rows of users and items; left out of the lists.
        test: Likewise, to be found; every pair counts in the denominator.
        k: Length of the lists.
    """
    shape = (len(user_vectors), len(item_vectors))
    users = np.unique(test.users)
    lists, _ = exact.search(user_vectors[users], item_vectors, k=k, exclude=_matrix(fitted, shape, np.float32)[users])
    found = find_hits(lists, _matrix(test, shape, bool)[users])
    return Score(float(recall_at_k(found, k).mean()), float(ndcg_at_k(found, k).mean()), users, lists)


def _matrix(pairs: Pairs, shape: tuple[int, int], dtype: type) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(pairs), dtype), (pairs.users, pairs.items)), shape=shape)
