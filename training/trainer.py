"""How are the towers fitted? A TFRS model, epochs over days in time order, a look at the model after each.

Shape letters: B rows of a batch, C candidates in it, D vector width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from features.encoding import Inputs
from towers.two_tower import TwoTower
from training.dataset import ITEM_PREFIX, LOG_Q, MASK, USER_PREFIX, WEIGHT, Batch
from training.losses import in_batch_softmax, weighted_mean

Floats = npt.NDArray[np.float32]
EpochMetrics = dict[str, float]


class RetrievalModel(tfrs.Model):  # type: ignore[misc]
    """Two towers and the loss between them.

    TFRS's own `Retrieval` task is not used: it clips the sampling probability at 1e-6, which flattens a large
    catalogue, sums over the batch, so that the step grows with it, and cannot mask a user's other positives.

    Args:
        towers: What is fitted.
        temperature: Scores are divided by it before the correction.
    """

    def __init__(self, towers: TwoTower, *, temperature: float) -> None:
        """Takes the towers."""
        super().__init__()
        self.user_tower = towers.user
        self.item_tower = towers.item
        self._temperature = temperature

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Mean loss of a batch as `training.dataset.batches` makes it, weighted by reward: []."""
        users = self.user_tower(_with_prefix(inputs, USER_PREFIX), training=training)
        items = self.item_tower(_with_prefix(inputs, ITEM_PREFIX), training=training)
        scores = tf.matmul(users, items, transpose_b=True) / self._temperature
        losses = in_batch_softmax(scores, inputs[LOG_Q], mask=inputs[MASK])
        return weighted_mean(losses, inputs[WEIGHT])


def make_deterministic(seed: int) -> None:
    """Seeds Python, NumPy and TensorFlow, and asks TensorFlow for the same result on every run."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave.

    Attributes:
        epoch: From 1.
        loss: Mean over the batches, which are of equal size, nats.
        metrics: What `look` returned.
    """

    epoch: int
    loss: float
    metrics: EpochMetrics


def fit(
    model: RetrievalModel,
    epochs: int,
    *,
    batches_of: Callable[[int], Iterator[Batch]],
    learning_rate: float,
    folder: Path,
    look: Callable[[TwoTower], EpochMetrics],
    on_step: Callable[[float], None] = lambda loss: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    checkpoint_every_epochs: int = 1,
) -> list[EpochReport]:
    """Fits the model with Adagrad, whose updates touch only the rows of the tables that a batch has.

    Args:
        model: What is fitted, in place.
        epochs: Passes.
        batches_of: Batches of an epoch, counted from 0.
        learning_rate: Of Adagrad.
        folder: Gets `checkpoints/` and TensorBoard's `logs/`.
        look: Measures the towers after an epoch.
        on_step: Called with the loss of each batch, for a progress bar.
        on_epoch: Called after each epoch.
        checkpoint_every_epochs: How often the weights and the optimiser's state are saved.

    Returns:
        A report for each epoch.

    Raises:
        FloatingPointError: The loss is not a finite number.
        ValueError: There are no batches.
    """
    optimizer = tf_keras.optimizers.legacy.Adagrad(learning_rate, initial_accumulator_value=0.1)
    model.compile(optimizer=optimizer)
    step = tf.function(model.train_step, reduce_retracing=True)
    checkpoints = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=optimizer), str(folder / "checkpoints"), max_to_keep=2
    )
    writer = tf.summary.create_file_writer(str(folder / "logs"))
    reports = []
    for epoch in range(epochs):
        losses = []
        for batch in batches_of(epoch):
            losses.append(float(step(batch)["loss"]))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"epoch {epoch + 1}, step {len(losses)}: the loss is {losses[-1]}; "
                    "lower training.learning_rate or raise towers.temperature"
                )
            on_step(losses[-1])
        if not losses:
            raise ValueError(
                f"epoch {epoch + 1} has no examples; take more days (training.example_days) or training.examples: all"
            )
        report = EpochReport(epoch + 1, float(np.mean(losses)), look(TwoTower(model.user_tower, model.item_tower)))
        _log(writer, report)
        if (epoch + 1) % checkpoint_every_epochs == 0:
            checkpoints.save(checkpoint_number=epoch + 1)
        reports.append(report)
        on_epoch(report)
    return reports


def embed(tower: tf_keras.Model, inputs: Inputs, *, block: int = 8192) -> Floats:
    """Vectors of encoded rows, in blocks: [n, D] float32."""
    num_rows = len(next(iter(inputs.values())))
    call = tf.function(tower, reduce_retracing=True)
    parts = [
        call({name: values[begin : begin + block] for name, values in inputs.items()}).numpy()
        for begin in range(0, num_rows, block)
    ]
    return np.concatenate(parts)


def _with_prefix(inputs: dict[str, tf.Tensor], prefix: str) -> dict[str, tf.Tensor]:
    return {name.removeprefix(prefix): values for name, values in inputs.items() if name.startswith(prefix)}


def _log(writer: tf.summary.SummaryWriter, report: EpochReport) -> None:
    with writer.as_default(step=report.epoch):
        tf.summary.scalar("loss", report.loss)
        for name, value in report.metrics.items():
            tf.summary.scalar(name, value)
    writer.flush()
