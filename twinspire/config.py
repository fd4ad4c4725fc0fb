"""The whole configuration of a dataset, assembled from the sections of the stations and validated once."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import NoReturn

from pydantic import Field, field_validator, model_validator

from artefacts.config import Section
from beam_jobs.config import BeamConfig, IndexConfig, SparCodeTablesConfig
from evaluation.config import EvaluationConfig, GatesConfig
from features.config import FeatureConfig, IngestConfig
from features.schema import Schema
from serving.config import BundlesConfig, ServingConfig, SparseConfig
from serving.registry import check_retriever_names
from serving.served import AUTO, HYBRID, SPARSE
from training.config import DailyConfig, SparCodeFitConfig, TowerConfig, TrainingConfig
from training.method_checks import check_methods


class SparCodeConfig(SparCodeTablesConfig, SparCodeFitConfig):
    """SparCode, the second retriever: codes of users, scored against all items beforehand."""


class Config(Section):
    """The whole configuration of a dataset."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the dataset: its folder under `runs/` and its Feast project."""
    as_of: dt.date
    """Everything before this day (00:00 UTC) is known; nothing from it on is. Left out, it leaves the last
    evaluation.window_days days of the events for evaluation, where enough are left to fit."""
    seed: int = 20170101
    """Same seed, data and configuration give the same artefacts."""
    dataset: Schema = Schema()
    """Columns and how they enter the towers."""
    ingest: IngestConfig
    """From raw files to canonical tables."""
    features: FeatureConfig = FeatureConfig()
    """Daily snapshots, Feast stores and point-in-time examples."""
    towers: TowerConfig = TowerConfig()
    """Shape of the two towers."""
    training: TrainingConfig = TrainingConfig()
    """How the towers are fitted."""
    sparcode: SparCodeConfig | None = None
    """SparCode, the second retriever; null leaves it out."""
    sparse: SparseConfig | None = None
    """The sparse index over the terms of items, which the retrievers `sparse` and `hybrid` search; null leaves it
    out."""
    daily: DailyConfig = DailyConfig()
    """The nightly run."""
    index: IndexConfig = IndexConfig()
    """The HNSW index over the item vectors."""
    serving: ServingConfig = ServingConfig()
    """The server."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Recall on the days after the cut."""
    gates: GatesConfig = GatesConfig()
    """What a night's bundle must pass before it is published."""
    bundles: BundlesConfig = BundlesConfig()
    """Which bundles stay after the daily run."""
    beam: BeamConfig = BeamConfig()
    """Where Beam jobs run."""

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> object:
        """Refuses moments and numbers, which would otherwise be cut down to some day."""
        if type(value) is dt.date:
            return value
        try:
            return dt.date.fromisoformat(value) if isinstance(value, str) else _refuse_day()
        except ValueError:
            return _refuse_day()

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        """Refuses values that are fine alone and cannot work together."""
        fitted, joined = self.training.example_days, self.features.example_days
        if fitted > joined:
            raise ValueError(
                f"training.example_days is {fitted}, more than features.example_days, {joined}: there would be no "
                "examples of the earliest days; lower the one or raise the other"
            )
        if self.training.validation_days >= fitted:
            raise ValueError(
                f"training.validation_days is {self.training.validation_days}, expected less than "
                f"training.example_days, {fitted}: nothing would be left to fit before the days held out"
            )
        check_methods(self.towers, self.training, self.dataset)
        if self.training.positions >= max(self.features.history_length, 1):
            raise ValueError(
                f"training.positions is {self.training.positions}, expected less than features.history_length, "
                f"{self.features.history_length}: each position needs a place to read; lower the one or raise the other"
            )
        if self.sparcode is not None and self.training.distribute != "none":
            raise ValueError(
                f"training.distribute is {self.training.distribute}, and sparcode is fitted by one process alone; set "
                "sparcode: null, or training.distribute: none"
            )
        check_retriever_names(self.serving)
        if self.index.form is not None:
            _check_form(self.index.form)
        weights = self.serving.fusion_weights
        named = {self.serving.retriever, *(() if weights == AUTO else weights)}
        if self.sparcode is None and "sparcode" in named:
            raise ValueError("serving names the retriever sparcode, and sparcode is null; set sparcode: {} to fit it")
        _check_sparse(self, named)
        if self.sparcode is not None and self.towers.factor_dim:
            parts, codes = self.sparcode.parts, self.sparcode.codes
            if (codes + 1) ** (2 * parts) >= 2**63:
                raise ValueError(
                    f"sparcode.parts is {parts} and sparcode.codes {codes}, and towers.factor_dim adds as many parts "
                    f"and a code for none: {codes + 1}^{2 * parts} codes have no 63-bit number; lower one of them"
                )
        depth, longest = self.serving.fusion_depth, max(self.evaluation.ks)
        if depth < longest:
            raise ValueError(
                f"serving.fusion_depth is {depth}, expected at least the longest of evaluation.ks, {longest}: the list "
                "that is evaluated would not be the list that is served"
            )
        return self

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 over the resolved configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def _check_sparse(config: Config, named: set[str]) -> None:
    """Refuses what needs a sparse index where there is none, and fields that are not there."""
    if config.sparse is not None:
        from serving.sparse.fields import fields_of

        fields_of(config.dataset, config.sparse.fields)
        return
    for name in (SPARSE, HYBRID):
        if name in named:
            raise ValueError(f"serving names the retriever {name}, and sparse is null; set sparse: {{}} to build it")
    if config.serving.cold_share:
        raise ValueError(
            f"serving.cold_share is {config.serving.cold_share:g}, and sparse is null; set sparse: {{}} to build what "
            "fills these places"
        )


def _check_form(form: str) -> None:
    # Not at the top: the backends of indexes take seconds to import.
    from serving.retrieval.index import INDEXES

    if form not in INDEXES:
        raise ValueError(f"index.form is {form!r}, expected one of: {', '.join(INDEXES)}")


def _refuse_day() -> NoReturn:
    raise ValueError("expected a day such as 2017-12-01, without a time: everything before its 00:00 UTC is known")
