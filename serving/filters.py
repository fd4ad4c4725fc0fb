"""How are a user's known items kept out while k results stay guaranteed?

B users, N items of the catalogue, D vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving import exact
from serving.index import AnnIndex
from serving.purchases import Purchases
from serving.ranking import Rows, Scores, padding, without


def search_unknown(
    index: AnnIndex,
    vectors: Scores,
    *,
    query_embeddings: Scores,
    known: Purchases,
    k: int,
    ef: int,
    max_fetch: int,
) -> tuple[Rows, Scores]:
    """The nearest items that a user does not know yet.

    A user with few known items gets them fetched on top of k and taken out; where that would fetch more than
    `max_fetch`, exact search over what is left is cheaper and takes over.

    Args:
        index: Searched for users with few known items.
        vectors: [N, D] float32, searched exactly for the others.
        query_embeddings: [B, D] float32.
        known: B rows, what each user knows.
        k: Length of the lists.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for.

    Returns:
        Rows [B, k] and scores [B, k]: exactly k for each user who has k unknown items, all of them otherwise.
    """
    fetches = _fetches(known.num_per_user, k)
    by_index = fetches <= min(max_fetch, known.num_items)
    rows, scores = padding(len(query_embeddings), k)
    for fetch in np.unique(fetches[by_index]).tolist():
        users = np.flatnonzero(by_index & (fetches == fetch))
        found = index.search(query_embeddings[users], k=fetch, ef=ef)
        rows[users], scores[users] = without(*found, known_keys=known.of(users).keys, num_items=known.num_items, k=k)
    users = np.flatnonzero(~by_index)
    if len(users):
        rows[users], scores[users] = exact.search(query_embeddings[users], vectors, k=k, exclude=known.of(users).csr())
    return rows, scores


def _fetches(num_known: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """[B] smallest multiple of k that is at least k + number known.

    It depends on the user alone, because a result must not depend on who else is in the batch; multiples let users
    share a search all the same.
    """
    multiples: npt.NDArray[np.int64] = -(-(k + num_known) // k)
    return multiples * k
