"""Paths of the artefacts of a run."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

# In the folder of a model, while somebody is being cut out of it.
CUTTING = "cutting.json"
# There too: what each epoch of the fit gave.
EPOCHS = "epochs.json"
# In the folder of a version of the online features, once it is whole.
FILLED = "filled.txt"


@dataclass(frozen=True)
class RunPaths:
    """Folders of one dataset's runs.

    Attributes:
        root: `runs/<dataset>`.
        as_of: Everything before this day is known.
        arm: Name of one of several fits on the same features, each in a folder of its own; None for the only one.
    """

    root: Path
    as_of: dt.date
    arm: str | None = None

    @property
    def of_fit(self) -> Path:
        """What depends on a fit lies below it; tables and features are shared by all fits."""
        return self.root if self.arm is None else self.root / "arms" / self.arm

    @property
    def tables(self) -> Path:
        """Canonical events, users and items."""
        return self.root / "tables"

    @property
    def features(self) -> Path:
        """Snapshots, feature store and examples."""
        return self.root / "features"

    @property
    def snapshots(self) -> Path:
        """Snapshot files of users and items, and the pairs that have met."""
        return self.features / "snapshots"

    @property
    def pairs(self) -> Path:
        """Pairs of users and items that met before `as_of`."""
        return self.pairs_at(self.as_of)

    def pairs_at(self, moment: dt.date) -> Path:
        """Pairs of users and items that met before a day."""
        return self.snapshots / "pairs" / f"{moment}.parquet"

    @property
    def states(self) -> Path:
        """What snapshots of later midnights start from, a folder for each of the last midnights."""
        return self.snapshots / "state"

    def state(self, moment: dt.date) -> Path:
        """Totals of users and items at the start of a day."""
        return self.states / str(moment)

    @property
    def snapshots_record(self) -> Path:
        """Which snapshots are there, and of what."""
        return self.snapshots / "state.json"

    @property
    def examples(self) -> Path:
        """One partition of joined examples per event day."""
        return self.features / "examples"

    def catalogue(self, moment: dt.date) -> Path:
        """Features of every user and item at the start of a day."""
        return self.features / "catalogue" / str(moment)

    @property
    def model(self) -> Path:
        """Encoder, exported towers, state for warm starts and TensorBoard logs."""
        return self.of_fit / "models" / str(self.as_of)

    @property
    def unfinished_fit(self) -> Path:
        """Checkpoints and logs of the day's fit, as long as it is not finished."""
        return self.model.with_name(f".{self.as_of}.fit")

    @property
    def vectors(self) -> Path:
        """Vectors of every user and item at `as_of`."""
        return self.of_fit / "vectors" / str(self.as_of)

    @property
    def index(self) -> Path:
        """HNSW graph and its report."""
        return self.of_fit / "index" / str(self.as_of)

    @property
    def sparse(self) -> Path:
        """The index over the terms of items; missing where none is configured."""
        return self.index / "sparse"

    @property
    def second_look(self) -> Path:
        """The second look, and the lists that it was fitted on."""
        return self.of_fit / "second_look" / str(self.as_of)

    @property
    def codes(self) -> Path:
        """SparCode's tokens, codes, posting lists and their report."""
        return self.of_fit / "codes" / str(self.as_of)

    @property
    def mined(self) -> Path:
        """Hard negatives mined with the vectors and the index of an earlier fit."""
        return self.of_fit / "mined" / str(self.as_of)

    @property
    def teachers(self) -> Path:
        """Lists of teachers, a folder for each way of making them and a file for each day they count from.

        All fits share them.
        """
        return self.root / "teachers"

    @property
    def forgotten(self) -> Path:
        """Users to be forgotten (GDPR erasure), as salted hashes; missing if there are none."""
        return self.root / "forgotten.json"

    @property
    def denied_items(self) -> Path:
        """Items that are never answered with, an id a line; missing where there are none."""
        return self.root / "denied_items.txt"

    @property
    def added_items(self) -> Path:
        """Items that servers offer before a night has read them; missing where there are none."""
        return self.root / "added_items.parquet"

    @property
    def exposures(self) -> Path:
        """Lists that users got from servers, by day; missing where none are logged."""
        return self.root / "exposures"

    @property
    def bundles(self) -> Path:
        """Published bundles."""
        return self.root / "bundles"

    @property
    def bundle_name(self) -> Path:
        """The version of the bundle made of the day's fit, as text."""
        return self.of_fit / "steps" / str(self.as_of) / "bundle.txt"

    @property
    def night(self) -> Path:
        """How the latest nightly run of the day went."""
        return self.root / "nights" / f"{self.as_of}.json"

    @property
    def gates(self) -> Path:
        """What the checks before publishing found."""
        return self.of_fit / "gates" / f"{self.as_of}.json"

    @property
    def report(self) -> Path:
        """Evaluation report."""
        return self.of_fit / "reports" / str(self.as_of)

    @property
    def tune(self) -> Path:
        """Trials of settings at `as_of`, and their report."""
        return self.root / "tune" / str(self.as_of)

    @property
    def steps(self) -> Path:
        """Records of the day's finished steps, and the resolved configuration of its latest run."""
        return self.of_fit / "steps" / str(self.as_of)

    @property
    def shared_steps(self) -> Path:
        """Records of finished steps whose outputs all days share."""
        return self.root / "steps"

    @property
    def online(self) -> Path:
        """Versions of the online features, which bundles name."""
        return self.features / "online"

    @property
    def features_version(self) -> Path:
        """The version of the online features of the day, as text; all fits of the day share it."""
        return self.root / "steps" / str(self.as_of) / "features.txt"

    def are_online(self, version: str) -> bool:
        """Whether a version of the online features was filled to its end."""
        return (self.online / version / FILLED).exists()
