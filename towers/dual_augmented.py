"""Augmented vectors (DAT): what an id learns from the other tower's output.

The vector is read at the bottom of its own tower, so that the towers meet before their last layer, and stays
precomputable. An id that was never a positive has no such vector: it reads a fallback, which the ids that are
dropped while training read too.

Shape letters: B rows, D vector width, N rows of an id table, G groups of them.

Source: Yu et al. (DAT), DLP-KDD 2021, section 3.1. Departs from it: the fallback.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from towers.inputs import Tensors
from towers.lookups import seeded_generator
from towers.two_tower import Addition, Bottom, Part, TwoTower

AUGMENTED = "augmented"


class AugmentedTable(tf_keras.layers.Layer):  # type: ignore[misc]
    """An augmented vector for each id, and what is read in its place where it is cold or dropped.

    Args:
        num_rows: N.
        width: Of the vectors; the mimic loss asks for that of the other tower's output, D.
        trained: [n <= N] bool, ids that are a positive in what is fitted; the rest is cold.
        groups: [n <= N] int32, from 0 to G - 1: a cold id reads the mean of the trained vectors of its group, or of all
            where the group has none. None lets it read zero.
        dropout: Share of the vectors that are replaced by their fallback while training.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        width: int,
        trained: npt.NDArray[np.bool_],
        groups: npt.NDArray[np.int32] | None,
        dropout: float,
        **kwargs: object,
    ) -> None:
        """Takes what is known of the ids."""
        super().__init__(**kwargs)
        for name, rows in (("trained", trained), ("groups", groups)):
            if rows is not None and len(rows) > num_rows:
                raise ValueError(f"{name} has {len(rows)} rows, expected at most the {num_rows} rows of the id table")
        self.dropout = dropout
        self._random = seeded_generator() if dropout > 0 else None
        self._trained = np.zeros(num_rows, bool)
        self._trained[: len(trained)] = trained
        self._groups = np.zeros(num_rows, np.int32)
        self._has_groups = groups is not None
        if groups is not None:
            self._groups[: len(groups)] = groups
        self.table = self.add_weight(f"{self.name}/table", (num_rows, width), initializer="zeros")
        shape = (int(self._groups.max(initial=0)) + 1, width)
        self.fallback = self.add_weight(f"{self.name}/fallback", shape, initializer="zeros", trainable=False)

    def call(
        self, inputs: tf.Tensor | tuple[tf.Tensor, tf.Tensor], training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Looks ids up.

        Args:
            inputs: Rows [B] int32; with [B] bool, which of them are cold although they may have been trained.
            training: Whether some are dropped.

        Returns:
            The vectors [B, D] that learn to mimic, and those [B, D] that the tower reads.
        """
        rows, cold = inputs if isinstance(inputs, tuple | list) else (inputs, None)
        vectors = tf.nn.embedding_lookup(self.table, rows)
        warm = tf.gather(tf.constant(self._trained), rows)
        if cold is not None:
            warm &= ~cold
        if training and self._random is not None:
            warm &= self._random.uniform(tf.shape(rows)) >= self.dropout
        fallback = tf.gather(self.fallback, tf.gather(tf.constant(self._groups), rows))
        return vectors, tf.where(warm[:, None], vectors, fallback)

    def refresh(self) -> None:
        """Sets the fallbacks to the means of the vectors as they are now."""
        if not self._has_groups or not self._trained.any():
            return
        vectors, groups = self.table.numpy()[self._trained], self._groups[self._trained]
        totals = np.zeros(self.fallback.shape, np.float64)
        np.add.at(totals, groups, vectors)
        counts = np.bincount(groups, minlength=len(totals))[:, None]
        self.fallback.assign(np.where(counts > 0, totals / np.maximum(counts, 1), vectors.mean(axis=0)))


def augmented(table: AugmentedTable, *, id_name: str, are_cold: Callable[[Tensors], tf.Tensor] | None = None) -> Part:
    """The part of a tower that reads its id's augmented vector.

    Args:
        table: The vectors.
        id_name: Input that holds the id.
        are_cold: From the tower's inputs to [B] bool, who reads the fallback although trained; None has nobody do so.

    Returns:
        A part that adds the vector through a linear layer, which is the same as concatenating it to the features in
        front of one, and gives `augmented` [B, D], never dropped, to the mimic loss.
    """

    def add(bottom: Bottom) -> Addition:
        rows = bottom.tensors[id_name]
        vectors, read = table(rows if are_cold is None else (rows, are_cold(bottom.tensors)))
        weights = tf_keras.layers.Dense(bottom.width, use_bias=False, name=f"{id_name}_{AUGMENTED}_weights")
        return Addition([weights(read)], {AUGMENTED: vectors})

    return add


def refresh_fallbacks(towers: TwoTower) -> None:
    """Sets what cold ids read to the means of what was learned so far; after each epoch, before towers are used."""
    for model in (towers.user_parts, towers.item_parts):
        for layer in model.submodules:
            if isinstance(layer, AugmentedTable):
                layer.refresh()
