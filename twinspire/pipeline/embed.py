"""Embed and index: vectors of every user and item at the cut, the HNSW graph over the items, its recall."""

from __future__ import annotations

import json

from beam_jobs import build_index, embed
from features.schema import TOWERS
from twinspire.config import Config
from twinspire.console import progress
from twinspire.paths import RunPaths
from twinspire.pipeline.features import beam_options
from twinspire.steps import fresh_folder


def embed_catalogue(config: Config, paths: RunPaths) -> str:
    """Runs both towers over the catalogue; returns one line of outcome."""
    with fresh_folder(paths.vectors) as folder, progress("vectors"):
        for tower in TOWERS:
            features = paths.catalogue(config.as_of) / f"{tower}s.parquet"
            transform = embed.Embed(
                features, paths.model / "encoder", paths.model / f"{tower}_tower.tflite", tower=tower
            )
            out = folder / f"{tower}s"
            out.mkdir()
            options = beam_options(config.beam)
            embed.run(transform, features, dimension=config.towers.vector_dim, out=out, options=options)
        counts = {tower: len(embed.read_vectors(folder / f"{tower}s")) for tower in TOWERS}
    return f"{counts['item']:,} item vectors and {counts['user']:,} user vectors of width {config.towers.vector_dim}"


def index_catalogue(config: Config, paths: RunPaths) -> str:
    """Builds and measures the HNSW graph; returns one line of outcome."""
    settings = build_index.IndexSettings(
        m=config.index.m,
        ef_construction=config.index.ef_construction,
        ef_search=config.index.ef_search,
        k=max(config.evaluation.ks),
        num_queries=config.index.num_queries,
        seed=config.seed,
    )
    with fresh_folder(paths.index) as folder, progress("HNSW index"):
        options = beam_options(config.beam)
        build_index.run(
            settings, items=paths.vectors / "items", users=paths.vectors / "users", out=folder, options=options
        )
        report = json.loads((folder / build_index.REPORT_FILE).read_text())
    return (
        f"recall@{report['k']} {report['recall']:.3f} of exact search at ef {report['ef']}, "
        f"{report['size_bytes'] / 1e6:.1f} MB, built in {report['build_seconds']:.1f} s"
    )
