"""Ablation files: a configuration, and for each arm what is different about it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from artefacts.config import ConfigError, Section
from evaluation.baselines import BASELINES
from evaluation.report import ORACLE
from twinspire.config import Config
from twinspire.load_config import explain, load, read_mapping

ARM_EPOCHS = 2
"""Passes of an arm for which the configuration does not name any."""
FIXED = ("name", "as_of", "seed", "ingest", "evaluation")
"""What all arms share, so that they are compared on the same users."""

Lists = Literal[
    "exact",
    "hnsw",
    "cascade",
    "sparse",
    "hybrid",
    "hidden_past",
    "sparse_hidden_past",
    "hybrid_hidden_past",
    "sparcode",
    "all_scores",
    "unquantised",
    "two_tower_and_sparcode",
]
AMONG_HIDDEN: Mapping[Lists, Lists] = {
    "hidden_past": "exact",
    "sparse_hidden_past": "sparse",
    "hybrid_hidden_past": "hybrid",
}
"""Ways that search the items of `ingest.hidden_past` alone, and how they search."""
WITH_SPARSE: frozenset[Lists] = frozenset({"sparse", "hybrid", "sparse_hidden_past", "hybrid_hidden_past"})
"""Ways that need the sparse index."""
WITH_INDEX: frozenset[Lists] = frozenset({"hnsw", *WITH_SPARSE})
"""Ways that need what the step `index` makes."""
WITH_TABLES: frozenset[Lists] = frozenset({"sparcode", "all_scores", "unquantised", "two_tower_and_sparcode"})
"""Ways that need SparCode's tables."""


class ArmSettings(Section):
    """One arm: what is different from the configuration."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted key of the configuration -> its value in this arm."""
    needs: str | None = None
    """Arm whose lists this one's hard negatives are mined from; listed before this one."""
    against: str | None = None
    """Arm that this one is compared with; null means the reference."""
    lists: Lists = "exact"
    """Where lists come from: exact search over the vectors, HNSW with the narrowest beam that finds .98 of them, a
    cascade over them, the sparse index, both merged, these or exact search over the items of `ingest.hidden_past`
    alone, SparCode's tables, all scores of its codes, all scores without codes, or the vectors and the tables fused."""
    note: str = ""
    """What is different, in words, for the table."""


class AblationSettings(Section):
    """An ablation file."""

    config: Path
    """The YAML file of a dataset."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted key of the configuration -> its value in all arms."""
    cuts: tuple[dt.date, ...] = Field(min_length=1)
    """Days taken for `as_of`, in time order; each arm is evaluated on the days after each."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Each arm is fitted once with each."""
    validation_days: int = Field(0, ge=0)
    """Days before each cut on which a fit chooses its epochs and what its factors count, in twice the time; 0 chooses
    nothing."""
    reference: str
    """Arm that the others are compared with."""
    baselines: tuple[str, ...] | None = None
    """Baselines that are compared too, by name (`ease`, `als`, ..., on a world `oracle`); null takes all."""
    costs: bool = False
    """Whether the size, build time and query time of what each arm searches are measured too."""
    arms: dict[str, ArmSettings] = Field(min_length=1)
    """Name in the table -> arm, in the order of the rows."""

    @model_validator(mode="after")
    def _fit_together(self) -> AblationSettings:
        """Refuses unknown names, and cuts or seeds given twice."""
        if list(self.cuts) != sorted(set(self.cuts)):
            raise ValueError(f"cuts are {', '.join(map(str, self.cuts))}; give each once, in time order")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give each once")
        if self.reference not in self.arms:
            raise ValueError(f"reference is {self.reference!r}, expected one of the arms: {', '.join(self.arms)}")
        if unknown := set(self.baselines or ()) - {*BASELINES, ORACLE}:
            raise ValueError(f"baselines names {min(unknown)!r}, expected some of: {', '.join((*BASELINES, ORACLE))}")
        folders = {folder_of(name): item.title for item in BASELINES.values() for name in (item.name, item.title)}
        before: list[str] = []
        for name, arm in self.arms.items():
            if "," in name:
                raise ValueError(f"arm {name!r}: a name holds no comma, which divides the names of --only")
            if (taken := folders.setdefault(folder_of(name), name)) != name or not folder_of(name):
                raise ValueError(f"arm {name!r} is too much like {taken!r}: give it letters or digits of its own")
            if arm.against is not None and arm.against not in self.arms:
                raise ValueError(f"arm {name!r}: against is {arm.against!r}, expected one of {', '.join(self.arms)}")
            if arm.needs is not None and arm.needs not in before:
                listed = ", ".join(before) or "(none)"
                raise ValueError(f"arm {name!r}: needs is {arm.needs!r}, expected an arm listed before it: {listed}")
            before.append(name)
        return self


@dataclass(frozen=True)
class Ablation:
    """A validated ablation.

    Attributes:
        settings: The file.
        base: The configuration with the overrides of all arms, at the first cut.
        arms: Name -> resolved configuration at the first cut, with the seed of the features.
    """

    settings: AblationSettings
    base: Config
    arms: dict[str, Config]

    def against(self, arm: str) -> str | None:
        """The arm that one is compared with; None for the reference itself."""
        chosen = self.settings.arms[arm].against or self.settings.reference
        return None if chosen == arm else chosen

    def chosen(self, only: Sequence[str]) -> list[str]:
        """The named arms with those that they need or are compared with, in the order of the file; all for none.

        Raises:
            ConfigError: A name is no arm.
        """
        if unknown := [name for name in only if name not in self.arms]:
            raise ConfigError(f"--only {','.join(only)}: no arm {unknown[0]!r}; the arms are: {', '.join(self.arms)}")
        wanted: set[str] = set()
        waiting = list(only) or list(self.arms)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += [other for other in (self.settings.arms[name].needs, self.against(name)) if other]
        return [name for name in self.arms if name in wanted]


def folder_of(arm: str) -> str:
    """An arm's name as part of a path."""
    return re.sub(r"[^a-z0-9]+", "_", arm.lower()).strip("_")


def load_ablation(path: Path, overrides: Sequence[str]) -> Ablation:
    """Reads an ablation file and resolves the configuration of every arm, before anything is fitted.

    Args:
        path: The YAML file.
        overrides: `key.sub=value` for all arms, as on the command line; they come after those of the file.

    Returns:
        The validated ablation.

    Raises:
        ConfigError: The file, a key, a value, or an override of an arm is not valid; the message names the arm.
    """
    raw = read_mapping(path, expected="a mapping with the keys config, cuts, seeds, reference, arms")
    try:
        settings = AblationSettings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, AblationSettings)}") from None
    shared = [*_as_text(settings.overrides), *overrides, f"as_of={settings.cuts[0]}"]
    base = load(settings.config, shared)
    return Ablation(settings, base, {name: _resolve(path, name, settings, shared) for name in settings.arms})


def _resolve(path: Path, name: str, settings: AblationSettings, shared: Sequence[str]) -> Config:
    arm = settings.arms[name]
    if fixed := [key for key in arm.overrides if key.partition(".")[0] in FIXED]:
        raise ConfigError(
            f"{path}, arm {name!r}: {fixed[0]!r} is the same in all arms, so that they are compared on the same users; "
            "set it under `overrides` of the file"
        )
    try:
        config = load(settings.config, [*shared, *_as_text(arm.overrides)])
    except ConfigError as error:
        raise ConfigError(f"{path}, arm {name!r}: {error}") from None
    if (config.training.negatives.easy_per_hard is None) != (arm.needs is None):
        raise ConfigError(
            f"{path}, arm {name!r}: training.negatives.easy_per_hard is {config.training.negatives.easy_per_hard} and "
            f"needs is {arm.needs!r}; give both, the arm that hard negatives are mined from, or neither"
        )
    if arm.lists in AMONG_HIDDEN and config.ingest.hidden_past is None:
        raise ConfigError(
            f"{path}, arm {name!r}: lists is {arm.lists!r}, and ingest.hidden_past is null; set it under `overrides` "
            f"of the file, such as ingest.hidden_past: {{share: 0.1, before: {settings.cuts[0]}}}"
        )
    if arm.lists in WITH_SPARSE and config.sparse is None:
        raise ConfigError(f"{path}, arm {name!r}: lists is {arm.lists!r}, and sparse is null; set sparse: {{}} too")
    if arm.lists in WITH_TABLES and config.sparcode is None:
        raise ConfigError(f"{path}, arm {name!r}: lists is {arm.lists!r}, and sparcode is null; set sparcode: {{}} too")
    # Arms are compared on the days after the cut. A phase before it doubles the time; without it, no epochs are chosen.
    is_given = "epochs" in config.training.model_fields_set or settings.validation_days
    epochs = config.training.epochs if is_given else ARM_EPOCHS
    fitted = config.training.model_copy(update={"validation_days": settings.validation_days, "epochs": epochs})
    return config.model_copy(update={"training": fitted})


def _as_text(overrides: Mapping[str, Any]) -> Iterator[str]:
    for key, value in overrides.items():
        yield f"{key}={yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)}"
