"""Ingest: raw files to canonical tables."""

from __future__ import annotations

import datetime as dt

from artefacts.console import progress
from artefacts.paths import RunPaths
from features.forgotten import Forgotten
from features.ingest import ingest, open_source
from features.schema_changes import SchemaChange, SchemaFacts, schema_changes
from twinspire.config import Config


def find_schema_changes(config: Config, paths: RunPaths) -> list[SchemaChange]:
    """What changed in the columns since the tables that are there were made; to be asked before `make_tables`.

    Raises:
        SourceError: A declared column is gone from the source.
    """
    before = SchemaFacts.load(paths.tables)
    now = SchemaFacts.of(open_source(config.ingest.source, schema=config.dataset), config.dataset)
    return [] if before is None else schema_changes(before, now)


def make_tables(config: Config, paths: RunPaths, *, now: dt.datetime, reuse: bool = True) -> str:
    """Reads the source into canonical tables; returns one line of outcome.

    With `reuse` what is unchanged since the last run is not read again, where the source allows that. Rows of people
    who are forgotten are left out and counted.
    """
    settings = config.ingest
    changes = find_schema_changes(config, paths)
    source = open_source(settings.source, schema=config.dataset)
    with progress("events") as advance:
        summary = ingest(
            source,
            schema=config.dataset,
            out=paths.tables,
            chunk_rows=settings.chunk_rows,
            max_quarantine_share=settings.max_quarantine_share,
            now=now,
            progress=advance,
            reuse=reuse,
            forgotten=Forgotten.load(paths.forgotten),
        )
    return "; ".join([summary.outcome(), *map(str, changes)])
