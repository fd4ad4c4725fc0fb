"""Features: snapshots of each midnight, point-in-time examples of each day, the online store at the cut."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import snapshots
from features import columns
from features.days import day_range, midnight
from features.examples import batches_of, join_days, missing_days
from features.schema import ENTITY_KEY, TOWERS, Tower
from features.store import Store, StoreSettings
from features.tables import event_days, read_events
from twinspire.config import BeamConfig, Config
from twinspire.console import progress, without_chatter
from twinspire.paths import RunPaths
from twinspire.steps import fresh_folder

# Rows of a block of the catalogue: what one element of the embedding job reads.
CATALOGUE_BLOCK_ROWS = 8192


def make_features(config: Config, paths: RunPaths) -> str:
    """Brings snapshots, examples and the online store up to `as_of`; what is there already is kept.

    Returns:
        One line of outcome.
    """
    as_of = config.as_of
    first = as_of - dt.timedelta(days=config.features.example_days)
    written = _write_snapshots(config, paths, first=first)
    store = open_store(config, paths)
    with without_chatter():
        store.apply()
    joined, days = _join_examples(config, paths, store, first)
    validation = as_of - dt.timedelta(days=config.training.validation_days)
    for moment in (validation, as_of):
        _write_catalogue(store, paths, moment)
    look_back = dt.timedelta(days=config.features.user_refresh_days + 1)
    paths.online_day.unlink(missing_ok=True)
    with without_chatter():
        store.materialize(midnight(as_of) - look_back, midnight(as_of))
    paths.online_day.write_text(str(as_of))
    return (
        f"{written} days of snapshots; {joined:,} examples joined for {days} new days, none lost, none with a younger "
        f"feature; {config.features.online_store} holds the users at {as_of}"
    )


def open_store(config: Config, paths: RunPaths) -> Store:
    """The feature store of a run."""
    settings = StoreSettings(
        project=config.name,
        schema=config.dataset,
        refresh_days={"user": config.features.user_refresh_days, "item": config.features.item_refresh_days},
        online_store=config.features.online_store,
        redis_connection=config.features.redis_connection,
    )
    return Store(paths.features, settings)


def beam_options(config: BeamConfig) -> PipelineOptions:
    """Pipeline options from the configuration."""
    return PipelineOptions([f"--runner={config.runner}", *config.options])


def _write_snapshots(config: Config, paths: RunPaths, *, first: dt.date) -> int:
    """Runs the snapshot job for the midnights that are missing; returns how many."""
    state_path = paths.snapshots / "state.json"
    state = json.loads(state_path.read_text()) if state_path.exists() else {}
    usable = _still_holds(state, config, paths, first)
    if not usable:
        # Snapshots of other data or another schema must never be joined: start over.
        shutil.rmtree(paths.features, ignore_errors=True)
        state = {"first": str(first), "end": str(first - dt.timedelta(days=1))}
    end = dt.date.fromisoformat(state["end"])
    _drop_unrecorded(paths.snapshots, end)
    missing = day_range(end + dt.timedelta(days=1), config.as_of + dt.timedelta(days=1))
    if not missing and paths.pairs.exists():
        return 0
    start = max(first, end) if missing else config.as_of
    # A cut before the newest one needs no rows, only the pairs that had met by then.
    parts = ("user", "item", "pairs") if missing else ("pairs",)
    known = paths.snapshots / "known" / str(end) if usable else None
    _run_snapshots(config, paths, days=(start, config.as_of), known=known, parts=parts)
    newest = max(end, config.as_of)
    if missing:
        _write_known(paths, newest)
    state |= {"end": str(newest), "settings": _settings(config), "days": _day_digests(paths, newest)}
    state_path.write_text(json.dumps(state, indent=2))
    return len(missing)


def _still_holds(state: dict[str, Any], config: Config, paths: RunPaths, first: dt.date) -> bool:
    """Whether the snapshots there are of the same settings and the same past; the future may have grown."""
    if not state or state["first"] > str(first) or state["settings"] != _settings(config):
        return False
    return bool(state["days"] == _day_digests(paths, dt.date.fromisoformat(state["end"])))


def _settings(config: Config) -> dict[str, Any]:
    return {
        "dataset": config.dataset.model_dump(mode="json"),
        "history": config.features.history_length,
        "refresh": [config.features.user_refresh_days, config.features.item_refresh_days],
        # The uniform negatives of a partition are drawn with it.
        "seed": config.seed,
    }


def _day_digests(paths: RunPaths, end: dt.date) -> dict[str, str]:
    """Hash of each day's events before a day: a late or changed event makes its day another one."""
    found = {}
    for day in event_days(paths.tables):
        if day < end:
            content = (paths.tables / "events" / f"{day}.parquet").read_bytes()
            found[str(day)] = hashlib.sha256(content).hexdigest()[:16]
    return found


def _write_known(paths: RunPaths, end: dt.date) -> None:
    """Keeps the ids that have rows: whoever appears later gets one at once, not at the next refresh."""
    folder = paths.snapshots / "known" / str(end)
    folder.mkdir(parents=True, exist_ok=True)
    for tower in TOWERS:
        ids = pa.table({ENTITY_KEY[tower]: pa.array(_ids(paths.tables, tower), pa.string())})
        pq.write_table(ids, folder / f"{tower}s.parquet")


def _drop_unrecorded(snapshots_folder: Path, end: dt.date) -> None:
    """Removes rows that a run left before it was killed: the next one computes their days again."""
    for tower in TOWERS:
        for file in (snapshots_folder / tower).glob("*.parquet"):
            if file.stem > str(end):
                file.unlink()


def _run_snapshots(
    config: Config, paths: RunPaths, *, days: tuple[dt.date, dt.date], known: Path | None, parts: Sequence[str]
) -> None:
    transform = snapshots.DailySnapshots(
        paths.tables,
        config.dataset,
        days=days,
        num_shards=config.beam.shards,
        history_length=config.features.history_length,
        user_refresh_days=config.features.user_refresh_days,
        item_refresh_days=config.features.item_refresh_days,
        known=known,
    )
    before = [day for day in event_days(paths.tables) if day < config.as_of]
    files = [str(paths.tables / "events" / f"{day}.parquet") for day in before]
    temporary = paths.features / ".snapshots.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with progress("daily snapshots"):
        snapshots.run(
            transform, files, out=temporary, name="part", schema=config.dataset, options=beam_options(config.beam)
        )
    for part in parts:
        (paths.snapshots / part).mkdir(parents=True, exist_ok=True)
        [made] = (temporary / part).glob("*.parquet")
        made.rename(paths.snapshots / part / f"{config.as_of}.parquet")
    shutil.rmtree(temporary)


def _join_examples(config: Config, paths: RunPaths, store: Store, first: dt.date) -> tuple[int, int]:
    """Joins the days that have no partition; returns how many examples and days."""
    have_events = set(event_days(paths.tables))
    days = [day for day in missing_days(paths.examples, day_range(first, config.as_of)) if day in have_events]
    if not days:
        return 0, 0
    pairs = pq.read_table(paths.pairs, columns=[columns.USER_ID, columns.ITEM_ID, "first_seconds"]).to_pandas()
    met = pairs.set_index([columns.USER_ID, columns.ITEM_ID])["first_seconds"]
    item_ids = _ids(paths.tables, "item")
    joined = 0
    with progress("point-in-time joins", total=len(days)) as advance:
        for batch in batches_of(days, config.features.join_days):
            events = read_events(paths.tables, first_day=batch[0], end_day=batch[-1] + dt.timedelta(days=1))
            joined += join_days(
                store, _of_days(events, batch), met=met, item_ids=item_ids, seed=config.seed, folder=paths.examples
            )
            advance(len(batch))
    return joined, len(days)


def _of_days(events: pa.Table, days: Sequence[dt.date]) -> pa.Table:
    """Events of exactly the given days: a run of missing days may have gaps."""
    day = events.column(columns.TIMESTAMP).cast(pa.timestamp("us")).cast(pa.date32())
    return events.filter(pa.compute.is_in(day, value_set=pa.array(days, pa.date32())))


def _write_catalogue(store: Store, paths: RunPaths, moment: dt.date) -> None:
    """Features of everybody and everything at a midnight, in the order of the canonical tables."""
    target = paths.catalogue(moment)
    if target.exists() and all(_ids(target, tower).tolist() == _ids(paths.tables, tower).tolist() for tower in TOWERS):
        return
    with fresh_folder(target) as temporary:
        for tower in TOWERS:
            ids = _ids(paths.tables, tower)
            keys = pd.DataFrame({ENTITY_KEY[tower]: ids, columns.EVENT_TIMESTAMP: midnight(moment)})
            joined = store.join(tower, keys)
            pq.write_table(joined, temporary / f"{tower}s.parquet", row_group_size=CATALOGUE_BLOCK_ROWS)


def _ids(tables: Path, tower: Tower) -> npt.NDArray[np.object_]:
    table = pq.read_table(tables / f"{tower}s.parquet", columns=[ENTITY_KEY[tower]])
    ids: npt.NDArray[np.object_] = table.column(0).to_numpy(zero_copy_only=False)
    return ids
