"""Retrieval model: two towers and the loss between them as a TFRS model, its optimiser, and vectors of its towers.

Shape letters: B rows of a batch, Q columns of the queue, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from features.encoding import Inputs
from towers.interests import INTERESTS
from towers.two_tower import VECTOR, TwoTower
from training.data.batches import ITEM_PREFIX, USER_PREFIX, WEIGHT, Batch
from training.data.positions import TARGET, TARGET_PREFIX
from training.distribution import item_parts, share_of_mean
from training.losses.objective import Outputs, Terms, inputs_with_prefix, picked, total_of

Floats = npt.NDArray[np.float32]


class Queue(Protocol):
    """Vectors of the items of the last batches, oldest first, without gradient."""

    def read(self) -> tf.Tensor:
        """[Q, D] float32."""
        ...

    def push(self, vectors: tf.Tensor) -> None:
        """Adds [B, D] and drops as many."""
        ...

    def clear(self) -> None:
        """Empties it."""
        ...


class RetrievalModel(tfrs.Model):  # type: ignore[misc]
    """Two towers and the loss between them, which is a sum of terms.

    TFRS's own `Retrieval` task is not used: it clips the sampling probability at 1e-6, which flattens a large
    catalogue, sums over the batch, so that the step grows with it, and cannot mask a user's other positives.

    Args:
        towers: What is fitted.
        terms: Weight and term, one or more.
        temperature: Scores are divided by it before the correction.
        learn_temperature: Whether it is fitted too, from there on; its logarithm is, so that it stays positive.
        queue: Keeps items' vectors from batch to batch; None keeps none.

    Raises:
        ValueError: There is no term.
    """

    def __init__(
        self,
        towers: TwoTower,
        *,
        terms: Terms,
        temperature: float,
        learn_temperature: bool,
        queue: Queue | None = None,
    ) -> None:
        """Takes the towers and the terms."""
        super().__init__()
        if not terms:
            raise ValueError("there is no term to minimise; pass at least one")
        self.user_tower, self.user_parts = towers.user, towers.user_parts
        self.item_tower, self.item_parts = towers.item, towers.item_parts
        self.queue = queue
        self._log_temperature = tf.Variable(
            np.log(temperature), trainable=learn_temperature, dtype=tf.float32, name="log_temperature"
        )
        self._fixed_temperature = None if learn_temperature else temperature
        # In a function: Keras would look into a list for weights, and find those of a frozen teacher.
        self._total: Callable[[Outputs], tf.Tensor] = lambda outputs: total_of(terms, outputs)

    @property
    def fitted(self) -> TwoTower:
        """The towers as they are now."""
        return TwoTower(self.user_tower, self.item_tower, self.user_parts, self.item_parts)

    def begin_epoch(self) -> None:
        """Empties the queue."""
        if self.queue is not None:
            self.queue.clear()

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by now."""
        return tf.exp(self._log_temperature) if self._fixed_temperature is None else self._fixed_temperature

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """Sum of the terms for a batch as `training.data.batches.batches` makes it: []; training moves the queue on.

        For a share of a batch (`training.distribution`), what it adds to that sum.
        """
        batch = {name: tf.convert_to_tensor(values) for name, values in inputs.items()}
        users = self.user_parts(inputs_with_prefix(batch, USER_PREFIX), training=training)
        items = item_parts(self.item_parts, inputs_with_prefix(batch, ITEM_PREFIX), batch, training=training)
        if users[VECTOR].shape.rank == 3:
            own = items[VECTOR][: tf.shape(batch[WEIGHT])[0]]
            users = {**users, INTERESTS: users[VECTOR], VECTOR: picked(users[VECTOR], own)}
        queued = None if self.queue is None else tf.stop_gradient(self.queue.read())
        outputs = Outputs(users, items, batch, self.temperature, queued, self._targets(batch, training=training))
        loss = self._total(outputs)
        if training and self.queue is not None:
            self.queue.push(tf.stop_gradient(items[VECTOR][: outputs.num_rows]))
        return share_of_mean(loss)

    def _targets(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor | None:
        if TARGET not in batch:
            return None
        return self.item_parts(inputs_with_prefix(batch, TARGET_PREFIX), training=training)[VECTOR]


def make_deterministic(seed: int) -> None:
    """Seeds Python, NumPy and TensorFlow, and asks TensorFlow for the same result on every run."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def embed(tower: tf_keras.Model, inputs: Inputs, *, block: int = 8192) -> Floats:
    """Vectors of encoded rows, in blocks: [n, D] float32."""
    num_rows = len(next(iter(inputs.values())))
    call = tf.function(tower, reduce_retracing=True)
    parts = [
        call({name: values[begin : begin + block] for name, values in inputs.items()}).numpy()
        for begin in range(0, num_rows, block)
    ]
    return np.concatenate(parts)
