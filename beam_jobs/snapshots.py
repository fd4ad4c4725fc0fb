"""The Beam job that computes the snapshot rows which each midnight adds, over all users and items.

It starts from what was known at an earlier midnight, so that it reads the events since then and no others. One element
is a shard's worth of events as an Arrow batch: never a row.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.embed import WriteNumbered
from beam_jobs.snapshot_shards import ItemShard, UserShard, split_by_shard
from beam_jobs.snapshot_state import SavedState, gather_shards, state_schema
from features import columns
from features.schema import PAIRS_SCHEMA, Schema, snapshot_schema

PARTS = ("user", "item", "pairs", "user_state", "item_state")


class ReadDay(beam.DoFn):  # type: ignore[misc]
    """Path of a day's events -> (user shard, events)."""

    def __init__(self, num_shards: int) -> None:
        """Takes the number of shards."""
        self._num_shards = num_shards

    def process(self, path: str) -> Iterator[tuple[int, pa.Table]]:
        """Reads one file."""
        wanted = [columns.USER_ID, columns.ITEM_ID, columns.TIMESTAMP, columns.VALUE]
        yield from split_by_shard(pq.read_table(path, columns=wanted), columns.USER_ID, self._num_shards)


class DailySnapshots(beam.PTransform):  # type: ignore[misc]
    """Paths of event files -> for each of `PARTS` a collection of (shard, Arrow table).

    The events are those from the start of `days[0]` to the start of `days[1]`. With the state saved at the former the
    rows of every later midnight up to the latter are computed, as far as they are wanted, and the state at the latter.
    What the state does not know is new: it gets the row of its latest refresh before as well. Without a saved state
    nothing has happened yet, and everybody is new.
    """

    def __init__(
        self, tables: Path, schema: Schema, *, days: tuple[dt.date, dt.date], rows_from: dt.date, num_shards: int,
        history_length: int, user_refresh_days: int, item_refresh_days: int, saved: SavedState | None,
    ) -> None:  # fmt: skip
        """Takes the folder of the canonical tables, what the shards need, and the state at the start."""
        super().__init__()
        shared: dict[str, Any] = {
            "saved": saved,
            "num_shards": num_shards,
            "days": (columns.number_of(days[0]), columns.number_of(days[1])),
            "rows_from": columns.number_of(rows_from),
        }
        self.num_shards = num_shards
        users, items = str(tables / "users.parquet"), str(tables / "items.parquet")
        self._users = UserShard(
            users, schema, items=items, history_length=history_length, refresh_days=user_refresh_days, **shared
        )
        self._items = ItemShard(items, schema, refresh_days=item_refresh_days, **shared)

    def expand(self, paths: beam.PCollection) -> dict[str, beam.PCollection]:
        """Builds the graph."""
        # A shard without events still has members whose rows are due.
        everywhere = paths.pipeline | "all shards" >> beam.Create([(shard, None) for shard in range(self.num_shards)])
        by_user = (paths | "read" >> beam.ParDo(ReadDay(self.num_shards)), everywhere)
        users = (
            by_user
            | "users" >> beam.Flatten()
            | "by user" >> beam.GroupByKey()
            | "user rows" >> beam.ParDo(self._users).with_outputs("meetings", "pairs", "state", main="rows")
        )
        items = (
            (users.meetings, everywhere)
            | "items" >> beam.Flatten()
            | "by item" >> beam.GroupByKey()
            | "item rows" >> beam.ParDo(self._items).with_outputs("state", main="rows")
        )
        return {
            "user": users.rows,
            "item": items.rows,
            "pairs": users.pairs,
            "user_state": users.state,
            "item_state": items.state,
        }


def run(transform: DailySnapshots, paths: list[str], *, out: Path, schema: Schema, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/<part>.parquet` for each of `PARTS`, a row group a shard, in the order of shards."""
    schemas = part_schemas(schema)
    with tempfile.TemporaryDirectory(dir=out, prefix=".shards-") as name:
        shards = Path(name)
        with beam.Pipeline(options=options) as pipeline:
            outputs = pipeline | "events" >> beam.Create(paths) | "snapshots" >> transform
            for part in PARTS:
                outputs[part] | f"write {part}" >> beam.ParDo(WriteNumbered(shards / part, total=transform.num_shards))
        for part in PARTS:
            gather_shards(sorted(shards.glob(f"{part}-?????-of-?????.parquet")), out / f"{part}.parquet", schemas[part])


def part_schemas(schema: Schema) -> dict[str, pa.Schema]:
    """Arrow schema of each of `PARTS`."""
    return {
        "user": snapshot_schema(schema, "user"),
        "item": snapshot_schema(schema, "item"),
        "pairs": PAIRS_SCHEMA,
        "user_state": state_schema(schema, "user"),
        "item_state": state_schema(schema, "item"),
    }
