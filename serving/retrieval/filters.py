"""How are items kept out while k results stay guaranteed? Fetch more and take out, or search only what may come.

    fetch = (k + items the user knows) / share of the catalogue that is offered, and a quarter more

Which is cheaper was measured (D 64, 92k items, one thread): a place of the beam costs .43 us, a gathered row .042 us, a
row of one product over everything .015 us. So the graph is asked while its beam has fewer places than a tenth of the
items that are offered, and exact search answers otherwise, and wherever fetching has found too few.

B users, N items of the catalogue, D vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.retrieval import exact
from serving.retrieval.eligible import Offer, everything_but
from serving.retrieval.index import AnnIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import Rows, Scores, padding, without

# What a place of the beam costs, in gathered rows.
BEAM_COST = 10.0
# What is fetched beyond the expected number: offered items are not spread evenly over the best ones.
_RESERVE = 1.25


def search_offered(
    index: AnnIndex,
    vectors: Scores,
    *,
    query_embeddings: Scores,
    known: Purchases | None,
    offer: Offer | None,
    k: int,
    ef: int,
    max_fetch: int,
    beam_cost: float = BEAM_COST,
) -> tuple[Rows, Scores]:
    """The nearest items that are offered and that a user does not know yet.

    Args:
        index: Searched where that is cheaper.
        vectors: [N, D] float32, searched exactly otherwise.
        query_embeddings: [B, D] float32.
        known: B rows, what each user must not get; None keeps nothing out.
        offer: What anybody may get, nothing that the index leaves out; None offers all that is in it.
        k: Length of the lists.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for.
        beam_cost: What a place of the beam costs, in gathered rows of exact search; 0 asks the index in any case.

    Returns:
        Rows [B, k] and scores [B, k]: exactly k for each user who has k such items, all of them otherwise.
    """
    num_users, num_items = len(query_embeddings), len(vectors)
    num_indexed = num_items - len(index.left_out)
    num_offered = num_indexed if offer is None else offer.num_items
    num_known = np.zeros(num_users, np.int64) if known is None else known.num_per_user
    fetches = _fetches(num_known, k, num_offered=num_offered, num_indexed=num_indexed)
    by_index = fetches <= min(max_fetch, num_items)
    if num_offered < num_indexed:
        by_index &= np.maximum(fetches, ef) * beam_cost <= num_offered
    rows, scores = padding(num_users, k)
    for fetch in np.unique(fetches[by_index]).tolist():
        users = np.flatnonzero(by_index & (fetches == fetch))
        found = index.search(query_embeddings[users], k=fetch, ef=ef)
        rows[users], scores[users] = without(
            *found,
            known_keys=np.empty(0, np.int64) if known is None else known.of(users).keys,
            num_items=num_items,
            k=k,
            offered=None if offer is None else offer.mask,
        )
    # What is offered may lie far from the user: fetching has then found too few, though there are more.
    by_index &= (rows[:, -1] >= 0) | (fetches >= k + num_known + num_indexed - num_offered)
    users = np.flatnonzero(~by_index)
    if len(users):
        offer = offer or everything_but(index.left_out, num_items=num_items)
        rows[users], scores[users] = exact.search(
            query_embeddings[users],
            vectors,
            k=k,
            exclude=None if known is None else known.of(users).csr(),
            offered=None if offer is None else offer.mask,
        )
    return rows, scores


def _fetches(num_known: npt.NDArray[np.int64], k: int, *, num_offered: int, num_indexed: int) -> npt.NDArray[np.int64]:
    """[B] smallest multiple of k that is expected to leave k items.

    It depends on the user alone, because a result must not depend on who else is in the batch; multiples let users
    share a search all the same.
    """
    wanted = k + num_known
    if num_offered < num_indexed:
        expected = np.ceil(wanted * (num_indexed / max(num_offered, 1)) * _RESERVE).astype(np.int64)
        # So many leave k in any case.
        wanted = np.minimum(expected, wanted + num_indexed - num_offered)
    multiples: npt.NDArray[np.int64] = -(-wanted // k)
    return multiples * k
