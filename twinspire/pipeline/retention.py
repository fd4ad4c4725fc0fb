"""Retention: bundles and logged lists beyond the configured number or age go, and the files of lists become few."""

from __future__ import annotations

import datetime as dt

from artefacts.paths import RunPaths
from features.forgotten import Forgotten
from serving.exposure_merge import tidy
from serving.retention import prune
from twinspire.config import Config


def prune_bundles(config: Config, paths: RunPaths, *, now: dt.datetime) -> str:
    """Removes what `bundles.keep` and `bundles.max_age_days` exclude; returns one line of outcome."""
    removals = prune(paths.bundles, keep=config.bundles.keep, max_age_days=config.bundles.max_age_days, now=now)
    if not removals:
        return "no bundle removed"
    size = sum(removal.size_bytes for removal in removals)
    return f"{len(removals)} removed, {size / 1e6:.1f} MB: {', '.join(removal.name for removal in removals)}"


def tidy_exposures(config: Config, paths: RunPaths, *, now: dt.datetime) -> list[str]:
    """Removes what `daily.keep_exposure_days` excludes, and merges the files of days before yesterday.

    To be called before the night's steps are planned, as a fit may read what is merged: called once more for the same
    night, it changes nothing that one of them depends on.

    Returns:
        A line for people on what was done, and on each thing that could not be; none where there was nothing to do.
    """
    # A night of a past day leaves alone what came later; one of a day to come does not touch what is being written.
    today = min(paths.as_of, now.date())
    try:
        forgotten = Forgotten.load(paths.forgotten)
    except ValueError as error:
        return [f"exposures are left as they are: {error}"]
    keep_days = config.daily.keep_exposure_days
    tidied = tidy(paths.exposures, today=today, keep_days=keep_days, forgotten=forgotten)
    lines = [f"exposures are left as they are: {problem}" for problem in tidied.problems]
    if tidied.num_removed:
        lines.append(f"exposures: {tidied.num_removed} days removed, older than {keep_days} days")
    if tidied.num_replaced:
        lines.append(f"exposures: {tidied.num_replaced:,} files of finished days merged")
    return lines
