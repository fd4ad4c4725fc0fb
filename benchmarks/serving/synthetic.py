"""A catalogue of any size: events, users and items drawn at random, as Parquet files with a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_USERS, NUM_GROUPS = 2_500, 50
DAYS, EVENTS_PER_DAY = 60, 8_000
FIRST_SECONDS = 1_704_067_200  # 2024-01-01 00:00 UTC
CONFIG = """\
# A synthetic catalogue to measure serving with.
name: synthetic
as_of: 2024-02-29
dataset:
  user_columns: {{country: categorical}}
  item_columns: {{aisle: categorical}}
  item_category: aisle
ingest:
  source:
    kind: tables
    events: {{path: {folder}/events.parquet}}
    users: {{path: {folder}/users.parquet}}
    items: {{path: {folder}/items.parquet}}
training: {{example_days: 14, validation_days: 0, epochs: 1}}
towers: {{embedding_dim: 32, hidden_units: [64], factor_dim: 32}}
index: {{ef_search: 400, min_recall: 0.8}}
evaluation: {{window_days: 1}}
"""


def write_synthetic(folder: Path, *, num_items: int) -> Path:
    """Writes the source, unless it is there; returns its configuration.

    Users and items have one of 50 tastes; nine of ten events are within a taste, popularity falls as one over the rank.
    """
    config = folder / "synthetic.yaml"
    if config.exists():
        return config
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    num_events = DAYS * EVENTS_PER_DAY
    users = rng.integers(0, NUM_USERS, num_events)
    per_group = num_items // NUM_GROUPS
    rank = np.minimum((per_group ** rng.random(num_events)).astype(np.int64), per_group - 1)
    within = rng.random(num_events) < 0.9
    group = np.where(within, users % NUM_GROUPS, rng.integers(0, NUM_GROUPS, num_events))
    seconds = FIRST_SECONDS + np.sort(rng.integers(0, DAYS * 86_400, num_events))
    events = {
        "user_id": pa.array(users + 1).cast(pa.string()),
        "item_id": pa.array(group * per_group + rank).cast(pa.string()),
        "timestamp": pa.array(seconds * 1_000_000).cast(pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    countries = pa.array(rng.integers(0, 20, NUM_USERS)).cast(pa.string())
    pq.write_table(
        pa.table({"user_id": pa.array(np.arange(NUM_USERS) + 1).cast(pa.string()), "country": countries}),
        folder / "users.parquet",
    )
    items = {
        "item_id": pa.array(np.arange(num_items)).cast(pa.string()),
        "item_name": pa.array([f"item {number}" for number in range(num_items)]),
        "aisle": pa.array(np.arange(num_items) // max(per_group, 1)).cast(pa.string()),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    config.write_text(CONFIG.format(folder=folder.resolve()))
    return config
