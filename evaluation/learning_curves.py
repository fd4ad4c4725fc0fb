"""Learning curves of the fit behind a bundle: what its training step noted of each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from artefacts.files import json_value
from artefacts.paths import EPOCHS, RunPaths


@dataclass(frozen=True)
class Curve:
    """A figure by epoch, from the first on.

    Attributes:
        phase: The fit: `validation` or `final`.
        values: Of each epoch.
        kept: The epoch, from 1, whose weights the fit kept.
    """

    phase: str
    values: tuple[float, ...]
    kept: int


Epochs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Fit -> of each epoch `epoch`, `loss`, `metrics` and `is_kept`."""


def read_epochs(paths: RunPaths) -> Epochs:
    """Those of the day's fit; none where its folder is gone."""
    path = paths.model / EPOCHS
    return json_value(path.read_text()) if path.exists() else {}


def curves_of(epochs: Epochs, figure: str) -> list[Curve]:
    """The curves of a figure.

    Args:
        epochs: Of the fits.
        figure: `loss`, or one of the metrics.

    Returns:
        One of each fit that has the figure.
    """
    found = []
    for phase, reports in epochs.items():
        values = [report["loss"] if figure == "loss" else report["metrics"].get(figure) for report in reports]
        if values and None not in values:
            kept = next(number for number, report in enumerate(reports, start=1) if report["is_kept"])
            found.append(Curve(phase, tuple(values), kept))
    return found
