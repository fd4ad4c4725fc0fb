"""Writes a world as the files that a user would bring, day by day, with its truth beside them.

    events/2024-01-01.parquet      user_id, item_id, timestamp, kind, price_paid; one file a day
    users.parquet                  user_id, segment
    items.parquet                  item_id, name, category, department, brand, variant, description, tags, vector, ...
    promotions.parquet             item_id, first_day, last_day, discount
    exposures/2024-01-01.parquet   user_id, item_id, timestamp, place, propensity, reward
    config.yaml                    for `twinspire run`
    truth.yaml                     what the world was made from

Users are taken in blocks, so that memory is bounded by a block and by the table of tastes and items.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from artefacts.files import replace_text
from evaluation.worlds import content, days, items, rows, truth
from evaluation.worlds.config import WorldConfig
from evaluation.worlds.draws import Ints

USER_BLOCK = 200_000
WINDOW_DAYS = 7
EVENT_KINDS = {"view": 0.1, "cart": 0.5, "purchase": 1.0}


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        num_events: Rows of all days.
        num_exposures: Shown items.
        num_users: Users of all days together.
        num_items: Items of all days together.
        cut: The day from which on the last `WINDOW_DAYS` are left for evaluation.
    """

    num_events: int
    num_exposures: int
    num_users: int
    num_items: int
    cut: dt.date


def write_world(
    world: WorldConfig,
    folder: Path,
    *,
    user_block: int = USER_BLOCK,
    advance: Callable[[int], None] = lambda days: None,
) -> Written:
    """Writes a world.

    Args:
        world: What it is made from.
        folder: Where the files go; it must be empty or not exist.
        user_block: Users that are in memory at a time; changes nothing that is written but row groups.
        advance: Called with 1 after each day.

    Returns:
        What was written.

    Raises:
        FileExistsError: The folder holds files.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name another folder, or remove what is in it")
    folder.mkdir(parents=True, exist_ok=True)
    made = items.make_items(world)
    pq.write_table(content.item_table(world, made), folder / "items.parquet")
    _write(folder / "users.parquet", (rows.user_rows(world, users) for users in _blocks(world, user_block)))
    _write(folder / "promotions.parquet", rows.promotion_rows(world, made))
    num_events = num_exposures = 0
    for number in range(world.days):
        day, date = days.Day(world, made, number), world.start + dt.timedelta(days=number)
        found = (rows.event_rows(day, made, date, users) for users in _blocks(world, user_block))
        num_events += _write(folder / "events" / f"{date}.parquet", found)
        if world.exposures.share > 0:
            shown = (rows.exposure_rows(day, made, date, users) for users in _blocks(world, user_block))
            num_exposures += _write(folder / "exposures" / f"{date}.parquet", shown)
        advance(1)
    cut = world.start + dt.timedelta(days=max(1, world.days - WINDOW_DAYS))
    replace_text(folder / "config.yaml", yaml.safe_dump(_config(world, folder, cut), sort_keys=False))
    # Last: where it is, the world is complete.
    replace_text(folder / truth.TRUTH_FILE, yaml.safe_dump(world.model_dump(mode="json"), sort_keys=False))
    return Written(num_events, num_exposures, world.users, world.num_items, cut)


def _blocks(world: WorldConfig, size: int) -> Iterator[Ints]:
    for begin in range(0, world.users, size):
        yield np.arange(begin, min(begin + size, world.users))


def _write(path: Path, tables: Iterator[pa.Table]) -> int:
    """Writes tables of one schema into a file as they come; returns the number of rows."""
    path.parent.mkdir(exist_ok=True)
    first = next(tables)
    rows = 0
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _config(world: WorldConfig, folder: Path, cut: dt.date) -> dict[str, Any]:
    """The configuration with which the product reads the world."""
    items: dict[str, str] = {"category": "categorical", "department": "categorical", "brand": "categorical"}
    if world.catalogue.family_size > 1:
        items["variant"] = "categorical"
    if world.content.words:
        items["description"] = "text"
    return {
        "name": world.name,
        "as_of": cut,
        "dataset": {
            "user_columns": {"segment": "categorical"},
            "item_columns": {**items, "price": "numeric"},
            "item_category": "category",
            "value_meaning": "price paid",
            **({"event_kinds": EVENT_KINDS} if world.visits.cart > 0 else {}),
        },
        "ingest": {
            "source": {
                "kind": "tables",
                "events": {"path": str(folder / "events"), "columns": {"value": "price_paid"}},
                "users": {"path": str(folder / "users.parquet")},
                "items": {"path": str(folder / "items.parquet")},
            }
        },
        "evaluation": {"window_days": min(WINDOW_DAYS, world.days - 1), "world": str(folder)},
    }
