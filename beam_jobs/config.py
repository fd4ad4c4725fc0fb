"""Configuration of the Beam jobs: where they run, the index, SparCode's tables, and what their steps read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ByteSize, Field, model_validator

from artefacts.config import Section, read
from artefacts.secrets import check_none_in_clear, resolved
from features.schema import Schema
from serving.config import SparCodeRecallConfig, SparseConfig

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


class IndexConfig(Section):
    """The index over the item vectors: an HNSW graph, or exact search where that finds too little and is cheap."""

    m: int = Field(16, ge=2)
    """Links per node of the graph; doubled where no beam finds enough."""
    ef_construction: int = Field(200, ge=1)
    """Beam width while building."""
    ef_search: int | None = Field(None, ge=1)
    """Beam width while searching, raised to k where a list is longer; null takes the narrowest that finds
    `target_recall`, which is measured when the index is built."""
    target_recall: float = Field(0.98, gt=0, le=1)
    """Recall against exact search, with the weights on, that the beam is chosen for."""
    num_queries: int = Field(1000, ge=1)
    """Users whose lists are compared with exact search, at most."""
    weight: Literal["none", "value", "margin"] = "none"
    """Business weight w of an item: its mean value, or an item column `margin`; ranks by cosine times w^power."""
    weight_power: float = Field(0.5, ge=0, le=1)
    """Exponent that tempers the weights (kappa)."""
    min_recall: float = Field(0.95, gt=0, le=1)
    """Recall against exact search, with the weights on, below which the index is refused."""
    form: str | None = None
    """Backend of the index, a name in `INDEXES` of `serving/retrieval/index.py`; null takes the form of the HNSW graph
    that suits the spread of the business weights, the other one where it finds too little, and exact search where both
    do and the catalogue is small enough."""


class BeamConfig(Section):
    """Where Beam jobs run."""

    runner: str = "FnApiRunner"
    """Any Beam runner; FnApiRunner runs in this process and needs no download."""
    options: tuple[str, ...] = ()
    """Further pipeline options, as on Beam's command line; a secret is named, as `${NAME}`."""
    shards: int = Field(4, ge=1)
    """Parts that users and items are cut into; one part is one unit of work."""

    @model_validator(mode="after")
    def _names_secrets(self) -> BeamConfig:
        """Refuses secrets in clear."""
        check_none_in_clear(self.options, key="options")
        return self

    def pipeline_options(self) -> PipelineOptions:
        """The same for Beam."""
        # A second to import, which the command line should not pay at its start.
        from apache_beam.options.pipeline_options import PipelineOptions

        return PipelineOptions([f"--runner={self.runner}", *resolved(self.options)])


class SparCodeTablesConfig(SparCodeRecallConfig):
    """How SparCode's tables are cut: posting lists of the codes in use."""

    posting_cap: int = Field(1000, ge=1)
    """Most items stored for a code."""
    controlled_bias: float | None = None
    """What is added to scores before they are cut at 0; null takes the learned bias, or what a target asks for."""
    target_size_bytes: ByteSize | None = Field(None, ge=1)
    """Take the highest bias whose posting lists are no larger; a number, or such as 50MB."""
    curve_points: int = Field(8, ge=2)
    """Biases that are tried for the curve of size against recall."""
    num_queries: int = Field(500, ge=1)
    """Users whose lists are compared with all scores, at most."""

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> SparCodeTablesConfig:
        """Refuses two answers to one question."""
        given = [
            name
            for name in ("controlled_bias", "target_size_bytes", "target_recall")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each choose the bias of the tables; set one of them")
        return self


@dataclass(frozen=True)
class MineSections:
    """What the step `mine` reads of the configuration."""

    seed: int = read("seed")
    mined_band: tuple[int, int] = read("training.negatives.mined_band")
    mined_per_user: int = read("training.negatives.mined_per_user")
    near_duplicate: float = read("training.negatives.near_duplicate")
    ef_search: int | None = read("index.ef_search")
    max_fetch: int = read("serving.max_fetch")


@dataclass(frozen=True)
class EmbedSections:
    """What the step `embed` reads of the configuration: nothing; the exported towers hold all of it."""


@dataclass(frozen=True)
class IndexSections:
    """What the step `index` reads of the configuration."""

    seed: int = read("seed")
    index: IndexConfig = read("index")
    sparse: SparseConfig | None = read("sparse")
    dataset: Schema = read("dataset")
    ks: tuple[int, ...] = read("evaluation.ks")


@dataclass(frozen=True)
class CodesSections:
    """What the step `codes` reads of the configuration."""

    seed: int = read("seed")
    sparcode: SparCodeTablesConfig | None = read("sparcode")
    ks: tuple[int, ...] = read("evaluation.ks")
