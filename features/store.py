"""The Feast feature store: set up, point-in-time joins of examples, filling and reading online features."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa
import yaml

from artefacts.files import json_text, json_value
from features import columns, online_store
from features.schema import ENTITY_KEY, VIEW_NAMES, Schema, Tower, view_schema

if TYPE_CHECKING:
    from feast import FeatureStore

OnlineStore = Literal["sqlite", "redis"]
ONLINE_FILE, SETTINGS_FILE = "online.db", "settings.json"
# What a first read of SQLite and those after it wait for a writer; a server sets its own deadline before.
ONLINE_WAIT_SECONDS = 5.0


class JoinError(ValueError):
    """A point-in-time join broke one of its invariants; the message names rows."""


@dataclass(frozen=True)
class StoreSettings:
    """Settings of a store, saved with it so that the server can open it again.

    Attributes:
        project: Feast project.
        schema: The dataset.
        refresh_days: Days within which every entity of a tower has a snapshot row.
        online_store: Kind of online store.
        redis_connection: Address, used for Redis only; secrets are named in it, as `${NAME}`.
        offline_store: What joins examples, as Feast configures it: its `type`, and what that type needs.
    """

    project: str
    schema: Schema
    refresh_days: dict[Tower, int]
    online_store: OnlineStore
    redis_connection: str
    offline_store: Mapping[str, Any] = field(default_factory=lambda: {"type": "duckdb"})

    def to_json(self) -> str:
        """Text that `from_json` reads back."""
        plain = {**vars(self), "schema": self.schema.model_dump(mode="json")}
        # Not `sort_keys`: columns are fields in the order of their declaration.
        return json_text(dict(sorted(plain.items())), indent=2)

    @classmethod
    def from_json(cls, text: str) -> StoreSettings:
        """Reads what `to_json` wrote."""
        raw = json_value(text)
        return cls(**{**raw, "schema": Schema.model_validate(raw["schema"])})


class Store:
    """The feature store of a run: `<folder>/snapshots`, and `<folder>/feast` or `<folder>/online/<version>`.

    Args:
        folder: The run's `features/` folder.
        settings: What it is made of.
        version: Of the online features, a Feast project of its own; None is the project of the point-in-time joins,
            which has no online store.
    """

    def __init__(self, folder: Path, settings: StoreSettings, version: str | None = None) -> None:
        """Opens the store; nothing but its settings is written yet."""
        self.folder = folder.absolute()
        self.settings, self.version = settings, version
        self.online_wait_seconds = ONLINE_WAIT_SECONDS
        self._repository = repository(self.folder, version)
        self._repository.mkdir(parents=True, exist_ok=True)
        _write_if_changed(
            self._repository / "feature_store.yaml", yaml.safe_dump(self._feast_config(), sort_keys=False)
        )
        _write_if_changed(self._repository / SETTINGS_FILE, settings.to_json())

    @cached_property
    def feast(self) -> FeatureStore:
        """Feast's store; loaded when it is needed, as a reader of SQLite does without."""
        from feast import FeatureStore, RepoConfig

        from artefacts import secrets

        # Feast's own substitution puts secrets into YAML text, which not every character survives.
        config = self._feast_config()
        config["offline_store"] = secrets.resolved(config["offline_store"])
        if config["online_store"] is not None and self.settings.online_store == "redis":
            config["online_store"]["connection_string"] = secrets.resolved_connection(self.settings.redis_connection)
        try:
            of_repository = RepoConfig(**config, repo_path=self._repository)
        except ValueError as error:
            raise ValueError(secrets.redacted(f"{self._repository}: Feast refuses the settings: {error}")) from None
        return FeatureStore(repo_path=str(self._repository), config=of_repository)

    @classmethod
    def open(cls, folder: Path, version: str | None = None) -> Store:
        """Opens a store that exists.

        Raises:
            FileNotFoundError: There is none in the folder.
        """
        path = repository(folder, version) / SETTINGS_FILE
        if not path.exists():
            raise FileNotFoundError(f"{path}: no feature store here; run `twinspire features` first")
        return cls(folder, StoreSettings.from_json(path.read_text()), version)

    @property
    def project(self) -> str:
        """Name of the Feast project, which is part of each online key and table."""
        name = self.settings.project
        return name if self.version is None else f"{name}_{self.version.replace('-', '_')}"

    @property
    def online_file(self) -> Path:
        """Where SQLite has the values."""
        return self._repository / ONLINE_FILE

    def apply(self) -> None:
        """Registers entities, views and services; does nothing where they are registered already."""
        from features.feast_repo.definitions import definitions

        is_online = self.version is not None
        objects: list[Any] = []
        for tower, days in self.settings.refresh_days.items():
            if is_online and tower != "user":
                continue
            snapshots = self.folder / "snapshots" / tower
            made = definitions(self.settings.schema, tower, snapshots=snapshots, refresh_days=days, is_online=is_online)
            objects += [made.entity, made.view, made.service]
        self.feast.apply(objects)
        self.__dict__.pop("_online_users", None)

    def join(self, tower: Tower, keys: pd.DataFrame) -> pa.Table:
        """Features of entities as they were known at given moments.

        Args:
            tower: Which side.
            keys: Entity id and `event_timestamp` (UTC), distinct rows.

        Returns:
            One row per row of `keys`, in their order: id, timestamp, every field of the view; nulls where nothing was
            known.

        Raises:
            JoinError: A key was lost or doubled, or a value is younger than its key.
        """
        from features.schema import SERVICE_NAMES

        # Snapshots are created at their own moment, so that a store which cannot filter by it joins the same.
        can_filter = self.feast._get_provider().offline_store.supports_filter_by_created_timestamp
        try:
            with _without_ibis_deprecations():
                found = self.feast.get_historical_features(
                    entity_df=keys.copy(),
                    features=self.feast.get_feature_service(SERVICE_NAMES[tower]),
                    filter_by_created_timestamp=can_filter,
                ).to_arrow()
        except NotImplementedError as error:
            kind = self.settings.offline_store["type"]
            raise JoinError(
                f"the offline store {kind!r} cannot make this join ({str(error).splitlines()[0]}); set "
                "features.offline_store: {type: duckdb}"
            ) from error
        joined = in_order_of(keys, found, key=ENTITY_KEY[tower])
        check_not_younger(joined, key=ENTITY_KEY[tower], as_of=_as_of_column(tower))
        fields = view_schema(self.settings.schema, tower)
        arrays = [joined.column(field.name).cast(field.type) for field in fields]
        head = [joined.column(ENTITY_KEY[tower]), joined.column(columns.EVENT_TIMESTAMP)]
        return pa.table([*head, *arrays], names=[ENTITY_KEY[tower], columns.EVENT_TIMESTAMP, *fields.names])

    def materialize(self, since: dt.datetime, until: dt.datetime) -> None:
        """Writes the users' latest values between two moments to the online store."""
        with _without_ibis_deprecations():
            self.feast.materialize(since, until, feature_views=[VIEW_NAMES["user"]], disable_event_timestamp=False)

    def read_online(self, user_ids: list[str]) -> pa.Table:
        """What the online store knows of users: one row per id in the order asked, nulls where it knows nothing."""
        return self._online_users(user_ids)

    @cached_property
    def _online_users(self) -> Callable[[list[str]], pa.Table]:
        fields = view_schema(self.settings.schema, "user")
        path, table = self.online_file, f"{self.project}_{VIEW_NAMES['user']}"
        if self.settings.online_store == "sqlite" and online_store.fits(path, table):
            return online_store.SqliteUsers(path, table, fields, wait_seconds=self.online_wait_seconds)
        return online_store.OnlineUsers(self.feast, fields, wait_seconds=self.online_wait_seconds)

    def _feast_config(self) -> dict[str, Any]:
        online: dict[str, Any] | None = None
        if self.version is not None and self.settings.online_store == "redis":
            online = {"type": "redis", "connection_string": self.settings.redis_connection}
        elif self.version is not None:
            online = {"type": "sqlite", "path": str(self.online_file)}
        return {
            "project": self.project,
            "provider": "local",
            "registry": {
                "path": str(self._repository / "registry.db"),
                "registry_store_type": "features.registry_file.WholeFileRegistryStore",
            },
            "offline_store": dict(self.settings.offline_store),
            "online_store": online,
            "entity_key_serialization_version": 3,
        }


def in_order_of(keys: pd.DataFrame, joined: pa.Table, *, key: str) -> pa.Table:
    """Puts joined rows into the order of their keys and checks that none was lost or doubled.

    Raises:
        JoinError: Names the first keys that are missing or occur twice.
    """
    wanted = _key_index(keys[key], keys[columns.EVENT_TIMESTAMP])
    found = _key_index(joined.column(key).to_pandas(), joined.column(columns.EVENT_TIMESTAMP).to_pandas())
    if len(twice := found[found.duplicated()].unique()):
        raise JoinError(f"the join doubled {len(twice)} of {len(wanted)} rows, such as {_some(twice)}")
    position = found.get_indexer(wanted)
    if len(lost := wanted[position < 0]) or len(found) != len(wanted):
        raise JoinError(
            f"the join of {len(wanted)} rows gave {len(found)}; {len(lost)} are missing, such as {_some(lost)}. "
            "The offline store dask does this; set features.offline_store: {type: duckdb}"
        )
    return joined.take(pa.array(position))


def check_not_younger(joined: pa.Table, *, key: str, as_of: str) -> None:
    """Checks that no feature row speaks of a moment after its example.

    Raises:
        JoinError: Names the first rows whose features are younger than they are.
    """
    moment = joined.column(columns.EVENT_TIMESTAMP).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    known = joined.column(as_of).fill_null(0).to_numpy()
    (younger,) = (known * 1_000_000 > moment).nonzero()
    if len(younger):
        rows = joined.take(pa.array(younger[:3])).select([key, columns.EVENT_TIMESTAMP, as_of]).to_pylist()
        raise JoinError(
            f"{len(younger)} of {joined.num_rows} rows have features from after their moment, such as {rows}; "
            f"{as_of} must not be later than {columns.EVENT_TIMESTAMP}. Look for snapshots with a wrong timestamp"
        )


@contextmanager
def _without_ibis_deprecations() -> Iterator[None]:
    """Silences one warning: Ibis, under Feast's DuckDB store, calls what this DuckDB has renamed, at every query."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"fetch_arrow_table\(\) is deprecated", DeprecationWarning, module=r"ibis\.backends\.duckdb"
        )
        yield


def repository(folder: Path, version: str | None) -> Path:
    """Feast's folder for the joins, or for a version of the online features, below the run's `features/` folder."""
    return folder / "feast" if version is None else folder / "online" / version


def _write_if_changed(path: Path, text: str) -> None:
    """Replaces a file at once, and only if needed: a server may be reading it."""
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _as_of_column(tower: Tower) -> str:
    return columns.USER_AS_OF if tower == "user" else columns.ITEM_AS_OF


def _key_index(ids: pd.Series, moments: pd.Series) -> pd.MultiIndex:
    microseconds = moments.astype("datetime64[us, UTC]").astype("int64")
    return pd.MultiIndex.from_arrays([ids.astype(object), microseconds])


def _some(index: pd.MultiIndex) -> str:
    shown = [f"{name} at {pd.Timestamp(moment, unit='us', tz='UTC')}" for name, moment in index[:3]]
    return ", ".join(shown)


def forget_online(store: Store, user_ids: Sequence[str]) -> int:
    """Removes all values of some users; reads find nothing under their ids from now on.

    Feast writes and reads single entities and has no call that removes one: what it would read is removed by its own
    key, from its own connection.

    Args:
        store: The feature store; its online store need not be there.
        user_ids: Whose.

    Returns:
        How many of them were there.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    config = store.feast.config
    keys = [
        serialize_entity_key(
            EntityKey(join_keys=[columns.USER_ID], entity_values=[Value(string_val=user_id)]),
            entity_key_serialization_version=config.entity_key_serialization_version,
        )
        for user_id in user_ids
    ]
    if store.settings.online_store == "redis":
        client = store.feast._get_provider().online_store._get_client(config.online_store)
        return sum(int(client.delete(key + config.project.encode()) > 0) for key in keys)
    return online_store.forget_in_sqlite(store.online_file, keys)
