"""A trial of `twinspire tune`: a fit of the days before the validation days, which is measured on these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from artefacts.paths import RunPaths
from training.checkpoints import Checkpoints, NoDraws
from training.config import TrainSections
from training.data.training_data import days_with_examples, fit_encoder_on
from training.epochs import EpochReport
from training.phase import validation_phase
from training.steps import fit_and_evaluate


def fit_trial(
    sections: TrainSections, paths: RunPaths, *, unfinished: Path, on_epoch: Callable[[int, float], None]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Fits the towers as the training step does to choose the number of epochs.

    Args:
        sections: What the training step reads of the configuration; SparCode is left out.
        paths: Where tables and features are; nothing is written there.
        unfinished: Gets checkpoints and logs; a trial that was killed resumes from those that are there.
        on_epoch: Called with the number of each epoch, from 1, and its validation recall, also of those before an
            interruption. What it raises ends the trial.

    Returns:
        Recall of the best epoch, and [V] float64 of each user with something to find on the validation days.

    Raises:
        FloatingPointError: The loss is not a finite number.
        ValueError: There is nothing to measure by.
    """
    training, k = sections.training, max(sections.ks)
    metric = f"recall_at_{k}"
    # The last of its fits is what would be served.
    title = "validation hard" if training.hard_model_weight is not None else "validation"

    def report(name: str, epoch: EpochReport) -> None:
        if name == title:
            on_epoch(epoch.epoch, epoch.metrics[metric])

    # Numbers of layers, and memory, begin again.
    tf_keras.backend.clear_session()
    days = days_with_examples(paths, num_days=training.example_days, num_events=sections.example_events)
    encoder = fit_encoder_on(
        paths, days, dataset=sections.dataset, towers=sections.towers, history_length=sections.history_length
    )
    phase = validation_phase(encoder, paths, days, num_days=training.validation_days)
    if phase is None or phase.relevant is None or not phase.relevant.nnz:
        raise ValueError(
            f"no user met a new item on the {training.validation_days} days before {paths.as_of}, or no day before "
            "them is left to fit: there is nothing to measure trials by. Raise training.validation_days or "
            "training.example_days"
        )
    for epoch in _earlier_epochs(unfinished / title.replace(" ", "-")):
        report(title, epoch)
    with TemporaryDirectory() as folder:
        fitted, _, _, evaluation = fit_and_evaluate(
            sections, paths, encoder, phase, Path(folder), unfinished=unfinished, report=report
        )
    by_user = evaluation.recall_by_user(fitted.towers, k)
    return fitted.reports[fitted.best - 1].metrics[metric], by_user[~np.isnan(by_user)]


def _earlier_epochs(folder: Path) -> list[EpochReport]:
    """Epochs of an interrupted fit, which it does not report again."""
    return Checkpoints(folder, tf.train.Checkpoint(), draws=NoDraws(), every_minutes=0).position().reports
