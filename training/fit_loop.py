"""Fit loop: epochs over days in time order, an evaluation after each, early stopping, checkpoints and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import tensorflow as tf
import tf_keras

from training.checkpoints import Checkpoints, Draws, NoDraws, Position, trace
from training.data.batches import Batch
from training.distribution import TrainStep, graph_of
from training.epochs import EarlyStopping, EpochMetrics, EpochReport

LOGS = "logs"
STEPS_PER_POINT = 10
"""Of TensorBoard's curve of the loss by step."""

Result = TypeVar("Result", covariant=True)


class Fittable(Protocol[Result]):
    """A `tfrs.Model` that `fit` takes."""

    train_step: TrainStep
    compile: Callable[..., None]
    trainable_variables: list[tf.Variable]

    @property
    def fitted(self) -> Result:
        """What is fitted, as it is now."""
        ...

    def begin_epoch(self) -> None:
        """Gets ready for an epoch."""
        ...


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
    on_resume: Callable[[Position], None] = lambda position: None,
    stopping: EarlyStopping | None = None,
    learning_rate_decay: float = 1.0,
    checkpoint_every_minutes: float | None = None,
    saved: Mapping[str, tf.Module] | None = None,
    draws: Draws | None = None,
    graph_of: Callable[[TrainStep], TrainStep] = graph_of,
    of_chief: Callable[[float], float] = lambda value: value,
    cause_of: Callable[[Batch], str | None] = lambda batch: None,
) -> list[EpochReport]:
    """Fits a model; where one that was killed left checkpoints in the folder, it resumes after the last of them.

    Args:
        model: What is fitted, in place.
        epochs: Passes, at most.
        batches_of: Batches of an epoch, counted from 0.
        optimizer: Takes the steps.
        folder: Gets checkpoints and TensorBoard's `logs/`.
        evaluate: Measures what is fitted after an epoch.
        after_steps: Called after the steps of an epoch, before the evaluation: for weights that decay, and fallbacks
            that follow what they replace.
        on_step: Called with the loss of each batch, for a progress bar.
        on_epoch: Called after each epoch.
        on_resume: Called with where the fit resumes, if it does.
        stopping: Ends the fit early, and keeps its best epoch; None keeps the last one.
        learning_rate_decay: What the optimizer's learning rate is multiplied by after each epoch.
        checkpoint_every_minutes: How often the fit is saved within an epoch; None saves nothing to resume from.
        saved: Further state that is saved, by name.
        draws: Likewise of what batches are drawn with; None where that is their seed alone.
        graph_of: Makes a graph of the model's step; that of `training.distribution` is taken by several processes.
        of_chief: Gives all processes what the chief has measured.
        cause_of: What is wrong with the numbers of a batch, asked where a loss is not finite; None where nothing is.

    Returns:
        A report for each epoch, those after the best one included.

    Raises:
        FloatingPointError: The loss is not a finite number.
        ValueError: There are no batches, or the checkpoint is of another model.
    """
    model.compile(optimizer=optimizer)
    first_rate = float(tf_keras.backend.get_value(optimizer.learning_rate))
    step = graph_of(model.train_step)
    state = tf.train.Checkpoint(model=model, optimizer=optimizer, **(saved or {}))
    checkpoints = Checkpoints(folder, state, draws=draws or NoDraws(), every_minutes=checkpoint_every_minutes)
    at = checkpoints.position()
    if at.num_steps:
        # Keras's legacy optimisers have no other way to make what they keep of variables, for it to be restored.
        optimizer._create_all_weights(model.trainable_variables)
        checkpoints.restore(at.checkpoint)
        trace(step, at.traced)
        on_resume(at)
    writer = tf.summary.create_file_writer(str(folder / LOGS))
    while not _has_ended(at, epochs, stopping):
        optimizer.learning_rate = first_rate * learning_rate_decay ** len(at.reports)
        if not at.losses:
            model.begin_epoch()
            checkpoints.begin_epoch()
        _take_steps(step, batches_of(len(at.reports)), at, checkpoints, writer, on_step=on_step, cause_of=cause_of)
        after_steps()
        _end_epoch(at, evaluate(model.fitted), stopping=stopping, of_chief=of_chief)
        checkpoints.after_epoch(at)
        _log(writer, at.reports[-1])
        on_epoch(at.reports[-1])
    checkpoints.finish(at)
    return at.reports


def _has_ended(at: Position, epochs: int, stopping: EarlyStopping | None) -> bool:
    is_stopped = stopping is not None and bool(at.reports) and stopping.ends(at.reports)
    return at.is_finished or is_stopped or len(at.reports) >= epochs


def _take_steps(
    step: TrainStep,
    batches: Iterator[Batch],
    at: Position,
    checkpoints: Checkpoints,
    writer: tf.summary.SummaryWriter,
    *,
    on_step: Callable[[float], None],
    cause_of: Callable[[Batch], str | None],
) -> None:
    """Takes the steps of an epoch that have not been taken yet."""
    previous: Batch | None = None
    for number, batch in enumerate(batches):
        if number >= len(at.losses):
            loss = float(step(batch)["loss"])
            if not np.isfinite(loss):
                # A step of the batch before may have made the weights what they are.
                cause = cause_of(batch) or (previous and cause_of(previous))
                raise FloatingPointError(
                    f"epoch {len(at.reports) + 1}, step {number + 1}: the loss is {loss}; "
                    + (cause or "lower the learning rate, or raise the temperature")
                )
            at.take(loss, batch)
            if at.num_steps % STEPS_PER_POINT == 0:
                with writer.as_default(step=at.num_steps):
                    tf.summary.scalar("loss_by_step", loss)
            on_step(loss)
            checkpoints.after_step(at)
        previous = batch
    if not at.losses:
        raise ValueError(
            f"epoch {len(at.reports) + 1} has no examples; take more days (training.example_days) or "
            "training.examples: all"
        )


def _end_epoch(
    at: Position, metrics: EpochMetrics, *, stopping: EarlyStopping | None, of_chief: Callable[[float], float]
) -> None:
    if stopping is not None:
        metrics = {**metrics, stopping.measure: of_chief(metrics.get(stopping.measure, np.nan))}
    at.reports.append(EpochReport(len(at.reports) + 1, float(np.mean(at.losses)), metrics))
    at.losses = []
    if stopping is not None and stopping.best(at.reports) == len(at.reports):
        at.best = at.name


def _log(writer: tf.summary.SummaryWriter, report: EpochReport) -> None:
    with writer.as_default(step=report.epoch):
        tf.summary.scalar("loss", report.loss)
        for name, value in report.metrics.items():
            tf.summary.scalar(name, value)
    writer.flush()
