"""What retrieves over the sparse index of a finished fit, alone and merged with its vectors."""

from __future__ import annotations

import numpy as np

from artefacts.console import console
from artefacts.paths import RunPaths
from evaluation import choice, hybrid_choice, validation_days
from features import encoding
from serving.retrieval import retrievers
from serving.served import settled
from serving.sparse.hybrid import Hybrid
from serving.sparse.index import SparseIndex
from serving.sparse.retriever import Sparse
from twinspire.config import Config


def sparse_of(paths: RunPaths) -> Sparse:
    """The retriever over the sparse index alone."""
    ids = encoding.Encoder.load(paths.model / "encoder").item_ids
    return Sparse(SparseIndex.load(paths.sparse, ids.ids(np.arange(1, len(ids)))))


def hybrid_of(config: Config, paths: RunPaths, dense: retrievers.Retriever) -> Hybrid:
    """Both merged, by weights that are chosen as those of a bundle: on the days held out, if there are any.

    Args:
        config: Of the arm.
        paths: Where its vectors and its sparse index lie.
        dense: The retriever over the vectors.
    """
    serving = config.serving
    found = settled(serving).hybrid_weights
    window = validation_days.held_out_window(paths, seed=config.seed)
    if window is not None:
        measure = choice.measure_of(serving, max(config.evaluation.ks))
        found = hybrid_choice.hybrid_weights(window, measure, serving, exclude_known=True)
    console().print("  hybrid: " + ", ".join(f"{segment} {weight:g}" for segment, weight in found.items()))
    encoder = encoding.Encoder.load(paths.model / "encoder")
    num_events = validation_days.statistic_of_items(paths, paths.as_of, encoder, "item_num_events")
    return Hybrid(
        dense,
        sparse_of(paths),
        found,
        cold=num_events < serving.cold_events,
        short_past=serving.short_past,
        depth=serving.fusion_depth,
    )
