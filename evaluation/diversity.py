"""Novelty, diversity and evenness of ranked lists, whatever is relevant.

U users, K places of a list, N items of the catalogue. `coverage_at_k` is among the other metrics.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.metrics import check_k


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
