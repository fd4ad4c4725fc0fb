"""Checkpoints of a fit: one that was killed resumes at the batch after the last checkpoint, with the same result.

    position.json                       which checkpoint counts, and what the epochs before it gave
    epoch-<n>-step-<m>.index, .data-*   variables after n whole epochs and m steps in all: the model, the optimiser, ...
    epoch-<n>-step-<m>.npz              losses of the epoch that had begun, and what its batches were drawn with

Only the checkpoint that counts and that of the best epoch are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from artefacts.files import json_text, replace_text
from training.data.batches import Batch
from training.epochs import EpochReport

Arrays = Mapping[str, npt.NDArray[Any]]
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each array of a batch."""
POSITION, LOSSES = "position.json", "losses"


class Draws(Protocol):
    """What batches are drawn with and changes as they are, such as an estimate of how often items come."""

    def state(self) -> Arrays:
        """What it is now."""
        ...

    def restore(self, state: Arrays) -> None:
        """Makes it what it was."""
        ...


class NoDraws:
    """Of batches that depend on their seed alone."""

    def state(self) -> Arrays:
        """Nothing."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Does nothing."""


@dataclass
class Position:
    """How far a fit is.

    Attributes:
        reports: Of the epochs that have ended.
        losses: Of the steps since.
        num_steps: In all epochs.
        best: Name of the checkpoint of the best epoch so far; None before the first, and where none is kept.
        traced: What the batches were like that TensorFlow has made a graph of the step for, in that order.
        is_finished: Whether the fit has ended.
    """

    reports: list[EpochReport] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    num_steps: int = 0
    best: str | None = None
    traced: list[Shapes] = field(default_factory=list)
    is_finished: bool = False

    @property
    def name(self) -> str:
        """Of the checkpoint that is made now."""
        return f"epoch-{len(self.reports)}-step-{self.num_steps}"

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint that counts."""
        return self.best if self.is_finished and self.best else self.name

    def take(self, loss: float, batch: Batch) -> None:
        """Counts a step."""
        self.losses.append(loss)
        self.num_steps += 1
        shapes = {name: (values.shape, values.dtype.str) for name, values in batch.items()}
        if shapes not in self.traced:
            self.traced.append(shapes)


class Checkpoints:
    """Saves a fit from time to time, and restores it.

    Args:
        folder: Gets the files.
        state: What TensorFlow saves.
        draws: What batches are drawn with.
        every_minutes: Least time between checkpoints within an epoch; after each epoch there is one besides. None saves
            and resumes nothing.
    """

    def __init__(self, folder: Path, state: tf.train.Checkpoint, *, draws: Draws, every_minutes: float | None) -> None:
        """Has saved nothing yet."""
        self._folder, self._state, self._draws, self._every = folder, state, draws, every_minutes
        self._drawn: Arrays = {}
        self._saved_at = time.monotonic()

    def position(self) -> Position:
        """How far the fit was when it was last saved; the beginning where it was not.

        What it was then is restored by `restore`.
        """
        path = self._folder / POSITION
        if self._every is None or not path.exists():
            return Position()
        found = json.loads(path.read_text())
        reports = [EpochReport(one["epoch"], one["loss"], _numbers(one["metrics"])) for one in found["reports"]]
        traced = [{name: (tuple(shape), dtype) for name, (shape, dtype) in one.items()} for one in found["traced"]]
        at = Position(reports, [], found["num_steps"], found["best"], traced, found["is_finished"])
        with np.load(self._folder / f"{at.checkpoint}.npz", allow_pickle=False) as arrays:
            at.losses = arrays[LOSSES].tolist()
        return at

    def restore(self, name: str) -> None:
        """Makes everything what it was at a checkpoint.

        Raises:
            ValueError: The checkpoint is of another model.
        """
        with np.load(self._folder / f"{name}.npz", allow_pickle=False) as arrays:
            self._drawn = {key: values for key, values in arrays.items() if key != LOSSES}
        self._draws.restore(self._drawn)
        try:
            self._state.read(str(self._folder / name)).assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"{self._folder / name}: the checkpoint of an interrupted fit is of another model than is fitted now; "
                "remove its folder, and the fit begins again"
            ) from error

    def begin_epoch(self) -> None:
        """Notes what the batches of an epoch are drawn with: after a restart they are drawn again from the first on."""
        self._drawn = {name: np.array(values) for name, values in self._draws.state().items()}

    def after_step(self, at: Position) -> None:
        """Saves if it is time to."""
        if self._every is not None and time.monotonic() - self._saved_at >= 60 * self._every:
            self._save(at)

    def after_epoch(self, at: Position) -> None:
        """Saves what the next epoch starts from, and the best one."""
        self.begin_epoch()
        if self._every is not None or at.best is not None:
            self._save(at)

    def finish(self, at: Position) -> None:
        """Restores the best epoch; a fit that is started again ends at once."""
        if at.best not in (None, at.name) and not at.is_finished:
            self.restore(at.best)
        at.is_finished = True
        if self._every is not None:
            self._point_to(at)

    def _save(self, at: Position) -> None:
        """Saves a position; whoever is killed meanwhile resumes from the one before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._state.write(str(self._folder / at.name))
            with (self._folder / f"{at.name}.npz").open("wb") as file:
                np.savez(file, allow_pickle=False, **{LOSSES: np.array(at.losses), **self._drawn})
        except BaseException:
            # Where the disk is full, what was half written is part of what fills it.
            self._remove(lambda name: name == at.name)
            raise
        self._point_to(at)
        self._saved_at = time.monotonic()

    def _point_to(self, at: Position) -> None:
        replace_text(self._folder / POSITION, json_text({**asdict(at), LOSSES: None}))
        self._remove(lambda name: name not in (at.checkpoint, at.best))

    def _remove(self, is_unwanted: Callable[[str], bool]) -> None:
        for path in self._folder.glob("epoch-*"):
            if is_unwanted(path.name.partition(".")[0]):
                path.unlink()


def trace(step: Any, traced: list[Shapes]) -> None:
    """Has TensorFlow make the graphs of a step that it had made, in the same order.

    The first graph is for the first batch's shapes alone, the next one for more: each rounds in its own way.
    """
    for shapes in traced:
        step.get_concrete_function({name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()})


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Of JSON, which has no NaN."""
    return {name: np.nan if value is None else value for name, value in metrics.items()}
