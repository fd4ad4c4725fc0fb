"""How do the lists of several retrievers become one?

B users, R retrievers, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.ranking import Rows, Scores, best_of_each


def reciprocal_rank_fusion(
    lists: Sequence[Rows], weights: Sequence[float], *, rank_constant: float, k: int
) -> tuple[Rows, Scores]:
    """Adds up what each list says about an item, by rank alone, so that scores need no common scale.

        score_i = sum_r w_r / (rank_constant + rank_r(i)),  rank 1 for the first; a list without i adds nothing

    Args:
        lists: R of [B, k_r] int32 catalogue rows, best first, -1 where empty.
        weights: R, at least 0.
        rank_constant: At least 0; the larger, the less the first places stand out.
        k: Length of the resulting lists.

    Returns:
        Rows [B, k], each item once, and scores [B, k] float32; equal scores are ordered by row.

    Raises:
        ValueError: Lists and weights differ in number, or a weight or the constant is negative.
    Source: Cormack et al., SIGIR 2009, with a weight for each list.
    """
    if len(lists) != len(weights) or not lists:
        raise ValueError(f"{len(lists)} lists and {len(weights)} weights, expected one weight for each of some lists")
    if min(weights) < 0 or rank_constant < 0:
        raise ValueError(f"weights {list(weights)} and rank_constant {rank_constant} must be at least 0")
    num_users = len(lists[0])
    items = np.hstack(lists).astype(np.int64)
    shares = np.concatenate(
        [
            weight / (rank_constant + np.arange(1, rows.shape[1] + 1))
            for rows, weight in zip(lists, weights, strict=True)
        ]
    )
    owners, columns = np.nonzero(items >= 0)
    stride = int(items.max(initial=0)) + 1
    keys, key_of_entry = np.unique(owners * stride + items[owners, columns], return_inverse=True)
    scores = np.bincount(key_of_entry, weights=shares[columns], minlength=len(keys)).astype(np.float64)
    return best_of_each(keys // stride, keys % stride, scores=scores, num_users=num_users, k=k)
