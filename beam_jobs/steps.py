"""The steps mine, embed and index: hard negatives, vectors of all users and items, the HNSW graph, its recall."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artefacts import console, steps
from artefacts.paths import RunPaths
from beam_jobs import build_index, build_sparse, config, embed, mine_negatives
from features import schema
from serving.retrieval import eligible, vectors, weights
from serving.retrieval.index import INDEX_FILE, REPORT_FILE, VECTORS_FILE, IndexReport

MARGIN = "margin"


def embed_catalogue(beam: config.BeamConfig, paths: RunPaths) -> str:
    """Runs both towers over the catalogue; returns one line of outcome."""
    counts = {}
    with steps.fresh_folder(paths.vectors) as folder, console.progress("vectors"):
        for tower in schema.TOWERS:
            features = paths.catalogue(paths.as_of) / f"{tower}s.parquet"
            exported = paths.model / f"{tower}_tower.tflite"
            transform = embed.Embed(features, paths.model / "encoder", exported, tower=tower)
            out = folder / f"{tower}s"
            embed.run(transform, features, out=out, options=beam.pipeline_options())
            counts[tower] = vectors.read_vectors(out).shape
    (num_items, dimension), (num_users, _) = counts["item"], counts["user"]
    return f"{num_items:,} item vectors and {num_users:,} user vectors of width {dimension}"


def index_catalogue(sections: config.IndexSections, beam: config.BeamConfig, paths: RunPaths) -> str:
    """Builds and measures the HNSW graph; returns one line of outcome."""
    settings = build_index.IndexSettings(
        m=sections.index.m,
        ef_construction=sections.index.ef_construction,
        ef_search=sections.index.ef_search,
        k=max(sections.ks),
        num_queries=sections.index.num_queries,
        seed=sections.seed,
        min_recall=sections.index.min_recall,
        parts=vectors.read_parts(paths.model),
        target_recall=sections.index.target_recall,
        form=sections.index.form,
    )
    with steps.fresh_folder(paths.index) as folder, console.progress("HNSW index"):
        withdrawn = eligible.write_withdrawn(paths.tables, paths.model / "encoder", folder)
        weighed = (
            ""
            if sections.index.weight == "none"
            else _write_weights(sections.index, paths, folder / weights.WEIGHTS_FILE)
        )
        build_index.run(
            settings,
            items=paths.vectors / "items",
            users=paths.vectors / "users",
            weights=folder / weights.WEIGHTS_FILE if weighed else None,
            withdrawn=withdrawn,
            out=folder,
            options=beam.pipeline_options(),
        )
        report = IndexReport(**json.loads((folder / REPORT_FILE).read_text()))
        sparse = "" if sections.sparse is None else _build_sparse(sections, beam, paths, folder / paths.sparse.name)
    return (
        f"recall@{report.k} {report.recall:.3f} of exact search at ef {report.ef}, over {report.asked()}; "
        f"form {report.form}, {report.built()}{weighed}{sparse}"
    )


def _build_sparse(sections: config.IndexSections, beam: config.BeamConfig, paths: RunPaths, out: Path) -> str:
    """Builds the index over the terms of items; returns what there is to say about it."""
    from serving.sparse import bm25, fields

    sparse = sections.sparse
    assert sparse is not None
    report = build_sparse.run(
        items=paths.tables / "items.parquet",
        pairs=paths.pairs,
        encoder=paths.model / "encoder",
        fields=fields.fields_of(sections.dataset, sparse.fields),
        scoring=bm25.Scoring(**{name: getattr(sparse, name) for name in bm25.Scoring.__dataclass_fields__}),
        half_life_days=sparse.half_life_days,
        saturation=sparse.saturation,
        out=out,
        options=beam.pipeline_options(),
    )
    return (
        f"; sparse index of {report.num_terms:,} terms, {report.num_postings:,} postings, "
        f"{report.size_bytes / 1e6:.1f} MB, {report.num_empty:,} items without a term"
    )


def _write_weights(index: config.IndexConfig, paths: RunPaths, target: Path) -> str:
    """Writes the items' business weights by row of the catalogue; returns what there is to say about them."""
    power = index.weight_power
    found = weights.positive(_item_values(index, paths.catalogue(paths.as_of) / "items.parquet"))
    np.save(target, weights.item_weights(found.values, power=power), allow_pickle=False)
    return (
        f"; weighted by {index.weight}^{power:g}, {found.num_missing:,} of {len(found.values):,} missing and "
        f"counted as the median, {found.num_raised:,} raised to the lowest percentile"
    )


def _item_values(index: config.IndexConfig, items: Path) -> npt.NDArray[np.float64]:
    """Business value of each item by row of the catalogue, nan where it is not known: [N] float64."""
    file = pq.ParquetFile(items)
    if index.weight == "value":
        table = file.read(["item_price", "item_num_events"])
        # An item without events has a mean of 0, which does not mean that it is worth nothing.
        priced = pc.if_else(pc.greater(table.column("item_num_events"), 0), table.column("item_price"), None)
    elif MARGIN in file.schema_arrow.names and pa.types.is_floating(file.schema_arrow.field(MARGIN).type):
        priced = file.read([MARGIN]).column(MARGIN)
    else:
        raise ValueError(
            f"{items}: has no numeric column {MARGIN!r}, which index.weight names; declare it as one under "
            "dataset.item_columns, or choose another weight"
        )
    return priced.cast("float64").to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


USER_BLOCK = 256


def mine(sections: config.MineSections, beam: config.BeamConfig, paths: RunPaths) -> str:
    """Searches with the vectors of an earlier fit for what its users have not met; returns one line of outcome.

    The fit is that of the same day, or the latest one before it. What users have met is taken as of today: an item that
    somebody met since that fit is no negative.

    Raises:
        ValueError: There is no earlier fit, or the catalogue has nothing at these ranks.
    """
    previous = previous_fit(paths)
    report = IndexReport(**json.loads((previous.index / REPORT_FILE).read_text()))
    mining = mine_negatives.MiningSettings(
        band=sections.mined_band,
        per_user=sections.mined_per_user,
        near_duplicate=sections.near_duplicate,
        ef=sections.ef_search or report.ef,
        max_fetch=sections.max_fetch,
        seed=sections.seed,
    )
    users, items = _named_by(previous)
    # An index over weighted vectors ranks by value; what is hard for the towers is a matter of the cosine alone.
    is_weighted = (previous.index / weights.WEIGHTS_FILE).exists()
    withdrawn = previous.index / eligible.WITHDRAWN_FILE
    files = mine_negatives.MiningFiles(
        user_vectors=previous.vectors / "users",
        item_vectors=previous.index / VECTORS_FILE,
        index=None if is_weighted else previous.index / INDEX_FILE,
        users=users,
        items=items,
        pairs=paths.pairs,
        withdrawn=withdrawn if withdrawn.exists() else None,
        form=report.form,
    )
    num_users = pq.ParquetFile(files.users).metadata.num_rows
    with steps.fresh_folder(paths.mined) as folder, console.progress("hard negatives"):
        options = beam.pipeline_options()
        mine_negatives.run(
            mine_negatives.MineNegatives(files, mining),
            num_users=num_users,
            block_size=USER_BLOCK,
            out=folder,
            options=options,
        )
        num_pairs = sum(pq.ParquetFile(file).metadata.num_rows for file in folder.glob("*.parquet"))
        if not num_pairs:
            num_items = pq.ParquetFile(files.items).metadata.num_rows
            raise ValueError(
                f"training.negatives.mined_band is {sections.mined_band}, and none of {num_users:,} users has an item "
                f"there among {num_items:,}; choose lower ranks, or a higher near_duplicate"
            )
    first, last = sections.mined_band
    return (
        f"{num_pairs:,} hard negatives of {num_users:,} users from ranks {first} to {last} of the fit of "
        f"{previous.as_of}"
    )


def previous_fit(paths: RunPaths) -> RunPaths:
    """The day's own finished fit, or the latest before it, among those whose vectors, index and ids are there.

    An index over vectors other than the stored ones is not used: it belongs to another fit.

    Raises:
        ValueError: There is none.
    """
    days = sorted((day for day in _days(paths.vectors.parent) if day <= paths.as_of), reverse=True)
    for day in days:
        fit = RunPaths(paths.root, day, paths.arm)
        needed = [fit.index / VECTORS_FILE, fit.index / INDEX_FILE]
        needed += [fit.vectors / f"{tower}s" for tower in schema.TOWERS]
        needed += _named_by(fit)
        if all(path.exists() for path in needed) and _is_of_one_fit(fit):
            return fit
    raise ValueError(
        f"{paths.vectors.parent}: no fit of {paths.as_of} or before with vectors and an index, expected one to mine "
        "hard negatives with; run once with training.negatives.easy_per_hard: null (and training.hard_model_weight: "
        "null, if it is set), then again with mined ones"
    )


def _named_by(fit: RunPaths) -> list[Path]:
    """Files that tell whose the rows of a fit's user and item vectors are.

    Those of its encoder, which stay: when events of the past change, features are computed again, for the users of
    today.
    """
    encoder, catalogue = fit.model / "encoder", fit.catalogue(fit.as_of)
    of_encoder = [encoder / f"{tower}_ids.parquet" for tower in schema.TOWERS]
    return of_encoder if encoder.is_dir() else [catalogue / f"{tower}s.parquet" for tower in schema.TOWERS]


def _is_of_one_fit(fit: RunPaths) -> bool:
    """Whether the index is over the vectors that lie there: a run may have been broken off between the two steps."""
    indexed = np.load(fit.index / VECTORS_FILE, mmap_mode="r", allow_pickle=False)
    return np.array_equal(indexed, vectors.read_vectors(fit.vectors / "items"))


def _days(folder: Path) -> list[dt.date]:
    """Days that a folder of days holds, in no order; what is half-written has another name."""
    found = []
    for path in folder.glob("????-??-??"):
        try:
            found.append(dt.date.fromisoformat(path.name))
        except ValueError:
            continue
    return found
