"""Choice of what the sparse list counts in the hybrid one, on days before the cut.

B users who are compared, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluation import metrics
from evaluation.validation_days import Window
from serving.config import RankingConfig
from serving.retrieval import retrievers, vector_search
from serving.retrieval.eligible import EligibleItems
from serving.served import AUTO, DEFAULT, HYBRID, SEGMENTS, SPARSE
from serving.sparse.hybrid import Hybrid, merge
from serving.sparse.retriever import Sparse

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
LEAST_USERS = 20
"""Users with a short or a long past below which the weights of all are taken."""
Measure = Callable[[metrics.Hits], npt.NDArray[np.float64]]


def plain_lists(window: Window) -> dict[str, retrievers.Retriever]:
    """The retrievers over a window that make no use of others, by name; `sparse` only where it has a sparse index."""
    found: dict[str, retrievers.Retriever] = {
        "repeat": retrievers.Repeat(),
        "two_tower": vector_search.TwoTowerRetriever(window.ranked, None, ef=0, max_fetch=0),
        "popularity": retrievers.Popularity(window.popularity),
    }
    if window.sparse is not None:
        found[SPARSE] = Sparse(window.sparse)
    return found


def searched(window: Window, ranking: RankingConfig, weights: Mapping[str, float]) -> dict[str, retrievers.Retriever]:
    """What can be compared over a window, by name; `sparse` and `hybrid` only where it has a sparse index.

    Args:
        window: What is searched.
        ranking: How lists are made.
        weights: Of the hybrid list.
    """
    found = plain_lists(window)
    if window.num_events is not None and SPARSE in found:
        found[HYBRID] = Hybrid(
            found["two_tower"],
            found[SPARSE],
            weights,
            cold=window.num_events < ranking.cold_events,
            short_past=ranking.short_past,
            depth=ranking.fusion_depth,
        )
    return found


def hybrid_weights(
    window: Window,
    measure: Measure,
    ranking: RankingConfig,
    *,
    exclude_known: bool,
    before: Mapping[str, float] = DEFAULT.hybrid_weights,
) -> dict[str, float]:
    """The weight of each segment that finds most, or the one that is configured.

    That for items with many events is chosen by what lists find in all. New items are too rare in that: the weight for
    items with few events, which only orders them among themselves, is chosen by lists of some items with events that
    are described as if they had none. Users with a short and with a long past choose apart.

    Args:
        window: B users; with a sparse index.
        measure: The metric, from hits.
        ranking: How lists are made.
        exclude_known: Whether known items are kept out.
        before: Has the weights for items with few events where the window describes no items as new.
    """
    if ranking.hybrid_weight != AUTO:
        return dict.fromkeys(SEGMENTS, float(ranking.hybrid_weight))
    new_items = window.new_items
    weights = dict(before)
    if new_items is not None and window.num_events is not None:
        offered = new_items.are if window.users.offered is None else new_items.are & window.users.offered
        users = replace(window.users, exclude_known=True, eligible=EligibleItems(offered))
        as_new = replace(
            window,
            users=users,
            ranked=new_items.ranked,
            relevant=new_items.relevant,
            num_events=np.where(new_items.are, np.float32(-np.inf), window.num_events),
        )
        weights = _best(as_new, measure, ranking, weights, cold=True)
    users = replace(window.users, exclude_known=exclude_known)
    return _best(replace(window, users=users), measure, ranking, weights, cold=False)


def _best(
    window: Window, measure: Measure, ranking: RankingConfig, weights: dict[str, float], *, cold: bool
) -> dict[str, float]:
    """Weights, with those for items with few events, or with many, replaced by the ones that find most."""
    has_relevant = np.flatnonzero(np.diff(window.relevant.indptr))
    users, relevant = window.users.of(has_relevant), window.relevant[has_relevant]
    if cold and len(has_relevant) < LEAST_USERS:
        return weights
    own = searched(window, ranking, weights)[HYBRID]
    assert isinstance(own, Hybrid)
    dense, sparse = (part.retrieve(users, own.depth) for part in own.parts.values())
    has_short_past = users.purchases.num_per_user < ranking.short_past
    values = []
    for weight in WEIGHTS:
        tried = replace(own, weights=_replaced(weights, (weight, weight), cold=cold))
        rows, _ = merge(dense, sparse, weights=tried.item_weights(has_short_past), k=own.depth)
        values.append(measure(metrics.find_hits(rows, relevant)))
    best = []
    for in_segment in (has_short_past, ~has_short_past):
        counted = in_segment if in_segment.sum() >= LEAST_USERS else np.ones(len(in_segment), np.bool_)
        best.append(WEIGHTS[int(np.stack(values)[:, counted].mean(axis=1).argmax())])
    return _replaced(weights, best, cold=cold)


def _replaced(weights: Mapping[str, float], of_past: Sequence[float], *, cold: bool) -> dict[str, float]:
    """Weights with those for items with few events, or with many, for users with a short and with a long past."""
    return {**weights, **dict(zip(SEGMENTS[int(cold) :: 2], of_past, strict=True))}
