"""Pairs of worlds: one in which a method must help, one in which it cannot, and what the method does in each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from artefacts.config import ConfigError, Section
from artefacts.files import replace_text
from artefacts.steps import digest_of
from evaluation.report import ArmFigures, Comparison, Report
from evaluation.statistics import Interval
from evaluation.worlds.config import WorldConfig
from twinspire.ablation import ablate
from twinspire.ablation_config import Lists, load_ablation
from twinspire.load_config import explain, read_mapping, resolve
from twinspire.time_split import make_world
from twinspire.trained_arm import Invocation

FOLDER = Path(__file__).parent / "pairs"
SIDES = ("must help", "cannot help")
Changes = Mapping[str, Any]
"""Dotted key -> value."""


class PairSettings(Section):
    """A method and its two worlds."""

    mechanism: str
    """What of a world the method lives on."""
    method: str
    """What is switched on and off."""
    figure: str = "recall@100"
    """What decides: a metric, or `PARTITION: GROUP` for recall@100 in a group of users or items."""
    world: dict[str, Any] = Field(default_factory=dict)
    """Keys of both worlds."""
    must_help: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the world in which the method must help."""
    cannot_help: dict[str, Any]
    """Further keys of the world in which it cannot: the mechanism is at zero."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of the configuration, with the method and without."""
    without: dict[str, Any] = Field(default_factory=dict)
    """Further keys without the method."""
    with_method: dict[str, Any] = Field(default_factory=dict)
    """Further keys with it."""
    lists: Lists = "exact"
    """Where lists come from without the method."""
    lists_on: Lists | None = None
    """Where they come from with it; null: from the same."""
    validation_days: int = Field(0, ge=0)
    """Days before the cut on which fits choose what the method leaves to validation."""
    num_seeds: int = Field(1, ge=1)
    """Fits of either arm; more than one where fits differ by as much as the method does."""
    mined: bool = False
    """Whether the method mines its negatives from the lists without it."""
    most_harm: float = Field(0.02, ge=0)
    """Largest loss that counts as none where the method cannot help, as a share of the figure without it."""
    note: str = ""
    """What the page has to say about it."""
    is_tested: bool = True
    """Whether its small size is a test; not where the method is known not to help or to harm, which `note` explains."""
    small_world: dict[str, Any] = Field(default_factory=dict)
    """Keys of both worlds in the test."""
    small_config: dict[str, Any] = Field(default_factory=dict)
    """Keys of the configuration in the test."""


@dataclass(frozen=True)
class Pair:
    """A pair with its name.

    Attributes:
        name: Of its file.
        settings: What the file holds.
        small: Whether it has the size of a test.
    """

    name: str
    settings: PairSettings
    small: bool = False

    def world(self, side: str, *, users: int | None = None) -> dict[str, Any]:
        """Dotted keys of one of the two worlds."""
        own = self.settings.must_help if side == SIDES[0] else self.settings.cannot_help
        if self.small:
            return {**WORLD, **SMALL_WORLD, **self.settings.world, **own, **self.settings.small_world}
        return {**WORLD, **self.settings.world, **own, **({} if users is None else {"users": users})}

    def ablation(self, config: Path, cut: object, *, num_seeds: int | None = None) -> dict[str, Any]:
        """The file with which `twinspire ablate` compares the method with its absence."""
        settings, off, on = self.settings, f"{self.name} off", f"{self.name} on"
        overrides = {**CONFIG, **settings.config, **(settings.small_config if self.small else {})}
        return {
            "config": str(config),
            "overrides": overrides,
            "cuts": [cut],
            "seeds": list(range(1, (num_seeds or settings.num_seeds) + 1)),
            "validation_days": settings.validation_days,
            "reference": off,
            "baselines": ["oracle"],
            "arms": {
                off: {"overrides": settings.without, "lists": settings.lists},
                on: {
                    "overrides": settings.with_method,
                    "lists": settings.lists_on or settings.lists,
                    "needs": off if settings.mined else None,
                },
            },
        }


WORLD: Changes = {"users": 10_000, "days": 30, "items": 2_000, "catalogue.categories": 40, "visits.per_user_day": 0.1}
"""Of every world, unless a pair has other keys."""
SMALL_WORLD: Changes = {
    "users": 1_200,
    "days": 28,
    "items": 500,
    "catalogue.categories": 12,
    "visits.per_user_day": 0.25,
}
"""Of every world in a test, unless a pair has other keys."""
CONFIG: Changes = {
    "evaluation.ks": [10, 50, 100],
    "features.history_length": 50,
    # Learned towers alone.
    "towers.factor_dim": 0,
    "towers.embedding_dim": 32,
    "training.epochs": 4,
    "dataset.item_columns": {"category": "categorical", "brand": "categorical", "variant": "categorical"},
}
"""Of every fit, unless a pair has other keys."""


@dataclass(frozen=True)
class Outcome:
    """What a method does in a world.

    Attributes:
        pair: The pair.
        side: One of `SIDES`.
        num_users: With something relevant.
        off: Figure without the method.
        on: Figure with it.
        difference: Paired by user, on less off.
        oracle: The most that there is to find by this figure.
        seconds: Mean wall clock of the fits without and with it.
    """

    pair: Pair
    side: str
    num_users: int
    off: Interval
    on: Interval
    difference: Interval
    oracle: float
    seconds: tuple[float, float]

    @property
    def helps(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.difference.low > 0

    @property
    def harms(self) -> bool:
        """Whether more than what counts as none may be lost."""
        return self.difference.low < -self.pair.settings.most_harm * self.off.mean


def load_pairs(*, small: bool = False, folder: Path = FOLDER) -> dict[str, Pair]:
    """All pairs by name.

    Args:
        small: Whether in the size of a test.
        folder: Of their files.

    Raises:
        ConfigError: A file is not valid.
    """
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        raw = read_mapping(path, expected="a pair of worlds")
        try:
            found[path.stem] = Pair(path.stem, PairSettings.model_validate(raw), small)
        except ValidationError as error:
            raise ConfigError(f"{path}: {explain(error, PairSettings)}") from None
    return found


def measure(
    pair: Pair, side: str, runs: Path, run: Invocation, *, users: int | None = None, num_seeds: int | None = None
) -> Outcome:
    """Makes a world, fits the method on and off, as far as that is not done, and compares the two.

    Args:
        pair: What is measured.
        side: In which of its worlds.
        runs: Folder of worlds and fits.
        run: Moment and version.
        users: Of the world; None for those of the pair.
        num_seeds: Fits of either arm; None for those of the pair.

    Raises:
        ValueError: A fit fails.
    """
    keys = pair.world(side, users=users)
    # Pairs with equal worlds share one, with its tables and features.
    name = f"pair_{digest_of(keys)[:8]}"
    overrides = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    world = resolve(WorldConfig, {"name": name}, overrides, source=f"{pair.name}, {side}")
    config = make_world(Path(f"{name}.yaml"), world.model_dump(mode="json"), runs, run)
    cut = read_mapping(config, expected="a configuration")["as_of"]
    file = runs / "pairs" / f"{pair.name}_{side.replace(' ', '_')}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, yaml.safe_dump(pair.ablation(config, cut, num_seeds=num_seeds), sort_keys=False))
    report = ablate(load_ablation(file, ()), runs, only=(), num_seeds=None, run=run)
    if report.failed:
        raise ValueError(f"{pair.name}, {side}: {report.failed}")
    return _outcome(pair, side, report)


def _outcome(pair: Pair, side: str, report: Report) -> Outcome:
    oracle, off, on = report.arms
    compared = next(one for one in report.comparisons if one.name == on.name)
    figure = pair.settings.figure
    return Outcome(
        pair,
        side,
        _figure(off, figure).num_users,
        _figure(off, figure),
        _figure(on, figure),
        _figure(compared, figure).interval,
        _figure(oracle, figure).mean,
        (off.training_seconds, on.training_seconds),
    )


def _figure(of: ArmFigures | Comparison, figure: str) -> Any:
    partition, is_slice, group = figure.partition(": ")
    return of.slices[partition][group] if is_slice else of.metrics[figure]
