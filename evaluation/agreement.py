"""Agreement of the lists of two arms: the items that they share, and how far up they share them.

U users, K and K' places of the two lists.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.metrics import check_k, check_ranked, share_of


def overlap_at_k(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """Share of the first k that two lists have in common, in whatever order.

        |A_k and B_k| / max(|A_k|, |B_k|)

    Args:
        a: [U, K] integer, catalogue rows of one arm; -1 means no further result.
        b: [U, K'] integer of another, for the same users.
        k: Places that count in both.

    Returns:
        [U] float64; 1 where both hold the same items, nan where both lists are empty.

    Raises:
        ValueError: Either has fewer than k places, the two are not of the same users, or a list is malformed.
    """
    _check(a, b)
    check_k(min(a.shape[1], b.shape[1]), k)
    shared, _ = _shared(a[:, :k], b[:, :k])
    longer = np.maximum((a[:, :k] >= 0).sum(axis=1), (b[:, :k] >= 0).sum(axis=1))
    return share_of(np.bincount(shared, minlength=len(a)), longer)


def rank_biased_overlap(
    a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], persistence: float = 0.9
) -> npt.NDArray[np.float64]:
    """Agreement of two rankings, read from the top by somebody who goes on to the next depth with probability p.

        RBO = (1 - p) sum_d p^(d-1) X_d / d    with X_d items in common among the first d of both

    Behind the ends it is extrapolated (RBO_ext): with s places in the shorter list and l in the longer one, the shorter
    one is taken to go on agreeing as it does at s, and both together as they do at l:

        (1-p)/p ( sum_{d=1..l} X_d/d p^d + sum_{d=s+1..l} X_s (d-s)/(s d) p^d ) + ( (X_l - X_s)/l + X_s/s ) p^l

    Args:
        a: [U, K] integer, catalogue rows of one arm, best first; -1 means no further result.
        b: [U, K'] integer of another, for the same users.
        persistence: p, between 0 and 1; the first ten places carry 86% of the weight at .9 (the paper's section 4.1).

    Returns:
        [U] float64: 1 for the same list, 0 where nothing is shared or one of the two is empty, nan where both are.

    Raises:
        ValueError: `persistence` is not between 0 and 1, the two are not of the same users, or a list is malformed.

    Source: Webber, Moffat and Zobel, TOIS 2010, equation 32; for lists of the same length it is their equation 30.
    """
    if not 0 < persistence < 1:
        raise ValueError(f"persistence is {persistence}, expected a probability between 0 and 1")
    _check(a, b)
    lengths = np.stack([(a >= 0).sum(axis=1), (b >= 0).sum(axis=1)])
    shorter, longer = lengths.min(axis=0)[:, None], lengths.max(axis=0)[:, None]
    depths = np.arange(1, max(a.shape[1], b.shape[1]) + 1)
    users, places = _shared(a, b)
    cells = np.bincount(users * len(depths) + places, minlength=len(a) * len(depths))
    # One empty list shares nothing; reading its length as 1 saves a case.
    common, ends = np.cumsum(cells.reshape(len(a), -1), axis=1), np.maximum([shorter, longer], 1)
    at_shorter, at_longer = (np.take_along_axis(common, end - 1, axis=1) for end in ends)
    beyond = np.maximum(depths - shorter, 0) * (at_shorter / ends[0])
    weights = np.where(depths <= longer, persistence**depths, 0.0)
    listed = ((common + beyond) / depths * weights).sum(axis=1) * (1 - persistence) / persistence
    tail = ((at_longer - at_shorter) / ends[1] + at_shorter / ends[0]) * persistence**longer
    return np.where(longer[:, 0] > 0, listed + tail[:, 0], np.nan)


def _shared(
    a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Users [P] of the items that both lists hold, and the place [P] from 0 by which both have named it."""
    both = np.concatenate([a, b], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    both = np.take_along_axis(both, order, axis=1)
    # An item occurs at most twice in the two lists, and the stable order has that of `b` second.
    users, at = np.nonzero((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0))
    return users, np.maximum(order[users, at], order[users, at + 1] - a.shape[1])


def _check(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> None:
    if len(a) != len(b):
        raise ValueError(f"lists of {len(a)} users and of {len(b)}; pair the same users")
    num_items = int(max(a.max(initial=-1), b.max(initial=-1))) + 1
    for ranked in (a, b):
        check_ranked(ranked, (len(b), num_items))
