"""ALS: factors of users and items, fitted to all counts, by the library `implicit`.

U users, N items of the catalogue, n items that anybody bought.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from evaluation.baselines.baseline import Baseline, Fitted, Past, Ranked, RankSome
from evaluation.baselines.tuning import Settings, Tunable, most_used
from evaluation.split import Split
from serving.retrieval.exact import search

_ITERATIONS = 15


def fit_als(
    split: Split,
    *,
    factors: int = 64,
    regularization: float = 10.0,
    alpha: float = 1.0,
    iterations: int = _ITERATIONS,
    seed: int,
) -> RankSome:
    """Fits factors of users and items; ranks the items whose factors have the largest inner products with the user's.

        min over x, y of  sum_ui c_ui (p_ui - <x_u, y_i>)^2 + lambda (||x||^2 + ||y||^2)
        p_ui = 1 if u bought i, else 0;  c_ui = 1 + alpha * number of events

    Args:
        split: Users and their history; all users are fitted, whether they have something relevant or not.
        factors: Width of the factors, at least 1.
        regularization: lambda, above 0.
        alpha: Confidence that an event adds, above 0.
        iterations: Rounds of users and items, at least 1.
        seed: Of the factors at the start; same seed, same lists, on however many cores.

    Returns:
        What ranks the items for some users; -1 throughout for a user without a history. Items that no user bought are
        never listed.

    Raises:
        ValueError: `factors` or `iterations` is below 1, or `regularization` or `alpha` is not above 0.

    Source: Hu, Koren and Volinsky, ICDM 2008, solved as Takács, Pilászy and Tikk, RecSys 2011.
    """
    if min(factors, iterations) < 1 or not (regularization > 0 and alpha > 0):
        raise ValueError(
            f"factors is {factors}, iterations {iterations}, regularization {regularization} and alpha {alpha}; "
            "expected at least 1 for the first two and numbers above 0 for the others"
        )
    columns = np.flatnonzero(np.bincount(split.history.indices, minlength=split.history.shape[1]))
    bought = split.history[:, columns].tocsr()
    if not len(columns):
        return lambda some, k, new_only: (
            np.full((len(some), k), -1, dtype=np.int32),
            np.full((len(some), k), -np.inf, dtype=np.float32),
        )
    users, items = _fit(bought, factors, regularization, alpha, iterations, seed)

    def rank(some: npt.NDArray[np.int64], k: int, new_only: bool) -> Ranked:
        met = sp.csr_array(bought[some])
        found, scores = search(users[some], items, k=k, exclude=met if new_only else None)
        nothing = np.diff(met.indptr) == 0
        found[nothing], scores[nothing] = -1, -np.inf
        return np.append(columns, -1)[found].astype(np.int32), scores

    return rank


def _fit(
    bought: sp.csr_array, factors: int, regularization: float, alpha: float, iterations: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Factors of users [U, factors] and of items [n, factors]."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    confidence = sp.csr_matrix(bought, dtype=np.float32, copy=True)
    confidence.data = 1 + np.float32(alpha) * confidence.data
    # Its own threads solve a row each; those of the matrix products would only get in their way.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=factors, regularization=regularization, iterations=iterations, random_state=seed
        )
        model.fit(confidence, show_progress=False)
    return model.user_factors, model.item_factors


def _prepare(seed: int, split: Split) -> tuple[Callable[[Settings], RankSome], str]:
    """What fits ALS to a history with some settings."""

    def fit(settings: Settings) -> RankSome:
        factors, regularization, alpha = (settings[name] for name in ("factors", "regularization", "alpha"))
        return fit_als(split, factors=int(factors), regularization=regularization, alpha=alpha, seed=seed)

    return fit, most_used(split, split.history.shape[1])[1]


def _seconds(split: Split, settings: Settings) -> float:
    """Of rounds over all pairs and all rows, and of the scores."""
    (num_users, num_items), factors = split.history.shape, settings["factors"]
    a_round = 16 * split.history.nnz * factors + (num_users + num_items) * factors**2
    return float(_ITERATIONS * a_round / 2.5e9 + num_users * num_items * (1 + factors / 64) / 4e8)


def _tuned(past: Past) -> Fitted:
    grid = {
        "alpha": (1.0, 10.0, 40.0, 100.0),
        "regularization": (1.0, 10.0, 100.0, 1000.0),
        "factors": (32.0, 64.0, 128.0, 256.0),
    }
    start = {"alpha": 10.0, "regularization": 10.0, "factors": 64.0}
    return Tunable("ALS", grid, start, lambda split, is_final: _prepare(past.seed, split), _seconds).fit(past)


ALS = Baseline("als", "ALS", "alternating least squares", _tuned)
