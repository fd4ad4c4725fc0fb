"""A small shop whose tables a test writes and ingests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.ingest import IngestSummary, ingest
from features.schema import Schema
from features.sources.tables import open_tables

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Named:
    path: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","


@dataclass(frozen=True)
class Shop:
    """Writes tables into `folder` and ingests them into `folder/tables`."""

    folder: Path
    schema: Schema = field(default_factory=Schema)

    @property
    def out(self) -> Path:
        return self.folder / "tables"

    def table(self, name: str, content: str | bytes | pa.Table, **named: Any) -> Named:
        """A CSV file from text, a Parquet file from an Arrow table."""
        if isinstance(content, pa.Table):
            path = self.folder / f"{name}.parquet"
            pq.write_table(content, path)
        else:
            path = self.folder / f"{name}.csv"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Named(path, **named)

    def ingest(
        self,
        events: str | bytes | pa.Table,
        users: str | pa.Table | None = None,
        items: str | pa.Table | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        timestamp_unit: Any = "s",
        chunk_rows: int = 100,
        max_quarantine_share: float = 1.0,
        now: dt.datetime = NOW,
        out: Path | None = None,
    ) -> IngestSummary:
        source = open_tables(
            schema=self.schema,
            events=self.table("events", events, columns=columns or {}),
            users=None if users is None else self.table("users", users),
            items=None if items is None else self.table("items", items),
            timestamp_unit=timestamp_unit,
        )
        return ingest(
            source,
            schema=self.schema,
            out=out or self.out,
            chunk_rows=chunk_rows,
            max_quarantine_share=max_quarantine_share,
            now=now,
        )

    def quarantine(self, table: str = "events") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.out / "quarantine" / f"{table}.parquet").to_pylist()
        return rows


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def described_shop(tmp_path: Path) -> Shop:
    schema = Schema(user_columns={"country": "categorical"}, item_columns={"brand": "categorical", "price": "numeric"})
    return Shop(tmp_path, schema)
