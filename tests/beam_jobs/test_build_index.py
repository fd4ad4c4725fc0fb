"""Is the index the same each time, and does its report tell the truth about it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import hnswlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.build_index import BuildIndexes, IndexSettings, run
from beam_jobs.embed import vector_schema

NUM_ITEMS, NUM_USERS, DIMENSION = 600, 40, 16
# So few links and so narrow a search that the index misses some: a recall of 1 would prove little.
SETTINGS = IndexSettings(m=3, ef_construction=6, ef_search=10, k=10, num_queries=25, seed=4)
Vectors = npt.NDArray[np.float32]


def unit(num_rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, DIMENSION))
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of vectors whose rows are out of order, as parallel workers leave them."""
    made = {}
    for name, values in (("items", unit(NUM_ITEMS, 1)), ("users", unit(NUM_USERS, 2))):
        made[name] = tmp_path_factory.mktemp(name)
        rows = np.random.default_rng(3).permutation(len(values))
        listed = pa.FixedSizeListArray.from_arrays(values[rows].ravel(), DIMENSION)
        table = pa.table([pa.array(rows), listed], schema=vector_schema(DIMENSION))
        pq.write_table(table, made[name] / "vectors-00000-of-00001.parquet")
    return made


@pytest.fixture(scope="module")
def build(vectors: dict[str, Path], options: PipelineOptions) -> Callable[..., dict[str, Any]]:
    def build(out: Path, settings: IndexSettings = SETTINGS) -> dict[str, Any]:
        run(settings, items=vectors["items"], users=vectors["users"], out=out, options=options)
        report: dict[str, Any] = json.loads((out / "index_report.json").read_text())
        return report

    return build


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_graph(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path / "one")
    build(tmp_path / "two")
    build(tmp_path / "other", IndexSettings(**{**vars(SETTINGS), "seed": 5}))
    graphs = {name: (tmp_path / name / "index.hnsw").read_bytes() for name in ("one", "two", "other")}
    assert graphs["one"] == graphs["two"] != graphs["other"]
    saved = {name: (tmp_path / name / "item_vectors.npy").read_bytes() for name in graphs}
    assert saved["one"] == saved["two"] == saved["other"]


def test_item_vectors_are_saved_in_the_order_of_their_rows(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "item_vectors.npy"), unit(NUM_ITEMS, 1))


def test_the_reported_recall_is_that_of_the_written_graph_against_all_products(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = build(tmp_path)
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.load_index(str(tmp_path / "index.hnsw"))
    graph.set_ef(10)
    asked = unit(NUM_USERS, 2)[np.random.default_rng(4).choice(NUM_USERS, 25, replace=False)]
    found, _ = graph.knn_query(asked, k=10, num_threads=1)
    exact = np.argsort(-asked @ unit(NUM_ITEMS, 1).T, axis=1)[:, :10]
    hits = sum(len(set(mine) & set(right)) for mine, right in zip(found.tolist(), exact.tolist(), strict=True))
    assert report["recall"] == pytest.approx(hits / 250)
    assert 0.3 < report["recall"] < 1


def test_the_report_says_what_was_measured_and_what_it_costs(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = build(tmp_path)
    assert {name: report[name] for name in ("k", "ef", "num_queries")} == {"k": 10, "ef": 10, "num_queries": 25}
    assert report["size_bytes"] == (tmp_path / "index.hnsw").stat().st_size
    assert report["build_seconds"] > 0


def test_fewer_users_than_asked_for_are_all_asked_and_a_wide_search_finds_everything(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wide = IndexSettings(m=16, ef_construction=100, ef_search=NUM_ITEMS, k=10, num_queries=1000, seed=4)
    report = build(tmp_path, wide)
    assert (report["num_queries"], report["recall"]) == (NUM_USERS, 1.0)


def test_the_transform_gives_the_path_of_each_report(
    vectors: dict[str, Path], options: PipelineOptions, tmp_path: Path
) -> None:
    folders = [(str(vectors["items"]), str(vectors["users"]), str(tmp_path / name)) for name in ("a", "b")]
    with test_pipeline.TestPipeline(options=options) as pipeline:
        reports = pipeline | beam.Create(folders) | BuildIndexes(SETTINGS)
        assert_that(reports, equal_to([str(tmp_path / name / "index_report.json") for name in ("a", "b")]))
    assert (tmp_path / "a" / "index.hnsw").read_bytes() == (tmp_path / "b" / "index.hnsw").read_bytes()
