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

from artefacts import console, files, steps
from artefacts.paths import RunPaths
from features import columns, config, examples, forgotten, hidden_past, ingest, online_versions, schema, schema_changes
from features.store import Store, StoreSettings
from features.tables import example_days, read_events

# Rows of a block of the catalogue: what one element of the embedding job reads.
CATALOGUE_BLOCK_ROWS = 8192


def make_features(sections: config.FeaturesSections, paths: RunPaths) -> str:
    """Brings examples up to `as_of` and fills a version of the online features, from the snapshots.

    What is there already is kept.

    Returns:
        One line of outcome.
    """
    as_of = sections.as_of
    store = Store(paths.features, store_settings(sections))
    with console.without_chatter():
        store.apply()
    joined, days = _join_examples(sections, paths, store)
    validation = as_of - dt.timedelta(days=sections.validation_days)
    for moment in (validation, as_of):
        _write_catalogue(store, paths, moment)
    version = _fill_online_store(sections, paths)
    return (
        f"{joined:,} examples joined for {days} new days, none lost, none with a younger feature; "
        f"{sections.features.online_store} holds the users at {as_of} as {version}"
    )


def store_settings(sections: config.FeaturesSections) -> StoreSettings:
    """What the feature store of a run is made of."""
    return StoreSettings(
        project=sections.name,
        schema=sections.dataset,
        refresh_days={"user": sections.features.user_refresh_days, "item": sections.features.item_refresh_days},
        online_store=sections.features.online_store,
        redis_connection=sections.features.redis_connection,
        offline_store=sections.features.offline_store,
    )


def keep_catalogue(paths: RunPaths, moment: dt.date) -> None:
    """Writes the catalogue of an earlier midnight again where events that came late have removed it."""
    if not paths.catalogue(moment).exists():
        store = Store.open(paths.features)
        with console.without_chatter():
            _write_catalogue(store, paths, moment)


def _join_examples(sections: config.FeaturesSections, paths: RunPaths, store: Store) -> tuple[int, int]:
    """Joins the days that have no partition; returns how many examples and days."""
    wanted = example_days(
        paths.tables, first=sections.first_day, end=sections.as_of, num_events=sections.features.example_events
    )
    days = examples.missing_days(paths.examples, wanted)
    if not days:
        return 0, 0
    item_ids = _ids(paths.tables, "item")
    joined = 0
    with console.progress("point-in-time joins", total=len(days)) as advance:
        for batch in examples.batches_of(days, sections.features.join_days):
            end, more = batch[-1] + dt.timedelta(days=1), sections.dataset.event_columns
            events = read_events(paths.tables, first_day=batch[0], end_day=end, more=more)
            met = _first_meetings(paths.pairs, batch)
            joined += examples.join_days(
                store, _of_days(events, batch), met=met, item_ids=item_ids, seed=sections.seed, folder=paths.examples
            )
            advance(len(batch))
    return joined, len(days)


def _first_meetings(pairs: Path, days: Sequence[dt.date]) -> pd.Series:
    """First meeting of each pair that met between the first and the last of some days; the others meet at no event."""
    wanted = [columns.USER_ID, columns.ITEM_ID, "first_seconds"]
    begin, end = columns.seconds_of(days[0]), columns.seconds_of(days[-1] + dt.timedelta(days=1))
    parts = []
    with pq.ParquetFile(pairs) as file:
        # All pairs ever are many times those of some days.
        for batch in file.iter_batches(columns=wanted):
            seconds = batch.column("first_seconds")
            parts.append(batch.filter(pc.and_(pc.greater_equal(seconds, begin), pc.less(seconds, end))))
        found = pa.Table.from_batches(parts, schema=pa.schema([schema.PAIRS_SCHEMA.field(name) for name in wanted]))
    frame: pd.DataFrame = found.to_pandas()
    return frame.set_index(wanted[:2])["first_seconds"]


def _fill_online_store(sections: config.FeaturesSections, paths: RunPaths) -> str:
    """Fills the version of `as_of`, which no bundle reads that was made of other features; returns its name."""
    users = paths.catalogue(sections.as_of) / "users.parquet"
    version = online_versions.version_of(sections.as_of, users, sections.dataset)
    paths.features_version.unlink(missing_ok=True)
    with console.without_chatter():
        online_versions.fill(paths.features, store_settings(sections), version)
        if not paths.bundles.exists():
            # Of a comparison: no retention follows.
            for name in online_versions.expired(paths.features, {version}):
                online_versions.remove(paths.features, name)
    files.replace_text(paths.features_version, version)
    online_versions.remove_unversioned(paths.features)
    return version


def _of_days(events: pa.Table, days: Sequence[dt.date]) -> pa.Table:
    """Events of exactly the given days: a run of missing days may have gaps."""
    day = events.column(columns.TIMESTAMP).cast(pa.timestamp("us")).cast(pa.date32())
    return events.filter(pa.compute.is_in(day, value_set=pa.array(days, pa.date32())))


def _write_catalogue(store: Store, paths: RunPaths, moment: dt.date) -> None:
    """Features of everybody and everything at a midnight, in the order of the canonical tables."""
    target = paths.catalogue(moment)
    if target.exists() and all(
        _ids(target, tower).tolist() == _ids(paths.tables, tower).tolist() for tower in schema.TOWERS
    ):
        return
    with steps.fresh_folder(target) as temporary:
        for tower in schema.TOWERS:
            ids = _ids(paths.tables, tower)
            keys = pd.DataFrame({schema.ENTITY_KEY[tower]: ids, columns.EVENT_TIMESTAMP: columns.midnight(moment)})
            joined = store.join(tower, keys)
            pq.write_table(joined, temporary / f"{tower}s.parquet", row_group_size=CATALOGUE_BLOCK_ROWS)


def _ids(tables: Path, tower: schema.Tower) -> npt.NDArray[np.object_]:
    table = pq.read_table(tables / f"{tower}s.parquet", columns=[schema.ENTITY_KEY[tower]])
    ids: npt.NDArray[np.object_] = table.column(0).to_numpy(zero_copy_only=False)
    return ids


def find_schema_changes(sections: config.IngestSections, paths: RunPaths) -> list[schema_changes.SchemaChange]:
    """What changed in the columns since the tables that are there were made; to be asked before `make_tables`.

    Raises:
        SourceError: A declared column is gone from the source.
    """
    before = schema_changes.SchemaFacts.load(paths.tables)
    now = schema_changes.SchemaFacts.of(
        ingest.open_source(sections.ingest.source, schema=sections.dataset), sections.dataset
    )
    return [] if before is None else schema_changes.schema_changes(before, now)


def make_tables(sections: config.IngestSections, paths: RunPaths, *, now: dt.datetime, reuse: bool = True) -> str:
    """Reads the source into canonical tables; returns one line of outcome.

    With `reuse` what is unchanged since the last run is not read again, where the source allows that. Rows of people
    who are forgotten are left out and counted.
    """
    settings = sections.ingest
    changes = find_schema_changes(sections, paths)
    source = ingest.open_source(settings.source, schema=sections.dataset)
    if (hidden := settings.hidden_past) is not None:
        source = source.with_hidden_past(hidden_past.HiddenPast(**dict(hidden)))
    with console.progress("events") as advance:
        summary = ingest.ingest(
            source,
            schema=sections.dataset,
            out=paths.tables,
            chunk_rows=settings.chunk_rows,
            max_quarantine_share=settings.max_quarantine_share,
            now=now,
            progress=advance,
            reuse=reuse,
            forgotten=forgotten.Forgotten.load(paths.forgotten),
        )
    return "; ".join([summary.outcome(), *map(str, changes)])
