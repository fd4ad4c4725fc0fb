"""The bundle that the gates check, with everything it was made of, and the previous night."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from artefacts.paths import RunPaths
from evaluation.config import GatesConfig, GatesSections
from evaluation.gates.report import Check, GateReport
from features.columns import day_range
from features.encoding import Encoder
from features.tables import event_days
from serving.bundles.manifest import BundleError, Manifest, read_manifest

NO_PARENT = "there is no bundle of a previous night"
NEXT_NIGHT = "nothing now: the next night is compared with this one"
MORE_DAYS = "nothing now: it is made once there are enough days"


@dataclass(frozen=True)
class Candidate:
    """A bundle that was written and is not published yet.

    Attributes:
        sections: What is read of the configuration.
        paths: Of its night.
        version: Its name.
        parent: Name of the bundle of the previous night; None where there is none.
    """

    sections: GatesSections
    paths: RunPaths
    version: str
    parent: str | None

    @property
    def limits(self) -> GatesConfig:
        """The limits of the checks."""
        return self.sections.gates

    @property
    def folder(self) -> Path:
        """Of the bundle."""
        return self.paths.bundles / self.version

    @property
    def before(self) -> RunPaths | None:
        """Paths of the previous night."""
        if self.parent is None:
            return None
        # A version begins with its day.
        return RunPaths(self.paths.root, dt.date.fromisoformat(self.parent[:10]), self.paths.arm)

    @cached_property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return read_manifest(self.folder)

    @cached_property
    def parent_manifest(self) -> Manifest | None:
        """Of the bundle of the previous night; None where it is gone, or of code that wrote another format."""
        if self.parent is None:
            return None
        try:
            return read_manifest(self.paths.bundles / self.parent)
        except BundleError:
            return None

    @cached_property
    def encoder(self) -> Encoder:
        """Of the fit."""
        return Encoder.load(self.paths.model / "encoder")

    @cached_property
    def parent_encoder(self) -> Encoder | None:
        """Of the fit of the previous night; None where it is gone."""
        before = self.before
        if before is None or not (before.model / "encoder").is_dir():
            return None
        return Encoder.load(before.model / "encoder")

    @cached_property
    def parent_report(self) -> GateReport | None:
        """What the checks found the previous night; None where that is not known."""
        before = self.before
        if before is None or not before.gates.exists():
            return None
        try:
            return GateReport.from_json(before.gates.read_text())
        except (ValueError, KeyError, TypeError):
            # Of code that wrote it otherwise: no fault of the bundle.
            return None

    @cached_property
    def event_days(self) -> list[dt.date]:
        """Days with events before the bundle's day."""
        return [day for day in event_days(self.paths.tables) if day < self.paths.as_of]

    @property
    def new_days(self) -> list[dt.date]:
        """Days since the previous night, the last one where there is none; without events, too."""
        before = self.before
        first = self.paths.as_of - dt.timedelta(days=1) if before is None else before.as_of
        return day_range(first, self.paths.as_of)


Look = Callable[[Candidate], Check]
"""Does one check."""
