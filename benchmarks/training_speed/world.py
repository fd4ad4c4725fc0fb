"""The data of the arms: examples before the held-out days for fitting, and the events of those days for evaluation."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from artefacts.paths import RunPaths
from evaluation.metrics import find_hits, recall_at_k
from features.columns import day_range
from features.encoding import Encoder, Inputs
from serving.retrieval import exact
from training.data.batches import Span
from training.data.training_data import (
    catalogue_inputs,
    first_meetings,
    fit_encoder_on,
    known_positives,
    read_days,
    seen_items,
)
from training.negatives.known_positives import KnownPositives
from twinspire.config import Config

Floats = npt.NDArray[np.float32]
K = 100


@dataclass(frozen=True)
class World:
    """The data that arms are fitted on and evaluated with, as known on the first held-out day.

    Attributes:
        encoder: The dataset's encoder.
        span: All examples, encoded.
        known: What each user had met.
        users, items: Inputs of everybody and everything.
        seen: [users, items] what each user had met.
        relevant: [users, items] what each user met first on the held-out days.
    """

    encoder: Encoder
    span: Span
    known: KnownPositives
    users: Inputs
    items: Inputs
    seen: sparse.csr_array
    relevant: sparse.csr_array

    def recall(self, user_vectors: Floats, item_vectors: Floats) -> float:
        """Mean recall@K of new items by exact search, over users who met any."""
        ranked, _ = exact.search(user_vectors, item_vectors, k=K, exclude=self.seen)
        return float(np.nanmean(recall_at_k(find_hits(ranked, self.relevant), K)))


def load_world(config: Config, paths: RunPaths, *, flags: str) -> World:
    """Reads the output of `twinspire features`; `flags` are the options for the commands that an error names."""
    settings = config.training
    held_out = config.as_of - dt.timedelta(days=settings.validation_days)
    days = [
        day
        for day in day_range(config.as_of - dt.timedelta(days=settings.example_days), held_out)
        if (paths.examples / str(day)).exists()
    ]
    if not days or not paths.pairs.exists():
        raise SystemExit(
            f"{paths.examples}: no examples of the days before {held_out}; "
            f"make them with: twinspire ingest {flags} && twinspire features {flags}"
        )

    encoder = fit_encoder_on(
        paths, days, dataset=config.dataset, towers=config.towers, history_length=config.features.history_length
    )
    known = known_positives(encoder, paths, before=held_out)
    users, items = catalogue_inputs(encoder, paths.catalogue(held_out))
    return World(
        encoder=encoder,
        span=read_days(paths, encoder, training=settings, days=days, before=held_out),
        known=known,
        users=users,
        items=items,
        seen=seen_items(encoder, known),
        relevant=first_meetings(encoder, paths, since=held_out),
    )
