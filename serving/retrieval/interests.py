"""Several interests: users with K vectors side by side, of which the best one counts for each item.

    score_ij = max_k <u_ik, v_j>

How many there are follows from the widths: a user's row has K times the numbers of an item's.

B users, K interests, D vector width, N items of the catalogue, n vectors that are asked.

Source: the maximum over vectors of a query, Luan et al. (ME-BERT), TACL 2021; several user vectors that ask one index,
Cen et al. (ComiRec), KDD 2020, section 3.3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.retrieval.exact import is_multiple
from serving.retrieval.index import ItemIndex
from serving.retrieval.ranking import Rows, Scores, best_of_each

SAME_INTEREST = 0.99
"""Cosine from which two vectors of a user ask for the same: an index is asked the first of them alone."""


def by_interest(user_vectors: Scores, *, width: int) -> Scores:
    """[B, K D] -> [B, K, D], without a copy.

    Args:
        user_vectors: Of users.
        width: D, that of the items' vectors.

    Raises:
        ValueError: A row is not a whole number of vectors.
    """
    found = user_vectors.shape[-1]
    if user_vectors.ndim != 2 or not width or not is_multiple(found, width):
        raise ValueError(
            f"user vectors are {user_vectors.shape} and item vectors have width {width}, expected [B, K x {width}]; "
            "take both from one fit"
        )
    return user_vectors.reshape(len(user_vectors), found // width, width)


def first_coordinates(user_vectors: Scores, first: int, *, width: int) -> Scores:
    """A copy in which each vector has its first coordinates alone, and zeros behind them: [B, K D].

    Args:
        user_vectors: [B, K D].
        first: How many.
        width: D.
    """
    cut: Scores = user_vectors.copy()
    by_interest(cut, width=width)[:, :, first:] = 0
    return cut


def distinct_interests(interests: Scores) -> npt.NDArray[np.bool_]:
    """Which vectors of a user are asked: not those that are near an earlier one which is.

    Args:
        interests: [B, K, D] float32.

    Returns:
        [B, K] bool; the first of each user always.
    """
    num = interests.shape[1]
    asked = np.ones(interests.shape[:2], np.bool_)
    lengths = np.maximum(np.linalg.norm(interests, axis=2), 1e-12)
    for later in range(1, num):
        products = np.einsum("bkd,bd->bk", interests[:, :later], interests[:, later])
        cosines = products / (lengths[:, :later] * lengths[:, later, None])
        asked[:, later] = ~((cosines >= SAME_INTEREST) & asked[:, :later]).any(axis=1)
    return asked


def search_index(index: ItemIndex, user_vectors: Scores, *, width: int, k: int, ef: int) -> tuple[Rows, Scores]:
    """What an index finds for all interests of each user, in one call, each item once, with its best score.

    The k best items of the maximum are among the k best of each vector, so that nothing is lost by asking for no more.

    Args:
        index: Over vectors of width D.
        user_vectors: [B, K D] float32.
        width: D.
        k: Length of the lists.
        ef: Beam width of the index.

    Returns:
        Rows [B, k] and scores [B, k], best first.
    """
    if user_vectors.shape[1] == width:
        return index.search(user_vectors, k=k, ef=ef)
    interests = by_interest(user_vectors, width=width)
    asked = distinct_interests(interests)
    found, found_scores = index.search(np.ascontiguousarray(interests[asked]), k=k, ef=ef)
    owners = np.repeat(np.nonzero(asked)[0], found.shape[1])
    items, scores = found.ravel(), found_scores.ravel()
    there = items >= 0
    owners, items, scores = owners[there], items[there], scores[there]
    # Of the places of an item in a user's lists, the best comes first.
    order = np.lexsort((-scores, items, owners))
    owners, items, scores = owners[order], items[order], scores[order]
    is_first = np.ones(len(items), np.bool_)
    is_first[1:] = (owners[1:] != owners[:-1]) | (items[1:] != items[:-1])
    return best_of_each(owners[is_first], items[is_first], scores=scores[is_first], num_users=len(asked), k=k)


def interest_of(interests: Scores, item_vectors: Scores) -> npt.NDArray[np.int64]:
    """Which of one user's vectors finds each item: the best of those that are asked.

    Args:
        interests: [K, D] float32.
        item_vectors: [N, D] float32.

    Returns:
        [N] int64, from 0 to K - 1.
    """
    asked = np.flatnonzero(distinct_interests(interests[None])[0])
    best: npt.NDArray[np.int64] = asked[(item_vectors @ interests[asked].T).argmax(axis=1)]
    return best
