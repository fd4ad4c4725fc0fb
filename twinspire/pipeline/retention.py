"""Retention: bundles beyond the configured number or age go, once the day's own is published."""

from __future__ import annotations

import datetime as dt

from serving.retention import prune
from twinspire.config import Config
from twinspire.paths import RunPaths


def prune_bundles(config: Config, paths: RunPaths, *, now: dt.datetime) -> str:
    """Removes what `bundles.keep` and `bundles.max_age_days` exclude; returns one line of outcome."""
    removals = prune(paths.bundles, keep=config.bundles.keep, max_age_days=config.bundles.max_age_days, now=now)
    if not removals:
        return "no bundle removed"
    size = sum(removal.size_bytes for removal in removals)
    return f"{len(removals)} removed, {size / 1e6:.1f} MB: {', '.join(removal.name for removal in removals)}"
