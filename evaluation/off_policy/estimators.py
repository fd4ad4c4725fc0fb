"""Off-policy estimators: what another policy would have earned on the contexts that were logged, from propensities.

A row is a context (a user's), what was shown there, and what it earned. Whether the other policy would have shown the
same is known as a probability, so that rows it would have made more often count for more:

    w_i = target probability_i / propensity_i

Lists are evaluated place by place: a row is a shown (user, item, place), its propensity that of the item being in the
user's list, and its target probability that of the item being in the other policy's list (`target_in_list`). That
holds where an item earns the same in whatever list and place it is shown. The estimate is then a mean over places.

What showing an item earns is predicted, for doubly robust estimates, by means over other users (`CrossFitted`).

Shape letters: n rows, U users, K places of a list, N items of the catalogue, F folds of users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.report import Estimate
from evaluation.statistics import ratio_interval

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NUM_ROWS = 5
"""Rows that a message names."""


@dataclass(frozen=True)
class LoggedFeedback:
    """What was shown and what it earned, and what another policy would have shown.

    Attributes:
        users: [n] int64, row of the user; what is resampled together.
        rewards: [n] float64, finite.
        propensities: [n] float64 in (0, 1], with which the logging policy took what was shown.
        target_probabilities: [n] float64 in [0, 1], with which the evaluated policy would take it.
        predicted: [n] float64, what a model that has not seen the row expects of what was shown; None without a model.
        predicted_target: [n] float64, what it expects in the same context under the evaluated policy.

    Raises:
        ValueError: There is no row, lengths differ, a value lies outside its range, or one prediction lacks the other.
    """

    users: Ints
    rewards: Floats
    propensities: Floats
    target_probabilities: Floats
    predicted: Floats | None = None
    predicted_target: Floats | None = None

    def __post_init__(self) -> None:
        """Checks what every estimate relies on."""
        shapes = {name: values.shape for name, values in vars(self).items() if values is not None}
        if len(set(shapes.values())) > 1 or self.users.ndim != 1 or not len(self.users):
            raise ValueError(f"shapes are {shapes}, expected one and the same, [n] with n of at least 1")
        if (self.predicted is None) != (self.predicted_target is None):
            raise ValueError("one of predicted and predicted_target is None; give both, from one model, or neither")
        _check("users", self.users, self.users >= 0, "rows from 0 on")
        _check("rewards", self.rewards, np.isfinite(self.rewards), "finite numbers")
        _check("propensities", self.propensities, (self.propensities > 0) & (self.propensities <= 1), "above 0 up to 1")
        target = self.target_probabilities
        _check("target_probabilities", target, (target >= 0) & (target <= 1), "0 to 1")
        for name in ("predicted", "predicted_target"):
            values = getattr(self, name)
            if values is not None:
                _check(name, values, np.isfinite(values), "finite numbers")


def ips(
    feedback: LoggedFeedback, *, num_samples: int, seed: int, level: float = 0.95, max_weight: float | None = None
) -> Estimate:
    """Inverse propensity score: rewards weighted by how much more often the policy would have been there.

        V = 1/n sum_i w_i r_i

    Without bias where the logging policy shows with a propensity above 0 whatever the other would.

    Args:
        feedback: What was logged.
        num_samples: Resamples of the users, each with all its rows.
        seed: Same seed and users, same resamples.
        level: Share of the resampled estimates inside the interval.
        max_weight: Larger weights are cut to it, which trades variance for bias towards 0; None leaves them.

    Returns:
        The estimate and its interval.

    Raises:
        ValueError: `max_weight` is not above 0, or as `evaluation.statistics.ratio_interval`.

    Source: Horvitz and Thompson, JASA 1952.
    """
    weights, share = _weights(feedback, max_weight)
    ones = np.ones(len(weights))
    return _estimate(feedback, weights, share, weights * feedback.rewards, ones, (num_samples, seed, level))


def snips(
    feedback: LoggedFeedback, *, num_samples: int, seed: int, level: float = 0.95, max_weight: float | None = None
) -> Estimate:
    """Self-normalised inverse propensity score: the mean reward, weighted.

        V = sum_i w_i r_i / sum_i w_i

    Weights whose sum is not n by chance, or by propensities that are wrong by a factor, do no harm; the bias falls as
    1 / n. It never leaves the range of the rewards.

    Args:
        feedback: As for `ips`.
        num_samples: As for `ips`.
        seed: As for `ips`.
        level: As for `ips`.
        max_weight: As for `ips`.

    Returns:
        The estimate and its interval.

    Raises:
        ValueError: As `ips`.

    Source: Swaminathan and Joachims, The Self-Normalized Estimator for Counterfactual Learning, NeurIPS 2015.
    """
    weights, share = _weights(feedback, max_weight)
    return _estimate(feedback, weights, share, weights * feedback.rewards, weights, (num_samples, seed, level))


def doubly_robust(
    feedback: LoggedFeedback, *, num_samples: int, seed: int, level: float = 0.95, max_weight: float | None = None
) -> Estimate:
    """A model's expectation, corrected by what it has missed on the rows.

        V = 1/n sum_i ( q_i(target) + w_i (r_i - q_i) )

    Without bias where either propensities or the model are right; the better the model, the less variance.

    Args:
        feedback: As for `ips`, with predictions.
        num_samples: As for `ips`.
        seed: As for `ips`.
        level: As for `ips`.
        max_weight: As for `ips`, but the bias is towards the model.

    Returns:
        The estimate and its interval.

    Raises:
        ValueError: There are no predictions, or as `ips`.

    Source: Dudík, Langford and Li, Doubly Robust Policy Evaluation and Learning, ICML 2011.
    """
    if feedback.predicted is None or feedback.predicted_target is None:
        raise ValueError("the feedback has no predictions; give predicted and predicted_target, or take snips")
    weights, share = _weights(feedback, max_weight)
    gains = feedback.predicted_target + weights * (feedback.rewards - feedback.predicted)
    return _estimate(feedback, weights, share, gains, np.ones(len(weights)), (num_samples, seed, level))


def target_in_list(ranked: npt.NDArray[np.integer], users: Ints, items: Ints) -> Floats:
    """Whether a policy without chance would show an item to a user, wherever in its list.

    Args:
        ranked: [U, K] integer, its lists; -1 means no further item.
        users: [n] int64, rows of lists.
        items: [n] int64, rows of items, from 0 on.

    Returns:
        [n] float64, 1 or 0.

    Raises:
        ValueError: A user has no list, or an item is below 0.
    """
    _check("users", users, (users >= 0) & (users < len(ranked)), f"0 to {len(ranked) - 1}, rows of the lists")
    _check("items", items, items >= 0, "rows from 0 on")
    owners, places = np.nonzero(ranked >= 0)
    width = int(max(ranked.max(initial=0), items.max(initial=0))) + 1
    listed = owners * width + ranked[owners, places].astype(np.int64)
    return np.isin(users * width + items, listed).astype(np.float64)


def _weights(feedback: LoggedFeedback, max_weight: float | None) -> tuple[Floats, float]:
    """Weights [n], and the share that was cut."""
    weights: Floats = feedback.target_probabilities / feedback.propensities
    if max_weight is None:
        return weights, 0.0
    if not max_weight > 0:
        raise ValueError(f"max_weight is {max_weight}, expected above 0, or None to cut nothing")
    return np.minimum(weights, max_weight), float((weights > max_weight).mean())


def _estimate(
    feedback: LoggedFeedback,
    weights: Floats,
    share_clipped: float,
    numerators: Floats,
    denominators: Floats,
    drawn: tuple[int, int, float],
) -> Estimate:
    """The ratio of two sums over rows, with users resampled."""
    _, owners = np.unique(feedback.users, return_inverse=True)
    above, below = (np.bincount(owners, weights=values).astype(np.float64) for values in (numerators, denominators))
    num_samples, seed, level = drawn
    found = ratio_interval(above, below, num_samples=num_samples, seed=seed, level=level)
    squares = float(weights @ weights)
    effective = float(weights.sum()) ** 2 / squares if squares else 0.0
    return Estimate(found.mean, found.low, found.high, effective, share_clipped, len(weights))


def _check(name: str, values: npt.NDArray[np.generic], are_right: npt.NDArray[np.bool_], expected: str) -> None:
    wrong = np.flatnonzero(~are_right)
    if len(wrong):
        first = ", ".join(f"{values[row]:g} in row {row}" for row in wrong[:NUM_ROWS])
        raise ValueError(f"{len(wrong)} of {len(values)} {name} are not as expected, {expected}: {first}")


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
