"""The Feast objects of a dataset follow from its schema."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from feast.cli.cli import cli
from feast.types import Array, Bool, Float32, Int64, String

from features.feast_repo.definitions import FEAST_TYPES, definitions
from features.kinds import Storage
from features.schema import ARROW_TYPES, STATISTICS, TOWERS, Schema, Tower
from features.store import Store

TYPES = {
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


def test_every_storage_has_a_type_in_feast_and_in_arrow() -> None:
    assert set(FEAST_TYPES) == set(ARROW_TYPES) == set(Storage)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_view_has_the_statistics_and_columns_of_its_tower_in_order(schema: Schema, tower: Tower) -> None:
    made = definitions(schema, tower, snapshots=Path("/snapshots"), refresh_days=4)
    shares = {"user": "user_aisle", "item": "item_age"}[tower]
    names = [statistic.name for statistic in STATISTICS[tower]]
    names += [f"{shares}_values", f"{shares}_shares", *schema.columns_of(tower)]
    assert [field.name for field in made.view.features] == names
    storage = dict(schema.view_fields(tower))
    assert [field.dtype for field in made.view.features] == [TYPES[storage[name]] for name in names]
    assert made.view.join_keys == [f"{tower}_id"]
    assert made.entity.join_key == f"{tower}_id"
    assert [projection.name for projection in made.service.feature_view_projections] == [made.view.name]


def test_a_column_added_to_the_schema_is_a_field_of_the_view() -> None:
    wider = Schema.model_validate({"item_columns": {"colour": "categorical", "weight": "numeric"}})
    made = definitions(wider, "item", snapshots=Path("/snapshots"), refresh_days=4)
    assert {field.name: field.dtype for field in made.view.features[-2:]} == {"colour": String, "weight": Float32}


def test_only_users_go_online_because_items_are_embedded_in_bulk(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    views = {
        name: {
            view.name: view.online for view in make_store(tmp_path / name, version=version).feast.list_feature_views()
        }
        for name, version in (("joins", None), ("online", "2017-01-05-5f3c9a71"))
    }
    assert views == {"joins": {"user_daily": False, "item_daily": False}, "online": {"user_daily": True}}


def test_a_join_looks_back_a_day_longer_than_the_refresh_takes_and_knows_when_rows_were_made(schema: Schema) -> None:
    view = definitions(schema, "user", snapshots=Path("/snapshots"), refresh_days=4).view
    assert view.ttl == dt.timedelta(days=5)
    assert view.batch_source.timestamp_field == "event_timestamp"
    assert view.batch_source.created_timestamp_column == "created_timestamp"
    assert view.batch_source.path == "/snapshots/*.parquet"


def test_a_registered_store_has_one_entity_view_and_service_for_each_tower(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    feast = make_store(tmp_path).feast
    assert {entity.name for entity in feast.list_entities()} - {"__dummy"} == {"user", "item"}
    assert {view.name for view in feast.list_feature_views()} == {"user_daily", "item_daily"}
    assert {service.name for service in feast.list_feature_services()} == {"user_tower", "item_tower"}


def test_feasts_own_command_line_reads_the_registry(make_store: Callable[..., Store], tmp_path: Path) -> None:
    make_store(tmp_path)
    ran = CliRunner().invoke(cli, ["--chdir", str(tmp_path / "feast"), "feature-views", "list"])
    assert ran.exit_code == 0
    assert "user_daily" in ran.output
    assert "item_daily" in ran.output


def test_a_registry_that_cannot_be_written_stays_as_it_was(
    make_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_store(tmp_path).feast.registry._registry_store
    path = tmp_path / "feast" / "registry.db"
    before = path.read_bytes()

    def half(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        kept.update_registry_proto(kept.get_registry_proto())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.glob(".*")] == []
