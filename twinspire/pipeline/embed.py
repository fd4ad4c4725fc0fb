"""Embed and index: vectors of every user and item at the cut, the HNSW graph over the items, its recall."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artefacts.console import progress
from artefacts.paths import RunPaths
from artefacts.steps import fresh_folder
from beam_jobs import build_index, embed
from features.schema import TOWERS
from serving.weights import WEIGHTS_FILE, item_weights, positive
from twinspire.config import Config
from twinspire.pipeline.features import beam_options
from twinspire.pipeline.withdrawn import write_withdrawn

# Beside the exported towers of an ensemble: the width of each member's part of the vectors.
PARTS_FILE = "parts.json"
MARGIN = "margin"


def embed_catalogue(config: Config, paths: RunPaths) -> str:
    """Runs both towers over the catalogue; returns one line of outcome."""
    counts = {}
    with fresh_folder(paths.vectors) as folder, progress("vectors"):
        for tower in TOWERS:
            features = paths.catalogue(config.as_of) / f"{tower}s.parquet"
            exported = paths.model / f"{tower}_tower.tflite"
            transform = embed.Embed(features, paths.model / "encoder", exported, tower=tower)
            out = folder / f"{tower}s"
            embed.run(transform, features, out=out, options=beam_options(config.beam))
            counts[tower] = embed.read_vectors(out).shape
    (num_items, dimension), (num_users, _) = counts["item"], counts["user"]
    return f"{num_items:,} item vectors and {num_users:,} user vectors of width {dimension}"


def index_catalogue(config: Config, paths: RunPaths) -> str:
    """Builds and measures the HNSW graph; returns one line of outcome."""
    settings = build_index.IndexSettings(
        m=config.index.m,
        ef_construction=config.index.ef_construction,
        ef_search=config.index.ef_search,
        k=max(config.evaluation.ks),
        num_queries=config.index.num_queries,
        seed=config.seed,
        min_recall=config.index.min_recall,
        parts=read_parts(paths.model),
    )
    with fresh_folder(paths.index) as folder, progress("HNSW index"):
        withdrawn = write_withdrawn(paths, folder)
        weighed = "" if config.index.weight == "none" else _write_weights(config, paths, folder / WEIGHTS_FILE)
        build_index.run(
            settings,
            items=paths.vectors / "items",
            users=paths.vectors / "users",
            weights=folder / WEIGHTS_FILE if weighed else None,
            withdrawn=withdrawn,
            out=folder,
            options=beam_options(config.beam),
        )
        report = json.loads((folder / build_index.REPORT_FILE).read_text())
    return (
        f"recall@{report['k']} {report['recall']:.3f} of exact search at ef {report['ef']}, "
        f"{report['size_bytes'] / 1e6:.1f} MB, built in {report['build_seconds']:.1f} s{weighed}"
    )


def read_parts(model: Path) -> tuple[int, ...]:
    """Widths of the parts of the vectors, as written beside the towers."""
    return tuple(json.loads((model / PARTS_FILE).read_text()))


def _write_weights(config: Config, paths: RunPaths, target: Path) -> str:
    """Writes the items' business weights by row of the catalogue; returns what there is to say about them."""
    power = config.index.weight_power
    found = positive(_item_values(config, paths.catalogue(config.as_of) / "items.parquet"))
    np.save(target, item_weights(found.values, power=power), allow_pickle=False)
    return (
        f"; weighted by {config.index.weight}^{power:g}, {found.num_missing:,} of {len(found.values):,} missing and "
        f"counted as the median, {found.num_raised:,} raised to the lowest percentile"
    )


def _item_values(config: Config, items: Path) -> npt.NDArray[np.float64]:
    """Business value of each item by row of the catalogue, nan where it is not known: [N] float64."""
    file = pq.ParquetFile(items)
    if config.index.weight == "value":
        table = file.read(["item_price", "item_num_events"])
        # An item without events has a mean of 0, which says nothing about what it is worth.
        priced = pc.if_else(pc.greater(table.column("item_num_events"), 0), table.column("item_price"), None)
    elif MARGIN in file.schema_arrow.names and pa.types.is_floating(file.schema_arrow.field(MARGIN).type):
        priced = file.read([MARGIN]).column(MARGIN)
    else:
        raise ValueError(
            f"{items}: has no numeric column {MARGIN!r}, which index.weight names; declare it as one under "
            "dataset.item_columns, or choose another weight"
        )
    return priced.cast("float64").to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
