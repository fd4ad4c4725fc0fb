"""Metrics of ranked lists: from the positions of the hits, and novelty, diversity and evenness of what they hold.

U users, K places of a list, N items of the catalogue.
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
    return share_of(_first(hits, k).sum(axis=1), hits.num_relevant)


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
    return share_of(found, np.bincount(owners, weights=values[relevant.indices], minlength=len(ranked)))


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
    return share_of(_first(hits, k) @ discount, ideal)


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


def novelty_at_k(
    ranked: npt.NDArray[np.integer], item_counts: npt.NDArray[np.integer], k: int
) -> npt.NDArray[np.float64]:
    """How surprising the listed items are: the mean of their self-information.

        mean over the listed items i of -log2( (count_i + 1) / (sum_j count_j + N) )

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        item_counts: [N] integer, events before the cut. The one added to each keeps unseen items finite.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64, bits; nan for an empty list.

    Raises:
        ValueError: The lists have fewer than k places or name a row beyond the counts, or a count is below 0.

    Source: Zhou et al., PNAS 2010, with one event added to each item.
    """
    if (item_counts < 0).any():
        raise ValueError(f"item_counts start at {item_counts.min()}, expected numbers of events, 0 or more")
    counts = item_counts.astype(np.float64) + 1.0
    return _mean_over_list(ranked, -np.log2(counts / counts.sum()), k)


def head_share_at_k(ranked: npt.NDArray[np.integer], is_head: npt.NDArray[np.bool_], k: int) -> npt.NDArray[np.float64]:
    """Share of the listed items that are in the head of the catalogue.

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        is_head: [N] bool, such as the first group of `items_by_popularity`.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan for an empty list.

    Raises:
        ValueError: The lists have fewer than k places or name a row beyond `is_head`.
    """
    return _mean_over_list(ranked, is_head.astype(np.float64), k)


def intra_list_diversity_at_k(
    ranked: npt.NDArray[np.integer], groups_of_item: npt.NDArray[np.integer], k: int
) -> npt.NDArray[np.float64]:
    """Share of the pairs of listed items that are of different groups.

        1 - sum over groups of c (c - 1) / (n (n - 1))    with n items listed, c of them in the group

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        groups_of_item: [N] integer, such as the labels of `items_by_category`; -1 is in no group and differs from
            everything, from another -1 too.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64; nan where fewer than two items are listed.

    Raises:
        ValueError: The lists have fewer than k places or name a row beyond the groups.

    Source: Ziegler et al., WWW 2005, with the distance of two items 0 within a group and 1 otherwise.
    """
    _check_rows(ranked, len(groups_of_item), k)
    users, places = np.nonzero(ranked[:, :k] >= 0)
    num_listed = np.bincount(users, minlength=len(ranked))
    labels = groups_of_item[ranked[users, places]].astype(np.int64)
    grouped = labels >= 0
    num_groups = int(groups_of_item.max(initial=0)) + 1
    cells, counts = np.unique(users[grouped] * num_groups + labels[grouped], return_counts=True)
    alike = np.bincount(cells // num_groups, weights=counts * (counts - 1), minlength=len(ranked))
    out = np.full(len(ranked), np.nan)
    np.divide(alike, num_listed * (num_listed - 1), out=out, where=num_listed > 1)
    return 1.0 - out


def distinct_groups_at_k(
    ranked: npt.NDArray[np.integer], groups_of_item: npt.NDArray[np.integer], k: int
) -> npt.NDArray[np.float64]:
    """How many different groups the listed items are of.

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        groups_of_item: [N] integer; an item of -1 is a group of its own.
        k: Places that count, 1 <= k <= K.

    Returns:
        [U] float64.

    Raises:
        ValueError: The lists have fewer than k places or name a row beyond the groups.
    """
    _check_rows(ranked, len(groups_of_item), k)
    users, places = np.nonzero(ranked[:, :k] >= 0)
    rows = ranked[users, places].astype(np.int64)
    num_groups = int(groups_of_item.max(initial=0)) + 1
    labels = np.where(groups_of_item[rows] < 0, num_groups + rows, groups_of_item[rows])
    cells = np.unique(users * (num_groups + len(groups_of_item)) + labels)
    return np.bincount(cells // (num_groups + len(groups_of_item)), minlength=len(ranked)).astype(np.float64)


def gini_at_k(ranked: npt.NDArray[np.integer], num_items: int, k: int) -> float:
    """Gini coefficient of how often each item of the catalogue is listed.

        sum_i (2 i - N - 1) n_i / (N sum_i n_i)    with n_1 <= ... <= n_N the numbers of lists that hold an item

    Args:
        ranked: [U, K] integer, catalogue rows; -1 means no further result.
        num_items: N.
        k: Places that count, 1 <= k <= K.

    Returns:
        0 where all items are listed equally often, 1 - 1/N where one item fills all places; nan if nothing is listed.

    Raises:
        ValueError: The lists have fewer than k places or name a row beyond the catalogue.
    """
    _check_rows(ranked, num_items, k)
    first = ranked[:, :k]
    counts = np.sort(np.bincount(first[first >= 0], minlength=num_items))
    if not counts.sum():
        return float("nan")
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(weights @ counts / (num_items * counts.sum()))


def _mean_over_list(
    ranked: npt.NDArray[np.integer], figures: npt.NDArray[np.float64], k: int
) -> npt.NDArray[np.float64]:
    _check_rows(ranked, len(figures), k)
    # Row -1 is the last one: what is behind the end of a list counts nothing.
    total = np.append(figures, 0.0)[ranked[:, :k]].sum(axis=1)
    num_listed = (ranked[:, :k] >= 0).sum(axis=1)
    out = np.full(len(ranked), np.nan)
    np.divide(total, num_listed, out=out, where=num_listed > 0)
    return out


def _check_rows(ranked: npt.NDArray[np.integer], num_items: int, k: int) -> None:
    check_k(ranked.shape[1], k)
    if ranked.size and (ranked.min() < -1 or ranked.max() >= num_items):
        raise ValueError(f"lists run from {ranked.min()} to {ranked.max()}, expected -1 to {num_items - 1}")


def _first(hits: Hits, k: int) -> npt.NDArray[np.bool_]:
    check_k(hits.found.shape[1], k)
    return hits.found[:, :k]


def check_k(num_places: int, k: int) -> None:
    """Refuses with ValueError a k below 1 or beyond the places that the lists have."""
    if not 1 <= k <= num_places:
        raise ValueError(f"k is {k} and the lists have {num_places} places; retrieve at least k, k at least 1")


def share_of(
    part: npt.NDArray[np.int64 | np.float64], whole: npt.NDArray[np.int64 | np.float64]
) -> npt.NDArray[np.float64]:
    """Part / whole of each user; nan where the whole is 0."""
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
