"""."""

from __future__ import annotations

from typing import Literal

from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import Field

from artefacts.config import Section


def beam_options(config: BeamConfig) -> PipelineOptions:
    """Pipeline options from the configuration."""
    return PipelineOptions([f"--runner={config.runner}", *config.options])


class IndexConfig(Section):
    """The HNSW index over the item vectors."""

    m: int = Field(16, ge=2)
    """Links per node."""
    ef_construction: int = Field(200, ge=1)
    """Beam width while building."""
    ef_search: int = Field(400, ge=1)
    """Beam width while searching; raised to k where a list is longer."""
    num_queries: int = Field(1000, ge=1)
    """Users whose lists are compared with exact search, at most."""
    weight: Literal["none", "value", "margin"] = "none"
    """Business weight w of an item: its mean value, or an item column `margin`; ranks by cosine times w^power."""
    weight_power: float = Field(0.5, ge=0, le=1)
    """Exponent that tempers the weights (kappa)."""
    min_recall: float = Field(0.95, gt=0, le=1)
    """Recall against exact search, with the weights on, below which the index is refused."""


class BeamConfig(Section):
    """Where Beam jobs run."""

    runner: str = "FnApiRunner"
    """Any Beam runner; FnApiRunner runs in this process and needs no download."""
    options: tuple[str, ...] = ()
    """Further pipeline options, as on Beam's command line."""
    shards: int = Field(4, ge=1)
    """Parts that users and items are cut into; one part is one unit of work."""
