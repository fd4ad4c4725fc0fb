"""Ingest: raw files to canonical tables."""

from __future__ import annotations

import datetime as dt

from features.ingest import ingest, open_source
from twinspire.config import Config
from twinspire.console import progress
from twinspire.paths import RunPaths


def make_tables(config: Config, paths: RunPaths, *, now: dt.datetime) -> str:
    """Reads the source into canonical tables; returns one line of outcome."""
    settings = config.ingest
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
        )
    return summary.outcome()
