"""What would there be without a model? The baselines, from the past of a fold alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evaluation.als import als
from evaluation.baselines import cosine_neighbours, ease, item_knn, popularity, repeat_purchase
from evaluation.split import Split, recent_item_counts
from serving.retrieval.ranking import Rows
from twinspire.pipeline.evaluate import POPULARITY_DAYS

SOURCES: Mapping[str, str] = {
    "popularity": f"most events in the {POPULARITY_DAYS} days before the cut",
    "repeat": "what the user bought most often",
    "item-knn": "cosine of items",
    "ease": "items by items in closed form",
    "als": "alternating least squares",
}
"""Baseline -> what it is."""


def baseline_lists(
    name: str,
    split: Split,
    events: pa.Table,
    item_ids: npt.NDArray[np.object_],
    *,
    k: int,
    new_only: bool,
    seed: int,
) -> Rows:
    """The lists of a baseline.

    Args:
        name: One of `SOURCES`.
        split: Users and what they did before the cut.
        events: All events; those from the cut on are not looked at.
        item_ids: [N] in the order of the catalogue.
        k: Length of a list.
        new_only: Whether what users have met is left out.
        seed: Of what is drawn.

    Returns:
        [U, k] int32, -1 behind the last one.
    """
    makes: dict[str, Callable[[], Rows]] = {
        "popularity": lambda: popularity(
            split,
            k,
            item_counts=recent_item_counts(events, item_ids, cut=split.cut, days=POPULARITY_DAYS),
            new_only=new_only,
        ),
        "repeat": lambda: repeat_purchase(split, k, new_only=new_only),
        "item-knn": lambda: item_knn(split, k, neighbours=cosine_neighbours(split.history), new_only=new_only),
        "ease": lambda: ease(split, k, new_only=new_only),
        "als": lambda: als(split, k, new_only=new_only, seed=seed),
    }
    return makes[name]()
