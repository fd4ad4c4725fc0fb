"""Choice of what the sparse list counts in the hybrid one, on days before the cut.

B users who are compared, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from evaluation import metrics
from evaluation.validation_days import Window
from serving.config import RankingConfig
from serving.retrieval import retrievers, vector_search
from serving.served import AUTO, HYBRID, SEGMENTS, SPARSE
from serving.sparse.hybrid import Hybrid, merge
from serving.sparse.retriever import Sparse

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
LEAST_USERS = 20
"""Users with a short or a long past below which the weights of all are taken."""
Measure = Callable[[metrics.Hits], npt.NDArray[np.float64]]


def searched(window: Window, ranking: RankingConfig, weights: Mapping[str, float]) -> dict[str, retrievers.Retriever]:
    """What can be compared over a window, by name; `sparse` and `hybrid` only where it has a sparse index.

    Args:
        window: What is searched.
        ranking: How lists are made.
        weights: Of the hybrid list.
    """
    dense = vector_search.TwoTowerRetriever(window.ranked, None, ef=0, max_fetch=0)
    found: dict[str, retrievers.Retriever] = {
        "repeat": retrievers.Repeat(),
        "two_tower": dense,
        "popularity": retrievers.Popularity(window.popularity),
    }
    if window.sparse is not None and window.num_events is not None:
        found[SPARSE] = Sparse(window.sparse)
        found[HYBRID] = Hybrid(
            dense,
            found[SPARSE],
            weights,
            cold=window.num_events < ranking.cold_events,
            short_past=ranking.short_past,
            depth=ranking.fusion_depth,
        )
    return found


def hybrid_weights(
    window: Window, measure: Measure, ranking: RankingConfig, *, exclude_known: bool
) -> dict[str, float]:
    """The weight of each segment that finds most, or the one that is configured.

    Weights for items with many and with few events are chosen together, for users with a short and with a long past
    apart.

    Args:
        window: B users; with a sparse index.
        measure: The metric, from hits.
        ranking: How lists are made.
        exclude_known: Whether known items are kept out.
    """
    if ranking.hybrid_weight != AUTO:
        return dict.fromkeys(SEGMENTS, float(ranking.hybrid_weight))
    users = replace(window.users, exclude_known=exclude_known)
    found = searched(window, ranking, dict.fromkeys(SEGMENTS, 0.0))
    own = found[HYBRID]
    assert isinstance(own, Hybrid)
    dense, sparse = (part.retrieve(users, own.depth) for part in own.parts.values())
    has_short_past = users.purchases.num_per_user < ranking.short_past
    tries = list(product(WEIGHTS, WEIGHTS))
    values = []
    for warm, cold in tries:
        tried = replace(own, weights=_of_segments((warm, cold), (warm, cold)))
        rows, _ = merge(dense, sparse, weights=tried.item_weights(has_short_past), k=own.depth)
        values.append(measure(metrics.find_hits(rows, window.relevant)))
    best = []
    for in_segment in (has_short_past, ~has_short_past):
        counted = in_segment if in_segment.sum() >= LEAST_USERS else np.ones(len(in_segment), np.bool_)
        best.append(tries[int(np.stack(values)[:, counted].mean(axis=1).argmax())])
    return _of_segments(*best)


def _of_segments(short_past: tuple[float, float], long_past: tuple[float, float]) -> dict[str, float]:
    """The weights by segment, from those for items with many and with few events."""
    return dict(zip(SEGMENTS, (*short_past, *long_past), strict=True))
