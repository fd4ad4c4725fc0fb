"""Configuration of the evaluation: recall after the cut, and the limits of the gates; null turns a check off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, field_validator

from artefacts.config import Section, read
from features.schema import Schema
from serving.config import RankingConfig, SparCodeRecallConfig

Group = Literal["data", "features", "model", "index", "size", "smoke"]
CHECKS: dict[Group, tuple[str, ...]] = {
    "data": ("volume", "quarantine", "nulls", "new_categories", "numeric_drift", "category_drift"),
    "features": ("examples", "catalogue", "freshness", "parity"),
    "model": ("held_out_recall", "vectors", "collapse", "changed_lists", "cold_items"),
    "index": ("index_recall", "index_items", "sparcode", "sparse"),
    "size": ("bundle_size", "disk_space"),
    "smoke": ("opens", "answers", "exclude_bought"),
}
"""Every check, by what it looks at, in the order in which they run."""
CHECK_NAMES = tuple(name for names in CHECKS.values() for name in names)


class EvaluationConfig(Section):
    """Recall on the days after the cut."""

    window_days: int = Field(7, ge=1)
    """Days after `as_of` that count as relevant."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 50, 100), min_length=1)
    """List lengths."""
    bootstrap_samples: int = Field(1000, ge=100)
    """Resamples behind each interval."""
    world: Path | None = None
    """Folder that `twinspire world` wrote, where the data is such a world: reports then have the oracle."""


class GatesConfig(Section):
    """Limits of the checks; `docs/gates.md` has them all in one table."""

    skip: tuple[str, ...] = ()
    """Names of checks whose verdict does not count, for a night on which an operator decides to publish anyway."""

    min_volume_ratio: float | None = Field(0.65, ge=0, le=1)
    """Events of a new day, as a ratio of what its weekday has had of late, below which too few came."""
    max_volume_ratio: float | None = Field(1.75, ge=1)
    """The same ratio, above which too many came."""
    max_quarantine_share: float | None = Field(0.005, ge=0, le=1)
    """Share of the rows read since the previous night that may be set aside; for all rows there is `ingest`'s limit."""
    max_null_rise: float | None = Field(0.02, ge=0, le=1)
    """By how much the share of nulls in a declared column may have risen since the previous night."""
    max_new_category_share: float | None = Field(0.05, ge=0, le=1)
    """Share of the values of a categorical column that the encoder of the previous night may not know."""
    max_numeric_drift: float | None = Field(0.25, gt=0)
    """Population stability index of a number in the new events against the days before, beyond what chance explains."""
    max_category_drift: float | None = Field(0.25, gt=0)
    """The same of the mix of a categorical column."""
    drift_days: int = Field(28, ge=7)
    """Days before the new ones which drift is measured against."""
    drift_min_users: int = Field(50, ge=1)
    """Users of the new events below which drift is not checked."""

    max_feature_age_days: int | None = Field(0, ge=0)
    """Days by which the newest features may be older than the bundle's day."""
    parity_users: int | None = Field(200, ge=1)
    """Users whose features are compared between the catalogue and the online store."""

    recall_margin: float | None = Field(0.02, ge=0, le=1)
    """Part of the earlier fit's recall, on users held out of both, which the new one may certainly have less."""
    min_held_out_users: int = Field(100, ge=2)
    """Users held out below which the two fits are not compared."""
    norm_tolerance: float | None = Field(0.01, gt=0)
    """How far the length of a user or item vector may be from 1."""
    max_common_share: float | None = Field(0.8, gt=0, le=1)
    """Share of a list that two users may have in common: 0 as in lists drawn evenly, 1 where all are the same."""
    max_mean_cosine: float | None = Field(0.99, gt=0, le=1)
    """Mean cosine of two user vectors, or of two item vectors, from which on they count as one."""
    min_distinct_ratio: float | None = Field(0.5, ge=0, le=1)
    """Distinct items in the lists of a sample of users, as a ratio of the previous night's; fewer fail."""
    max_cold_rank: float | None = Field(None, gt=0, le=1)
    """Rank of a user's best item without events, as a share of the catalogue, median over users; null only reports
    it."""
    sample_users: int = Field(500, ge=2)
    """Users whose lists are looked at."""

    min_size_ratio: float | None = Field(0.5, ge=0, le=1)
    """Bytes of the bundle, as a ratio of the previous night, below which something is missing."""
    max_size_ratio: float | None = Field(2.0, ge=1)
    """The same ratio, above which something is in it twice."""
    max_bundle_bytes: ByteSize | None = Field(None, ge=1)
    """Most bytes of a bundle; a number, or such as 500MB."""
    min_free_bundles: float | None = Field(3.0, ge=0)
    """How many more bundles of this size must fit on the disk."""

    smoke_k: int | None = Field(50, ge=1)
    """Length of the lists that the finished bundle is asked for before it is published."""
    smoke_users: int = Field(8, ge=1)
    """Users who are asked for, besides an unknown one."""

    @field_validator("skip")
    @classmethod
    def _are_checks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in CHECK_NAMES]
        if unknown:
            raise ValueError(f"there is no check {unknown[0]!r}; expected some of: {', '.join(CHECK_NAMES)}")
        return value


@dataclass(frozen=True)
class EvaluateSections:
    """What the step `evaluate` reads of the configuration."""

    name: str = read("name")
    seed: int = read("seed")
    dataset: Schema = read("dataset")
    evaluation: EvaluationConfig = read("evaluation")
    ranking: RankingConfig = read("serving")
    ef_search: int | None = read("index.ef_search")


@dataclass(frozen=True)
class GatesSections:
    """What the step `gates` reads of the configuration."""

    seed: int = read("seed")
    dataset: Schema = read("dataset")
    gates: GatesConfig = read("gates")
    example_days: int = read("features.example_days")
    example_events: int | None = read("features.example_events")
    bootstrap_samples: int = read("evaluation.bootstrap_samples")
    min_recall: float = read("index.min_recall")
    ef_search: int | None = read("index.ef_search")
    sparcode: SparCodeRecallConfig | None = read("sparcode")
    ranking: RankingConfig = read("serving")
