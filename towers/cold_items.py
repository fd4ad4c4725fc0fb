"""Items without events in the item tower: what their content says takes the place of the id.

Whether an item has events is read off its inputs, as they were at the moment of the example. So an item whose events
are left out while training is, to the tower, the same as one that has none when vectors are made.

Shape letters: B rows, F numbers of an item, D vector width.

Source: Volkovs et al. (DropoutNet), NeurIPS 2017, which drops what is known of whole items while training. Departs from
it: an item without events has tables of its content of its own, as what content says is another thing beside counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import NUMERIC_INPUT
from features.kinds import InputSpec
from towers.inputs import Tensors, embedding_tables, feature_vectors, projections
from towers.two_tower import Addition, Bottom

CONTENT_KINDS = ("categorical", "categories", "text", "vector", "cells")
PREFIX = "cold."
"""Before the names of inputs, as tables are called by them; no column has a dot."""
CLOSE = 1e-3
"""A number of events that is nearer to none than that, in standard deviations, is none."""


class HasNoEvents(tf_keras.layers.Layer):  # type: ignore[misc]
    """Whether items have no events: their numbers [B, F] -> [B] bool.

    Args:
        none: What the first number, that of events, is for an item without any.
    """

    def __init__(self, *, none: float, **kwargs: object) -> None:
        """Takes the number."""
        super().__init__(**kwargs)
        self.none = none

    def call(self, numbers: tf.Tensor) -> tf.Tensor:
        """Compares."""
        return numbers[:, 0] < self.none + CLOSE


class RowsOfCold(tf_keras.layers.Layer):  # type: ignore[misc]
    """Replaces the ids of items without events by the row of an unknown id: (rows [B], [B] bool) -> [B] int32.

    Args:
        bucket_of_row: The table row of each known id's bucket, by the id's own row; rows beyond it stay as they are.
            None has row 0 for all.
    """

    def __init__(self, *, bucket_of_row: npt.NDArray[np.int32] | None, **kwargs: object) -> None:
        """Takes the buckets."""
        super().__init__(**kwargs)
        self.bucket_of_row = bucket_of_row

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Replaces."""
        rows, cold = inputs
        if self.bucket_of_row is None:
            return tf.where(cold, tf.zeros_like(rows), rows)
        last = len(self.bucket_of_row) - 1
        bucket = tf.gather(tf.constant(self.bucket_of_row), tf.minimum(rows, last))
        return tf.where(cold & (rows <= last), bucket, rows)


class OfCold(tf_keras.layers.Layer):  # type: ignore[misc]
    """Keeps the vectors of items without events: (vectors [B, D], [B] bool) -> [B, D], zeros for the others."""

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Multiplies."""
        vectors, cold = inputs
        return vectors * tf.cast(cold, vectors.dtype)[:, None]


@dataclass(frozen=True)
class ColdItems:
    """The state of items without events in the item tower.

    Attributes:
        specs: Inputs of the item tower.
        none: What the first of their numbers, that of events, is for an item without any.
        bucket_of_row: The table row of the bucket of each known id, by the id's own row; None has row 0 for all.
    """

    specs: Sequence[InputSpec]
    none: float
    bucket_of_row: npt.NDArray[np.int32] | None = None

    def are(self, tensors: Tensors, name: str) -> tf.Tensor:
        """Which of the items of some inputs have no events: [B] bool; the name is that of the layer."""
        return HasNoEvents(none=self.none, name=f"{PREFIX}{name}")(tensors[NUMERIC_INPUT["item"]])

    def pass_ids(self, tensors: Tensors) -> Callable[[tf.Tensor], tf.Tensor]:
        """What ids pass before they are looked up: rows [B] -> rows [B], those of unknown ids for such items."""
        cold, layer = self.are(tensors, "ids"), RowsOfCold(bucket_of_row=self.bucket_of_row, name=f"{PREFIX}rows")
        return lambda rows: layer((rows, cold))

    def content(self, bottom: Bottom) -> Addition:
        """The part of the item tower that reads the content of such items from tables of their own."""
        specs = [replace(spec, name=PREFIX + spec.name) for spec in self.specs if spec.kind in CONTENT_KINDS]
        tensors = {**bottom.tensors, **{PREFIX + name: tensor for name, tensor in bottom.tensors.items()}}
        tables = {**embedding_tables(specs, width=bottom.width), **projections(specs, width=bottom.width)}
        vectors = feature_vectors(specs, tensors, width=bottom.width, tables=tables)
        cold = self.are(bottom.tensors, "content")
        return Addition([OfCold(name=f"{PREFIX}{number}")((vector, cold)) for number, vector in enumerate(vectors)])
