"""The steps of serving: make a bundle, publish it, remove old bundles and exposures."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from artefacts import console, files, steps
from artefacts.paths import EPOCHS, RunPaths
from features import columns, encoding, tables
from features.forgotten import Forgotten
from features.schema import SERVICE_NAMES
from serving.bundles import bundle as layout
from serving.bundles import manifest, publish
from serving.bundles.folder import size_of
from serving.bundles.retention import Removal, prune, prune_features
from serving.config import BundleSections, PublishSections
from serving.exposures.files import tidy
from serving.registry import cold_lane_of, retrievers_of
from serving.retrieval import distinct, eligible, index, purchases
from serving.retrieval.weights import WEIGHTS_FILE, load_weights, weighted
from serving.second_look import files as second_look
from serving.served import Served
from serving.sparcode.files import SERVED, read_report
from serving.sparse.index import SparseReport

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "feast", "apache-beam", "hnswlib", "numpy", "pyarrow")


def make_bundle(
    sections: BundleSections,
    paths: RunPaths,
    *,
    now: dt.datetime,
    made_with: Mapping[str, Any],
    served: Served,
    parent: str | None = None,
) -> str:
    """Writes the bundle of a day and verifies it.

    Args:
        sections: What is read of the configuration.
        paths: Of the run folder.
        now: The moment that the bundle carries.
        made_with: What all steps up to this one read of the configuration, as its file holds it.
        served: What it serves by default.
        parent: Version of the bundle that the fit is a warm start from or was compared with; None where there was none.

    Returns:
        One line of outcome.
    """
    encoder = encoding.Encoder.load(paths.model / "encoder")
    with console.progress("bundle"):
        facts = _facts(sections, paths, encoder, now=now, made_with=made_with, served=served, parent=parent)
        parts = _parts(sections, paths, encoder, made_with, facts.index_report.form)
        try:
            name = publish.write(paths.bundles, parts, facts)
        except publish.BundleExistsError as same:
            name = same.version
        # Before it is published: a bundle that cannot answer as configured is an error.
        bundle = layout.Bundle.open(paths.bundles / name)
        retrievers_of(bundle, sections.ranking, ef_search=sections.ef_search)
        cold_lane_of(bundle, sections.ranking)
    files.replace_text(paths.bundle_name, name)
    folder = paths.bundles / name
    size = size_of(folder)
    return f"{name}, {size / 1e6:.0f} MB, verified; serves {served}; model card: {folder / layout.MODEL_CARD}"


def publish_bundle(sections: PublishSections, paths: RunPaths, *, now: dt.datetime) -> str:
    """Publishes the bundle of a day and removes those that expired; returns one line of outcome."""
    version = paths.bundle_name.read_text()
    publish.publish(paths.bundles, version, moment=now, reason="bundle")
    removals, problems = prune_bundles(sections, paths, now=now)
    size = sum(removal.size_bytes for removal in removals)
    removed = f"{len(removals)} removed, {size / 1e6:.1f} MB: {', '.join(removal.name for removal in removals)}"
    return "; ".join([f"{version} published", removed if removals else "no bundle removed", *problems])


def prune_bundles(
    sections: PublishSections, paths: RunPaths, *, now: dt.datetime, dry_run: bool = False
) -> tuple[list[Removal], list[str]]:
    """Removes the bundles that `keep` and `max_age_days` exclude, and online features that no bundle names any more.

    Args:
        sections: What is read of the configuration.
        paths: Of the run folder.
        now: The moment that ages are counted to.
        dry_run: Whether to remove nothing.

    Returns:
        What went, or would; and why something could not be removed now.
    """
    pinned = [arm.bundle for arm in sections.arms if arm.bundle is not None]
    limits = sections.bundles
    removals = prune(
        paths.bundles, keep=limits.keep, max_age_days=limits.max_age_days, now=now, pinned=pinned, dry_run=dry_run
    )
    gone = [removal.name for removal in removals]
    features, problems = prune_features(paths.features, paths.bundles, gone=gone, dry_run=dry_run)
    return [*removals, *features], problems


def tidy_exposures(keep_days: int | None, paths: RunPaths, *, now: dt.datetime) -> list[str]:
    """Removes exposures older than `keep_days`, and merges the files of days before yesterday.

    To be called before the night's steps are planned, as a fit may read what is merged: called once more for the same
    night, it changes nothing that one of them depends on.

    Args:
        keep_days: Days whose exposures are kept; None keeps all.
        paths: Of the run folder.
        now: The moment of the run.

    Returns:
        A line for people on what was done, and on each thing that could not be; none where there was nothing to do.
    """
    # A night of a past day leaves alone what came later; one of a day to come does not touch what is being written.
    today = min(paths.as_of, now.date())
    try:
        forgotten = Forgotten.load(paths.forgotten)
    except ValueError as error:
        return [f"exposures are left as they are: {error}"]
    tidied = tidy(paths.exposures, today=today, keep_days=keep_days, forgotten=forgotten)
    lines = [f"exposures are left as they are: {problem}" for problem in tidied.problems]
    if tidied.num_removed:
        lines.append(f"exposures: {tidied.num_removed} days removed, older than {keep_days} days")
    if tidied.num_replaced:
        lines.append(f"exposures: {tidied.num_replaced:,} files of finished days merged")
    return lines


def _parts(
    sections: BundleSections, paths: RunPaths, encoder: encoding.Encoder, made_with: Mapping[str, Any], form: str
) -> publish.Parts:
    vectors = ranked = np.load(paths.index / index.VECTORS_FILE, allow_pickle=False)
    weights = None
    if sections.weight != "none":
        weights = load_weights(paths.index / WEIGHTS_FILE, num_items=len(vectors))
        ranked = weighted(vectors, weights)
    withdrawn = eligible.withdrawn_rows(paths.tables, paths.model / "encoder")
    items = pq.read_table(paths.tables / "items.parquet")
    category = sections.item_category
    categories = items.column(category) if category else pa.nulls(items.num_rows, pa.string())
    described = items.select([columns.ITEM_ID, columns.ITEM_NAME]).append_column(layout.CATEGORY, categories)
    if sections.item_family:
        described = described.append_column(layout.FAMILY, items.column(sections.item_family))
    return publish.Parts(
        config_yaml=yaml.safe_dump(dict(made_with), sort_keys=False),
        encoder=encoder,
        user_tower=paths.model / "user_tower.tflite",
        item_tower=paths.model / "item_tower.tflite",
        item_vectors=vectors,
        item_weights=weights,
        sparcode=None if sections.sparcode is None else paths.codes / SERVED,
        index=distinct.load_index(form, paths.index / index.INDEX_FILE, ranked, withdrawn),
        items=described,
        purchases=purchases.Purchases.from_pairs(paths.pairs, user_ids=encoder.user_ids, item_ids=encoder.item_ids),
        popularity=recent_events(paths.catalogue(paths.as_of) / "items.parquet"),
        metrics=_metrics(paths.model / EPOCHS),
        withdrawn=withdrawn,
        sparse=paths.sparse if paths.sparse.exists() else None,
        second_look=_second_look(sections, paths),
    )


RECENT_EVENTS = "item_slow_rate"
"""Statistic of items: events a day of late."""


def recent_events(items: Path) -> npt.NDArray[np.float32]:
    """Events a day of each item of late, by catalogue row: [N]."""
    rate = pq.read_table(items, columns=[RECENT_EVENTS]).column(0).fill_null(0.0)
    return rate.to_numpy().astype(np.float32)  # type: ignore[no-any-return]


def _metrics(epochs: Path) -> dict[str, Any]:
    """Figures of the epoch that each phase kept."""
    phases = json.loads(epochs.read_text())
    kept = {name: next(report for report in reports if report["is_kept"]) for name, reports in phases.items()}
    return {name: {"loss": report["loss"], **report["metrics"]} for name, report in kept.items()}


def _facts(
    sections: BundleSections,
    paths: RunPaths,
    encoder: encoding.Encoder,
    *,
    now: dt.datetime,
    made_with: Mapping[str, Any],
    served: Served,
    parent: str | None,
) -> manifest.Facts:
    days = [day for day in tables.event_days(paths.tables) if day < paths.as_of]
    num_events = sum(pq.ParquetFile(paths.tables / "events" / f"{day}.parquet").metadata.num_rows for day in days)
    specs = [*encoder.input_specs("user"), *encoder.input_specs("item")]
    return manifest.Facts(
        dataset=sections.name,
        as_of=paths.as_of,
        created=now,
        data_window=manifest.DataWindow(first=days[0], end=paths.as_of, num_events=num_events),
        feature_services=dict(SERVICE_NAMES),
        features_version=paths.features_version.read_text(),
        vocabulary_sizes={spec.name: spec.num_rows for spec in specs if spec.num_rows},
        index_report=index.IndexReport(**json.loads((paths.index / index.REPORT_FILE).read_text())),
        business_weight=_business_weight(sections),
        sparcode_report=None if sections.sparcode is None else read_report(paths.codes),
        sparse_report=_sparse_report(paths),
        second_look_report=_second_look_report(sections, paths),
        served=served,
        configuration_digest=steps.digest_of(made_with)[:12],
        code_version=version("twinspire"),
        commit=manifest.code_commit(),
        parent=parent,
        seed=sections.seed,
        package_versions={name: version(name) for name in PACKAGES},
    )


def _sparse_report(paths: RunPaths) -> SparseReport | None:
    if not paths.sparse.exists():
        return None
    return SparseReport(**json.loads(paths.sparse.with_suffix(".json").read_text()))


def _second_look(sections: BundleSections, paths: RunPaths) -> Path | None:
    """The files of the day's second look; None where none was fitted."""
    folder = paths.second_look / second_look.SERVED
    return folder if sections.ranking.second_look is not None and folder.exists() else None


def _second_look_report(sections: BundleSections, paths: RunPaths) -> second_look.SecondLookReport | None:
    folder = _second_look(sections, paths)
    return None if folder is None else second_look.read_report(folder)


def _business_weight(sections: BundleSections) -> manifest.BusinessWeight | None:
    if sections.weight == "none":
        return None
    return manifest.BusinessWeight(name=sections.weight, power=sections.weight_power)
