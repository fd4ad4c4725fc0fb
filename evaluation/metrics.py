"""Metrics of ranked lists: one figure per user, from the positions of the hits.

U users, K places of a list, N items of the catalogue. What the lists hold besides hits is in `diversity.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp


@dataclass(frozen=True)
class Hits:
    """The hits of ranked lists, found once and shared by all metrics.

    Attributes:
        found: [U, K] bool, the item in this place is relevant to this user.
        num_relevant: [U] int64, relevant items of the catalogue, found or not.
    """

    found: npt.NDArray[np.bool_]
    num_relevant: npt.NDArray[np.int64]


def find_hits(ranked: npt.NDArray[np.integer], relevant: sp.csr_array) -> Hits:
    """Finds the hits in ranked lists.

    Args:
        ranked: [U, K] integer, catalogue rows, best first; -1 means no further result.
        relevant: [U, N] CSR; every stored entry is relevant.

    Returns:
        What all metrics start from.

    Raises:
        ValueError: Shapes differ, a row is outside the catalogue, occurs twice in a list or follows a -1.
    """
    check_ranked(ranked, relevant.shape)
    num_items = relevant.shape[1]
    users = np.arange(ranked.shape[0], dtype=np.int64)[:, None]
    pairs = relevant.tocoo()
    wanted = np.sort(pairs.row.astype(np.int64) * num_items + pairs.col)
    pairs_listed = users * num_items + ranked
    place = np.searchsorted(wanted, pairs_listed)
    # A sentinel at the end, so that a pair beyond the last wanted one has something to differ from.
    found = (np.append(wanted, -1)[place] == pairs_listed) & (ranked >= 0)
    return Hits(found=found, num_relevant=np.diff(relevant.indptr).astype(np.int64))


def recall_at_k(hits: Hits, k: int) -> npt.NDArray[np.float64]:
    """Share of a user's relevant items that are among the first k.

        recall@k = hits in the first k / |relevant|

    Args:
        hits: From `find_hits`.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan where the user has nothing relevant.

    Raises:
        ValueError: The lists have fewer than k places.
    """
    return _share(_first(hits, k).sum(axis=1), hits.num_relevant)


def recall_curve(hits: Hits) -> npt.NDArray[np.float64]:
    """Mean recall@k over users with something relevant, for k = 1..K: [K] float64, nan if there is no such user."""
    users = hits.num_relevant > 0
    if not users.any():
        return np.full(hits.found.shape[1], np.nan)
    weights = 1.0 / (hits.num_relevant[users] * users.sum())
    per_place: npt.NDArray[np.float64] = weights @ hits.found[users]
    return np.cumsum(per_place)


def precision_at_k(hits: Hits, k: int) -> npt.NDArray[np.float64]:
    """Share of the first k places that hold something relevant; a place left empty counts as a miss.

        precision@k = hits in the first k / k

    Args:
        hits: From `find_hits`.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan where the user has nothing relevant.

    Raises:
        ValueError: The lists have fewer than k places.
    """
    return _known(_first(hits, k).sum(axis=1) / k, hits)


def value_weighted_recall_at_k(
    hits: Hits,
    ranked: npt.NDArray[np.integer],
    relevant: sp.csr_array,
    values: npt.NDArray[np.float64],
    k: int,
) -> npt.NDArray[np.float64]:
    """Share of the worth of a user's relevant items that is among the first k.

        sum of values of the hits in the first k / sum of values of all relevant items

    Args:
        hits: Of these lists.
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        relevant: [U, N] CSR; every stored entry is relevant.
        values: [N] float64, what finding each item is worth: finite, at least 0.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan where the user has nothing relevant, or nothing that is worth anything.

    Raises:
        ValueError: The lists have fewer than k places, or the values are not of these items, negative or not finite.
    """
    if values.shape != relevant.shape[1:]:
        raise ValueError(f"values have shape {values.shape}, expected ({relevant.shape[1]},): one for each item")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise ValueError(f"{bad.sum()} values are below 0 or not finite; row {bad.argmax()} has {values[bad][0]}")
    users, places = np.nonzero(_first(hits, k))
    found = np.bincount(users, weights=values[ranked[users, places]], minlength=len(ranked))
    owners = np.repeat(np.arange(len(ranked)), np.diff(relevant.indptr))
    return _share(found, np.bincount(owners, weights=values[relevant.indices], minlength=len(ranked)))


def hit_rate_at_k(hits: Hits, k: int) -> npt.NDArray[np.float64]:
    """1 where at least one of the first k is relevant, else 0: [U] float64; nan where the user has nothing relevant.

    Raises:
        ValueError: The lists have fewer than k places.
    """
    return _known(_first(hits, k).any(axis=1), hits)


def ndcg_at_k(hits: Hits, k: int) -> npt.NDArray[np.float64]:
    """Discounted gain of the first k, over that of the best possible list.

        ndcg@k = sum_{r <= k} hit_r / log2(r + 1)  /  sum_{r <= min(k, |relevant|)} 1 / log2(r + 1)

    Args:
        hits: From `find_hits`.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan where the user has nothing relevant.

    Raises:
        ValueError: The lists have fewer than k places.

    Source: Järvelin and Kekäläinen, TOIS 2002, with binary gains.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(hits.num_relevant, k)]
    return _share(_first(hits, k) @ discount, ideal)


def reciprocal_rank(hits: Hits) -> npt.NDArray[np.float64]:
    """1 / place of the first hit, 0 without a hit in the K places: [U] float64; nan where nothing is relevant.

    Its mean over users is the MRR, cut at K.
    """
    first = hits.found.argmax(axis=1)
    return _known(np.where(hits.found.any(axis=1), 1.0 / (first + 1), 0.0), hits)


def coverage_at_k(ranked: npt.NDArray[np.integer], num_items: int, *, k: int) -> float:
    """Share of the catalogue that is among the first k of anyone's list.

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        num_items: N, at least 1.
        k: Places that count, 1 <= k <= K.

    Returns:
        Distinct rows / N.

    Raises:
        ValueError: The lists have fewer than k places, or `num_items` < 1.
    """
    if num_items < 1:
        raise ValueError(f"num_items is {num_items}; coverage needs a catalogue of at least one item")
    check_k(ranked.shape[1], k)
    shown = np.unique(ranked[:, :k])
    return int((shown >= 0).sum()) / num_items


def index_recall_at_k(
    ranked: npt.NDArray[np.integer], exact: npt.NDArray[np.integer], *, k: int
) -> npt.NDArray[np.float64]:
    """Share of the first k of exact search that an index found among its first k.

    Args:
        ranked: [U, K] integer, lists of the index; -1 means no further result.
        exact: [U, K'] integer, lists of exact search with the same vectors and filters.
        k: Places that count in both.

    Returns:
        [U] float64; nan where exact search found nothing.

    Raises:
        ValueError: Either has fewer than k places, or `find_hits` refuses the lists.
    """
    check_k(exact.shape[1], k)
    num_items = int(max(ranked.max(initial=0), exact.max(initial=0))) + 1
    users, places = np.nonzero(exact[:, :k] >= 0)
    at = (users, exact[users, places])
    wanted = sp.csr_array((np.ones(len(users), dtype=bool), at), shape=(len(exact), num_items))
    return recall_at_k(find_hits(ranked, wanted), k)


def _first(hits: Hits, k: int) -> npt.NDArray[np.bool_]:
    check_k(hits.found.shape[1], k)
    return hits.found[:, :k]


def check_k(num_places: int, k: int) -> None:
    """Refuses with ValueError a k below 1 or beyond the places that the lists have."""
    if not 1 <= k <= num_places:
        raise ValueError(f"k is {k} and the lists have {num_places} places; retrieve at least k, k at least 1")


def _share(
    part: npt.NDArray[np.int64 | np.float64], whole: npt.NDArray[np.int64 | np.float64]
) -> npt.NDArray[np.float64]:
    out = np.full(len(part), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _known(values: npt.ArrayLike, hits: Hits) -> npt.NDArray[np.float64]:
    return np.where(hits.num_relevant > 0, np.asarray(values, dtype=np.float64), np.nan)


def check_ranked(ranked: npt.NDArray[np.integer], shape: tuple[int, int]) -> None:
    """Refuses with ValueError lists that are not [U, K] rows of N items, distinct, with -1 only at the end."""
    if ranked.ndim != 2 or ranked.shape[0] != shape[0] or not np.issubdtype(ranked.dtype, np.integer):
        raise ValueError(f"ranked is {ranked.dtype} of shape {ranked.shape}, expected integers [{shape[0]}, K]")
    if ranked.size and (ranked.min() < -1 or ranked.max() >= shape[1]):
        raise ValueError(f"ranked runs from {ranked.min()} to {ranked.max()}, expected -1 to {shape[1] - 1}")
    resumed = (ranked[:, 1:] >= 0) & (ranked[:, :-1] < 0)
    if resumed.any():
        raise ValueError(f"list of user row {_first_user(resumed)} goes on behind a -1; use -1 at the end only")
    in_order = np.sort(ranked, axis=1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    if twice.any():
        raise ValueError(f"list of user row {_first_user(twice)} holds an item twice; remove duplicates when fusing")


def _first_user(found: npt.NDArray[np.bool_]) -> int:
    return int(found.any(axis=1).argmax())
