"""Trainer: a TFRS model, epochs over days in time order, an evaluation of the model after each.

Shape letters: B rows of a batch, Q columns of the queue, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from features.encoding import Inputs
from towers.two_tower import VECTOR, TwoTower
from training.data.batches import ITEM_PREFIX, USER_PREFIX, Batch
from training.distribution import TrainStep, graph_of, item_parts, share_of_mean
from training.losses.objective import Outputs, Terms, inputs_with_prefix, total_of

Floats = npt.NDArray[np.float32]
EpochMetrics = dict[str, float]


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
        queued = None if self.queue is None else tf.stop_gradient(self.queue.read())
        outputs = Outputs(users, items, batch, self.temperature, queued)
        loss = self._total(outputs)
        if training and self.queue is not None:
            self.queue.push(tf.stop_gradient(items[VECTOR][: outputs.num_rows]))
        return share_of_mean(loss)


Result = TypeVar("Result", covariant=True)


class Fittable(Protocol[Result]):
    """A `tfrs.Model` that `fit` takes."""

    train_step: TrainStep
    compile: Callable[..., None]

    @property
    def fitted(self) -> Result:
        """What is fitted, as it is now."""
        ...

    def begin_epoch(self) -> None:
        """Gets ready for an epoch."""
        ...


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
        metrics: What `evaluate` returned.
    """

    epoch: int
    loss: float
    metrics: EpochMetrics


def fit(
    model: Fittable[Result],
    epochs: int,
    *,
    batches_of: Callable[[int], Iterator[Batch]],
    optimizer: tf_keras.optimizers.Optimizer,
    folder: Path,
    evaluate: Callable[[Result], EpochMetrics],
    after_steps: Callable[[], None] = lambda: None,
    on_step: Callable[[float], None] = lambda loss: None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    checkpoint_every_epochs: int = 1,
    saved: Mapping[str, tf.Module] | None = None,
    graph_of: Callable[[TrainStep], TrainStep] = graph_of,
    cause_of: Callable[[Batch], str | None] = lambda batch: None,
) -> list[EpochReport]:
    """Fits a model.

    Args:
        model: What is fitted, in place.
        epochs: Passes.
        batches_of: Batches of an epoch, counted from 0.
        optimizer: Takes the steps.
        folder: Gets `checkpoints/` and TensorBoard's `logs/`.
        evaluate: Measures what is fitted after an epoch.
        after_steps: Called after the steps of an epoch, before the evaluation: for weights that decay, and fallbacks
            that follow what they replace.
        on_step: Called with the loss of each batch, for a progress bar.
        on_epoch: Called after each epoch.
        checkpoint_every_epochs: How often the weights, the optimiser's state and the queue are saved.
        saved: Further state that is saved with them, by name.
        graph_of: Makes a graph of the model's step; that of `training.distribution` is taken by several processes.
        cause_of: What is wrong with the numbers of a batch, asked where a loss is not finite; None where nothing is.

    Returns:
        A report for each epoch.

    Raises:
        FloatingPointError: The loss is not a finite number.
        ValueError: There are no batches.
    """
    model.compile(optimizer=optimizer)
    step = graph_of(model.train_step)
    state = tf.train.Checkpoint(model=model, optimizer=optimizer, **(saved or {}))
    checkpoints = tf.train.CheckpointManager(state, str(folder / "checkpoints"), max_to_keep=2)
    writer = tf.summary.create_file_writer(str(folder / "logs"))
    reports = []
    for epoch in range(epochs):
        losses = []
        model.begin_epoch()
        previous: Batch | None = None
        for batch in batches_of(epoch):
            losses.append(float(step(batch)["loss"]))
            if not np.isfinite(losses[-1]):
                # A step of the batch before may have made the weights what they are.
                cause = cause_of(batch) or (previous and cause_of(previous))
                raise FloatingPointError(
                    f"epoch {epoch + 1}, step {len(losses)}: the loss is {losses[-1]}; "
                    + (cause or "lower the learning rate, or raise the temperature")
                )
            on_step(losses[-1])
            previous = batch
        if not losses:
            raise ValueError(
                f"epoch {epoch + 1} has no examples; take more days (training.example_days) or training.examples: all"
            )
        after_steps()
        report = EpochReport(epoch + 1, float(np.mean(losses)), evaluate(model.fitted))
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


def _log(writer: tf.summary.SummaryWriter, report: EpochReport) -> None:
    with writer.as_default(step=report.epoch):
        tf.summary.scalar("loss", report.loss)
        for name, value in report.metrics.items():
            tf.summary.scalar(name, value)
    writer.flush()
