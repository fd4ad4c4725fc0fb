"""Features: snapshots of each midnight, point-in-time examples of each day, the online store at the cut."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artefacts.config import ConfigError
from artefacts.console import progress, without_chatter
from artefacts.files import replace_text
from artefacts.paths import RunPaths
from artefacts.steps import fresh_folder
from features import columns
from features.columns import day_range, midnight, seconds_of
from features.config import FeaturesSections, IngestSections
from features.examples import batches_of, join_days, missing_days
from features.forgotten import Forgotten
from features.ingest import ingest, open_source
from features.schema import ENTITY_KEY, MOMENT, PAIRS_SCHEMA, TOWERS, Tower
from features.schema_changes import SchemaChange, SchemaFacts, schema_changes
from features.store import Store, StoreSettings, empty_online_store
from features.tables import event_days, read_events

# Rows of a block of the catalogue: what one element of the embedding job reads.
CATALOGUE_BLOCK_ROWS = 8192


def check_days(sections: FeaturesSections, paths: RunPaths) -> None:
    """Refuses a cut without any event in the days before it, of which nothing can be learned.

    Raises:
        ConfigError: There is none from `first_day` to the day before `as_of`.
        FileNotFoundError: There are no tables.
    """
    days = event_days(paths.tables)
    if not any(sections.first_day <= day < sections.as_of for day in days):
        span = f"{days[0]} to {days[-1]}" if days else "no day"
        raise ConfigError(
            f"as_of is {sections.as_of} and features.example_days {sections.features.example_days}: no event lies from "
            f"{sections.first_day} up to {sections.as_of}, and the events are of {span}. Set as_of to a day behind "
            "events (the day after the last one, where all are wanted), or correct their timestamps and timestamp_unit"
        )


def make_features(sections: FeaturesSections, paths: RunPaths) -> str:
    """Brings examples and the online store up to `as_of`, from the snapshots; what is there already is kept.

    Returns:
        One line of outcome.
    """
    as_of = sections.as_of
    store = open_store(sections, paths)
    with without_chatter():
        store.apply()
    joined, days = _join_examples(sections, paths, store)
    validation = as_of - dt.timedelta(days=sections.validation_days)
    for moment in (validation, as_of):
        _write_catalogue(store, paths, moment)
    _fill_online_store(sections, paths, store)
    return (
        f"{joined:,} examples joined for {days} new days, none lost, none with a younger feature; "
        f"{sections.features.online_store} holds the users at {as_of}"
    )


def open_store(sections: FeaturesSections, paths: RunPaths) -> Store:
    """The feature store of a run."""
    settings = StoreSettings(
        project=sections.name,
        schema=sections.dataset,
        refresh_days={"user": sections.features.user_refresh_days, "item": sections.features.item_refresh_days},
        online_store=sections.features.online_store,
        redis_connection=sections.features.redis_connection,
        offline_store=sections.features.offline_store,
    )
    return Store(paths.features, settings)


def keep_catalogue(paths: RunPaths, moment: dt.date) -> None:
    """Writes the catalogue of an earlier midnight again where events that came late have removed it."""
    if not paths.catalogue(moment).exists():
        store = Store.open(paths.features)
        with without_chatter():
            _write_catalogue(store, paths, moment)


def _join_examples(sections: FeaturesSections, paths: RunPaths, store: Store) -> tuple[int, int]:
    """Joins the days that have no partition; returns how many examples and days."""
    have_events = set(event_days(paths.tables))
    days = [
        day for day in missing_days(paths.examples, day_range(sections.first_day, sections.as_of)) if day in have_events
    ]
    if not days:
        return 0, 0
    item_ids = _ids(paths.tables, "item")
    joined = 0
    with progress("point-in-time joins", total=len(days)) as advance:
        for batch in batches_of(days, sections.features.join_days):
            events = read_events(paths.tables, first_day=batch[0], end_day=batch[-1] + dt.timedelta(days=1))
            met = _first_meetings(paths.pairs, batch)
            joined += join_days(
                store, _of_days(events, batch), met=met, item_ids=item_ids, seed=sections.seed, folder=paths.examples
            )
            advance(len(batch))
    return joined, len(days)


def _first_meetings(pairs: Path, days: Sequence[dt.date]) -> pd.Series:
    """First meeting of each pair that met between the first and the last of some days; the others meet at no event."""
    wanted = [columns.USER_ID, columns.ITEM_ID, "first_seconds"]
    begin, end = seconds_of(days[0]), seconds_of(days[-1] + dt.timedelta(days=1))
    parts = []
    with pq.ParquetFile(pairs) as file:
        # All pairs ever are many times those of some days.
        for batch in file.iter_batches(columns=wanted):
            seconds = batch.column("first_seconds")
            parts.append(batch.filter(pc.and_(pc.greater_equal(seconds, begin), pc.less(seconds, end))))
        found = pa.Table.from_batches(parts, schema=pa.schema([PAIRS_SCHEMA.field(name) for name in wanted]))
    frame: pd.DataFrame = found.to_pandas()
    return frame.set_index(wanted[:2])["first_seconds"]


def _fill_online_store(sections: FeaturesSections, paths: RunPaths, store: Store) -> None:
    """Brings the online store to `as_of`; from an earlier day on by what changed since."""
    as_of = sections.as_of
    held = dt.date.fromisoformat(paths.online_day.read_text()) if paths.online_day.exists() else None
    since = as_of - dt.timedelta(days=sections.features.user_refresh_days + 1)
    paths.online_day.unlink(missing_ok=True)
    with without_chatter():
        if held is None or held > as_of:
            empty_online_store(store)
        elif held < as_of and not _has_newcomers(paths, since=held):
            since = max(since, held)
        store.materialize(midnight(since), midnight(as_of))
    replace_text(paths.online_day, str(as_of))


def _has_newcomers(paths: RunPaths, *, since: dt.date) -> bool:
    """Whether files written after a midnight have rows of that one or of an earlier one: those of who was new."""
    for path in (paths.snapshots / "user").glob("????-??-??.parquet"):
        if path.stem > str(since):
            moments = pq.read_table(path, columns=[columns.EVENT_TIMESTAMP]).column(0)
            if pc.any(pc.less_equal(moments, pa.scalar(midnight(since), MOMENT))).as_py():
                return True
    return False


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


def find_schema_changes(sections: IngestSections, paths: RunPaths) -> list[SchemaChange]:
    """What changed in the columns since the tables that are there were made; to be asked before `make_tables`.

    Raises:
        SourceError: A declared column is gone from the source.
    """
    before = SchemaFacts.load(paths.tables)
    now = SchemaFacts.of(open_source(sections.ingest.source, schema=sections.dataset), sections.dataset)
    return [] if before is None else schema_changes(before, now)


def make_tables(sections: IngestSections, paths: RunPaths, *, now: dt.datetime, reuse: bool = True) -> str:
    """Reads the source into canonical tables; returns one line of outcome.

    With `reuse` what is unchanged since the last run is not read again, where the source allows that. Rows of people
    who are forgotten are left out and counted.
    """
    settings = sections.ingest
    changes = find_schema_changes(sections, paths)
    source = open_source(settings.source, schema=sections.dataset)
    with progress("events") as advance:
        summary = ingest(
            source,
            schema=sections.dataset,
            out=paths.tables,
            chunk_rows=settings.chunk_rows,
            max_quarantine_share=settings.max_quarantine_share,
            now=now,
            progress=advance,
            reuse=reuse,
            forgotten=Forgotten.load(paths.forgotten),
        )
    return "; ".join([summary.outcome(), *map(str, changes)])
