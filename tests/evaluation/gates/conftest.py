"""Two months of a small shop, written by hand: tables, examples, encoders and vectors of a night and the one before."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import FILLED, RunPaths
from evaluation.config import GatesSections
from evaluation.gates.candidate import Candidate
from evaluation.gates.gates import check
from evaluation.gates.report import GateReport
from features.columns import day_range, midnight, seconds_of
from features.encoding import fit_encoder
from features.schema import MOMENT, view_schema
from features.sources.events import EVENTS_SCHEMA
from serving.retrieval.vectors import vector_schema
from twinspire.config import Config

AS_OF = dt.date(2024, 3, 11)
BEFORE = AS_OF - dt.timedelta(days=1)
FIRST = AS_OF - dt.timedelta(days=70)
NUM_USERS, NUM_ITEMS, DAY_EVENTS, WIDTH = 120, 30, 400, 8
USERS = [f"u{row:03}" for row in range(NUM_USERS)]
ITEMS = [f"i{row:02}" for row in range(NUM_ITEMS)]
VERSION, PARENT = f"{AS_OF}-00000000", f"{BEFORE}-11111111"
CONFIG = {
    "name": "shop",
    "as_of": str(AS_OF),
    "dataset": {
        "user_columns": {"country": "categorical", "age": "numeric"},
        "item_columns": {"aisle": "categorical", "size": "numeric"},
    },
    "ingest": {"source": {"kind": "complete_journey"}},
    "features": {"example_days": 30},
    "training": {"example_days": 30},
}


@dataclass(frozen=True)
class Shop:
    """A run's folder, and the means to spoil it."""

    root: Path

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root, AS_OF)

    @property
    def before(self) -> RunPaths:
        return RunPaths(self.root, BEFORE)

    def candidate(self, *, parent: bool = True, **gates: Any) -> Candidate:
        config = Config.model_validate({**CONFIG, "gates": gates})
        return Candidate(pick(GatesSections, config), self.paths, VERSION, PARENT if parent else None)

    def write_events(self, day: dt.date, count: int) -> None:
        rng = np.random.default_rng(day.toordinal())
        begin = midnight(day)
        rows = {
            "user_id": rng.choice(USERS, count).tolist(),
            "item_id": rng.choice(ITEMS, count).tolist(),
            "timestamp": [begin + dt.timedelta(seconds=second) for second in range(count)],
            "reward": [1.0] * count,
            "value": rng.uniform(1, 9, count).tolist(),
        }
        (self.paths.tables / "events").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows, schema=EVENTS_SCHEMA), self.paths.tables / "events" / f"{day}.parquet")

    def fill_online(self) -> None:
        """As the features step leaves a version of the online features."""
        version = f"{AS_OF}-00000000"
        filled = self.paths.features / "online" / version / FILLED
        for path, text in ((filled, str(AS_OF)), (self.paths.features_version, version)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def write_entities(self, **columns: Any) -> None:
        """The users and items tables; a keyword replaces a column."""
        rng = np.random.default_rng(1)
        users = {
            "user_id": USERS,
            "country": ["NL", "DE", None] * (NUM_USERS // 3),
            "age": rng.normal(40, 9, NUM_USERS),
        }
        items = {"item_id": ITEMS, "aisle": ["fruit", "tools"] * (NUM_ITEMS // 2), "size": np.arange(NUM_ITEMS) + 1.0}
        for name, table in (("users", users), ("items", items)):
            own = {column: columns.get(column, values) for column, values in table.items()}
            schema = [(column, pa.float32() if column in ("age", "size") else pa.string()) for column in own]
            pq.write_table(pa.table(own, schema=pa.schema(schema)), self.paths.tables / f"{name}.parquet")

    def write_manifest(self, *, read: int, aside: int) -> None:
        counts = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "num_added_users": 0, "num_added_items": 0}
        quarantined = {"events": {"null_id": aside}, "users": {}, "items": {}}
        days = {
            path.stem: {"digest": "", "num_events": pq.read_metadata(path).num_rows, "num_repeats": 0}
            for path in sorted((self.paths.tables / "events").iterdir())
        }
        text = json.dumps({"rows_read": read, "quarantined": quarantined, "days": days, **counts})
        (self.paths.tables / "manifest.json").write_text(text)

    def write_examples(self, day: dt.date, count: int = DAY_EVENTS, **fields: Any) -> None:
        """A partition with a row a user and an item; a keyword gives every row of a table another value."""
        rng, dataset = np.random.default_rng(day.toordinal() + 7), Config.model_validate(CONFIG).dataset
        folder = self.paths.examples / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        users = [
            {"user_id": user, "event_timestamp": midnight(day), "user_as_of_seconds": seconds_of(day)}
            | {"user_num_events": int(rng.lognormal(4, 1)), "user_num_items": 9, "user_num_days": 5}
            | {"user_value": float(rng.lognormal(3, 1)), "user_last_seconds": seconds_of(day) - int(rng.integers(9e5))}
            | {"country": ["NL", "DE", None][place % 3], "age": float(rng.normal(40, 9))}
            for place, user in enumerate(USERS)
        ]
        items = [
            {"item_id": item, "event_timestamp": midnight(day), "item_as_of_seconds": seconds_of(day)}
            | {"item_num_events": 10 + place, "item_num_buyers": 5, "item_price": 2.0, "size": float(place)}
            | {"item_fast_rate": 1.0, "item_slow_rate": 1.0, "item_fast_new_rate": 0.5, "item_slow_new_rate": 0.5}
            | {"aisle": ["fruit", "tools"][place % 2]}
            for place, item in enumerate(ITEMS)
        ]
        for name, rows, key in (("users", users, "user"), ("items", items, "item")):
            head = [(f"{key}_id", pa.string()), ("event_timestamp", MOMENT)]
            schema = pa.schema([*head, *view_schema(dataset, key)])  # type: ignore[arg-type]
            changed = [row | {field: value for field, value in fields.items() if field in row} for row in rows]
            table = pa.Table.from_pylist(changed, schema=schema)
            pq.write_table(table, folder / f"{name}.parquet")
            if name == "items":
                pq.write_table(table, folder / "uniform.parquet")
        events = {
            "user_row": rng.integers(NUM_USERS, size=count),
            "item_row": rng.integers(NUM_ITEMS, size=count),
            "reward": np.full(count, fields.get("reward", 1.0)),
            "value": rng.uniform(1, 9, count) * fields.get("value", 1.0),
        }
        pq.write_table(pa.table(events), folder / "events.parquet")

    def write_catalogue(self, **fields: Any) -> None:
        """Features of everybody and everything: those of the newest examples."""
        self.paths.catalogue(AS_OF).mkdir(parents=True, exist_ok=True)
        for name in ("users", "items"):
            table = pq.read_table(self.paths.examples / str(BEFORE) / f"{name}.parquet")
            moment = table.schema.get_field_index(f"{name[:-1]}_as_of_seconds")
            field = table.schema.field(moment)
            age = fields.get("age_days", 0)
            table = table.set_column(moment, field, pa.array([seconds_of(AS_OF) - age * 86_400] * table.num_rows))
            pq.write_table(table, self.paths.catalogue(AS_OF) / f"{name}.parquet")

    def write_encoder(self, paths: RunPaths) -> None:
        tables = (pq.read_table(self.paths.tables / f"{name}.parquet") for name in ("users", "items"))
        dataset = Config.model_validate(CONFIG).dataset
        fit_encoder(dataset, *tables, [], history_length=3, text_length=3, text_buckets=3).save(paths.model / "encoder")

    def write_vectors(self, paths: RunPaths, **vectors: npt.NDArray[Any]) -> None:
        for name, count in (("users", NUM_USERS), ("items", NUM_ITEMS)):
            values = vectors.get(name, unit(count))
            flat = pa.array(values.astype(np.float32).ravel())
            columns = [pa.array(range(count)), pa.FixedSizeListArray.from_arrays(flat, WIDTH)]
            (paths.vectors / name).mkdir(parents=True, exist_ok=True)
            table = pa.table(columns, schema=vector_schema(WIDTH))
            pq.write_table(table, paths.vectors / name / "vectors-00000-of-00001.parquet")


def unit(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Vectors of length one that point everywhere."""
    values = np.random.default_rng(seed).normal(size=(count, WIDTH))
    vectors: npt.NDArray[np.float64] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return vectors


@pytest.fixture(scope="session")
def make_unit() -> Callable[..., npt.NDArray[np.float64]]:
    return unit


@pytest.fixture(scope="session")
def shop_as_written(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("shop"))
    for day in day_range(FIRST, AS_OF):
        made.write_events(day, DAY_EVENTS)
    made.write_entities()
    made.write_manifest(read=27_000, aside=20)
    for paths in (made.paths, made.before):
        made.write_encoder(paths)
    earlier = made.candidate(parent=False)
    report = GateReport(str(BEFORE), PARENT, None, tuple(check(earlier, name) for name in ("quarantine", "nulls")))
    made.before.gates.parent.mkdir(parents=True)
    made.before.gates.write_text(report.to_json())
    return made


@pytest.fixture(scope="session")
def trained_as_written(shop_as_written: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(Path(shutil.copytree(shop_as_written.root, tmp_path_factory.mktemp("trained") / "shop")))
    for day in day_range(AS_OF - dt.timedelta(days=30), AS_OF):
        made.write_examples(day)
    made.write_catalogue()
    made.fill_online()
    made.write_vectors(made.paths)
    made.write_vectors(made.before, users=unit(NUM_USERS, 1))
    (made.paths.bundles / VERSION).mkdir(parents=True)
    np.save(made.paths.bundles / VERSION / "popularity.npy", np.arange(NUM_ITEMS, dtype=np.float32))
    return made


@pytest.fixture
def shop(shop_as_written: Shop, tmp_path: Path) -> Shop:
    """The tables of both nights, the encoder of each, and what the checks found the previous night; to be spoiled."""
    return Shop(Path(shutil.copytree(shop_as_written.root, tmp_path / "shop")))


@pytest.fixture
def trained(trained_as_written: Shop, tmp_path: Path) -> Shop:
    """The same with examples, the catalogue and vectors."""
    return Shop(Path(shutil.copytree(trained_as_written.root, tmp_path / "shop")))
