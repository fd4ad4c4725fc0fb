"""Bundle: everything that serving needs in one verified folder, then the pointer to it."""

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

from artefacts.console import progress
from artefacts.files import replace_text
from artefacts.paths import RunPaths
from artefacts.steps import digest_of
from features import columns
from features.encoding import Encoder
from features.feast_repo.definitions import SERVICE_NAMES
from features.tables import event_days
from serving.bundles import bundle as layout
from serving.bundles.commit import code_commit
from serving.bundles.folder import size_of
from serving.bundles.manifest import BusinessWeight, DataWindow, Facts
from serving.bundles.publish import BundleExistsError, Parts, publish, write
from serving.bundles.retention import prune_bundles
from serving.config import BundleSections, PublishSections
from serving.open import retrievers_of
from serving.retrieval.eligible import withdrawn_rows
from serving.retrieval.index import INDEX_FILE, INDEXES, REPORT_FILE, VECTORS_FILE, IndexReport
from serving.retrieval.purchases import Purchases
from serving.retrieval.weights import WEIGHTS_FILE, Form, load_weights, weighted
from serving.sparcode.files import SERVED, read_report

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "feast", "apache-beam", "hnswlib", "numpy", "pyarrow")


def make_bundle(
    sections: BundleSections,
    paths: RunPaths,
    *,
    now: dt.datetime,
    made_with: Mapping[str, Any],
    parent: str | None = None,
) -> str:
    """Writes the bundle of a day and verifies it.

    Args:
        sections: What is read of the configuration.
        paths: Where things lie.
        now: The moment that the bundle carries.
        made_with: What all steps up to this one read of the configuration, as its file holds it.
        parent: Version of the bundle that its fit went on from, or was judged beside; None where there was none.

    Returns:
        One line of outcome.
    """
    encoder = Encoder.load(paths.model / "encoder")
    with progress("bundle"):
        facts = _facts(sections, paths, encoder, now=now, made_with=made_with, parent=parent)
        parts = _parts(sections, paths, encoder, made_with, facts.index_report.form)
        try:
            name = write(paths.bundles, parts, facts)
        except BundleExistsError as same:
            name = same.version
        # Refuses, before anybody is served by it, a bundle that cannot answer as configured.
        retrievers_of(layout.Bundle.open(paths.bundles / name), sections.ranking, ef_search=sections.ef_search)
    replace_text(paths.bundle_name, name)
    folder = paths.bundles / name
    size = size_of(folder)
    return f"{name}, {size / 1e6:.0f} MB, verified; model card: {folder / layout.MODEL_CARD}"


def publish_bundle(sections: PublishSections, paths: RunPaths, *, now: dt.datetime) -> str:
    """Has a day's bundle served, and removes what the configuration does not keep; returns one line of outcome."""
    version = paths.bundle_name.read_text()
    publish(paths.bundles, version, moment=now, reason="bundle")
    return f"{version} is served; {prune_bundles(sections.bundles, paths, now=now)}"


def _parts(
    sections: BundleSections, paths: RunPaths, encoder: Encoder, made_with: Mapping[str, Any], form: Form
) -> Parts:
    vectors = ranked = np.load(paths.index / VECTORS_FILE, allow_pickle=False)
    weights = None
    if sections.weight != "none":
        weights = load_weights(paths.index / WEIGHTS_FILE, num_items=len(vectors))
        ranked = weighted(vectors, weights)
    withdrawn = withdrawn_rows(paths)
    items = pq.read_table(paths.tables / "items.parquet")
    category = sections.item_category
    categories = items.column(category) if category else pa.nulls(items.num_rows, pa.string())
    return Parts(
        config_yaml=yaml.safe_dump(dict(made_with), sort_keys=False),
        encoder=encoder,
        user_tower=paths.model / "user_tower.tflite",
        item_tower=paths.model / "item_tower.tflite",
        item_vectors=vectors,
        item_weights=weights,
        sparcode=None if sections.sparcode is None else paths.codes / SERVED,
        index=INDEXES[form].load(paths.index / INDEX_FILE, ranked, withdrawn),
        items=items.select([columns.ITEM_ID, columns.ITEM_NAME]).append_column(layout.CATEGORY, categories),
        purchases=load_purchases(paths.pairs, encoder),
        popularity=_recent_events(paths.catalogue(paths.as_of) / "items.parquet"),
        metrics=_metrics(paths.model / "epochs.json"),
        withdrawn=withdrawn,
    )


def load_purchases(pairs: Path, encoder: Encoder) -> Purchases:
    """Who has met what, by row of the encoder's users and of the catalogue."""
    table = pq.read_table(pairs)
    users = encoder.user_ids.rows(table.column(columns.USER_ID).to_numpy(zero_copy_only=False)).astype(np.int64)
    items = encoder.item_ids.rows(table.column(columns.ITEM_ID).to_numpy(zero_copy_only=False)) - 1
    order = np.lexsort((items, users))
    counts = np.bincount(users, minlength=len(encoder.user_ids))
    return Purchases(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices=items[order].astype(np.int32),
        counts=table.column("num_events").to_numpy()[order].astype(np.int32),
        last_seconds=table.column("last_seconds").to_numpy()[order],
        num_items=len(encoder.item_ids) - 1,
    )


def _recent_events(items: Path) -> npt.NDArray[np.float32]:
    """Events a day of each item of late, by catalogue row: [N]."""
    rate = pq.read_table(items, columns=["item_slow_rate"]).column(0).fill_null(0.0)
    return rate.to_numpy().astype(np.float32)  # type: ignore[no-any-return]


def _metrics(epochs: Path) -> dict[str, Any]:
    """Figures of the last epoch of each phase."""
    phases = json.loads(epochs.read_text())
    return {name: {"loss": reports[-1]["loss"], **reports[-1]["metrics"]} for name, reports in phases.items()}


def _facts(
    sections: BundleSections,
    paths: RunPaths,
    encoder: Encoder,
    *,
    now: dt.datetime,
    made_with: Mapping[str, Any],
    parent: str | None,
) -> Facts:
    days = [day for day in event_days(paths.tables) if day < paths.as_of]
    num_events = sum(pq.ParquetFile(paths.tables / "events" / f"{day}.parquet").metadata.num_rows for day in days)
    specs = [*encoder.input_specs("user"), *encoder.input_specs("item")]
    return Facts(
        dataset=sections.name,
        as_of=paths.as_of,
        created=now,
        data_window=DataWindow(first=days[0], end=paths.as_of, num_events=num_events),
        feature_services=dict(SERVICE_NAMES),
        vocabulary_sizes={spec.name: spec.num_rows for spec in specs if spec.num_rows},
        index_report=IndexReport(**json.loads((paths.index / REPORT_FILE).read_text())),
        business_weight=_business_weight(sections),
        sparcode_report=None if sections.sparcode is None else read_report(paths.codes),
        configuration_digest=digest_of(made_with)[:12],
        code_version=version("twinspire"),
        commit=code_commit(),
        parent=parent,
        seed=sections.seed,
        package_versions={name: version(name) for name in PACKAGES},
    )


def _business_weight(sections: BundleSections) -> BusinessWeight | None:
    if sections.weight == "none":
        return None
    return BusinessWeight(name=sections.weight, power=sections.weight_power)
