"""Feast definitions of a dataset's schema: one entity, one feature view and one feature service per tower.

The commands build them with `definitions` and register them. Feast's own web page and registry tools read the registry
of a run:

    feast --chdir runs/complete_journey/features/feast feature-views list
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, FeastType, Float32, Int64, String

from features import columns
from features.kinds import Storage
from features.schema import ENTITY_KEY, SERVICE_NAMES, VIEW_NAMES, Schema, Tower

FEAST_TYPES: dict[Storage, FeastType] = {
    Storage.STRING: String,
    Storage.FLOAT: Float32,
    Storage.INT: Int64,
    Storage.STRINGS: Array(String),
    Storage.INTS: Array(Int64),
    Storage.FLOATS: Array(Float32),
    Storage.BOOL: Bool,
    Storage.MOMENT: Int64,
    Storage.VECTOR: Array(Float32),
    Storage.WEIGHTS: Array(Float32),
    Storage.PLACE: Array(Float32),
}


@dataclass(frozen=True)
class TowerDefinitions:
    """What Feast knows of one tower."""

    entity: Entity
    view: FeatureView
    service: FeatureService


def definitions(
    schema: Schema, tower: Tower, *, snapshots: Path, refresh_days: int, is_online: bool = False
) -> TowerDefinitions:
    """Feast objects of one tower.

    Args:
        schema: The dataset.
        tower: Which side.
        snapshots: Folder with the snapshot files, absolute.
        refresh_days: Every entity has a row at least this often; the view's time to live is a day more, which bounds
            how far a point-in-time join looks back.
        is_online: Whether the view has an online store: only views of users do, as item vectors are computed in bulk,
            and reading candidates' features for each request would cost milliseconds.

    Returns:
        Entity, view and service.
    """
    key = ENTITY_KEY[tower]
    entity = Entity(name=tower, join_keys=[key], value_type=ValueType.STRING, description=f"one {tower}")
    source = FileSource(
        name=f"{VIEW_NAMES[tower]}_snapshots",
        path=str(snapshots / "*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field=columns.EVENT_TIMESTAMP,
        created_timestamp_column=columns.CREATED_TIMESTAMP,
    )
    view = FeatureView(
        name=VIEW_NAMES[tower],
        entities=[entity],
        ttl=dt.timedelta(days=refresh_days + 1),
        schema=[Field(name=key, dtype=String)]
        + [Field(name=name, dtype=FEAST_TYPES[storage]) for name, storage in schema.view_fields(tower)],
        source=source,
        online=is_online,
    )
    return TowerDefinitions(entity, view, FeatureService(name=SERVICE_NAMES[tower], features=[view]))
