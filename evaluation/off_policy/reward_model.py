"""Reward model for doubly robust estimates: what showing an item earns on average, fitted on other users.

n rows, N items of the catalogue, F folds of users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CrossFitted:
    """What items earn, told for each user by users of other folds.

    Attributes:
        folds: [n] int64, fold of each row's user.
        item_rewards: [F, N] float64, what an item is expected to earn by rows outside the fold.
    """

    folds: Ints
    item_rewards: Floats

    def of(self, items: Ints) -> Floats:
        """What each row's item is expected to earn: [n] float64, of items [n]."""
        found: Floats = self.item_rewards[self.folds, items]
        return found

    def expected(self, probabilities: npt.NDArray[np.floating] | sp.csr_array, contexts: Ints) -> Floats:
        """What a policy is expected to earn in each row's context.

        Args:
            probabilities: [C, N] of each item in each of C contexts, dense or in rows; for lists of K places, 1 / K
                where it is listed.
            contexts: [n] int64, 0 to C - 1, the context of each row.

        Returns:
            [n] float64.
        """
        by_fold: Floats = probabilities @ self.item_rewards.T
        found: Floats = by_fold[contexts, self.folds]
        return found


def cross_fitted_rewards(
    users: Ints,
    items: Ints,
    rewards: Floats,
    *,
    num_items: int,
    num_folds: int,
    seed: int,
    prior_rows: float,
) -> CrossFitted:
    """Mean reward of each item, shrunk to that of all, fitted on the users of all other folds.

        q_f(item) = (sum of rewards of the item outside f + prior_rows * mean outside f) / (rows of it + prior_rows)

    What a row has earned thus never has a part in what is expected of it, nor has any other row of its user.

    Args:
        users: [n] int64, rows of users.
        items: [n] int64, rows of items, 0 to N - 1.
        rewards: [n] float64.
        num_items: N.
        num_folds: F, at least 2 and at most the number of users.
        seed: Draws the fold of each user.
        prior_rows: As many rows of the mean are added to each item's, above 0.

    Returns:
        The model.

    Raises:
        ValueError: Lengths differ, an item is outside the catalogue, or an argument is outside its range.

    Source: Chernozhukov et al., The Econometrics Journal 2018 (cross-fitting).
    """
    if not len(users) == len(items) == len(rewards):
        raise ValueError(f"{len(users)} users, {len(items)} items and {len(rewards)} rewards; give one of each a row")
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"items run from {items.min()} to {items.max()}, expected 0 to {num_items - 1}")
    distinct, owners = np.unique(users, return_inverse=True)
    if not 2 <= num_folds <= len(distinct):
        raise ValueError(f"num_folds is {num_folds}, expected 2 to {len(distinct)}, the number of users")
    if not prior_rows > 0:
        raise ValueError(f"prior_rows is {prior_rows}, expected above 0: an item that was not shown has nothing else")
    folds = (np.random.default_rng(seed).permutation(len(distinct)) % num_folds)[owners]
    cells, shape = folds * num_items + items, (num_folds, num_items)
    sums = np.bincount(cells, weights=rewards, minlength=num_folds * num_items).reshape(shape)
    counts = np.bincount(cells, minlength=num_folds * num_items).reshape(shape)
    sums, counts = sums.sum(axis=0) - sums, counts.sum(axis=0) - counts
    means = sums.sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
    return CrossFitted(folds.astype(np.int64), (sums + prior_rows * means) / (counts + prior_rows))
