"""The index is the same for the same seed, and its report matches the written graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
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

from beam_jobs.build_index import BuildIndexes, IndexJob, IndexRefusedError, IndexSettings, run
from serving.retrieval.index import INDEXES, AugmentedIndex, read_shape
from serving.retrieval.vectors import vector_schema
from serving.retrieval.weights import item_weights, weighted

NUM_ITEMS, NUM_USERS, DIMENSION = 600, 40, 16
# So few links and so narrow a search that the index misses some: a recall of 1 would prove little.
SETTINGS = IndexSettings(
    m=3, ef_construction=6, ef_search=10, k=10, num_queries=25, seed=4, min_recall=0.1, parts=(DIMENSION,)
)
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
    def build(
        out: Path, settings: IndexSettings = SETTINGS, weights: Path | None = None, withdrawn: Path | None = None
    ) -> dict[str, Any]:
        users = vectors["users"]
        run(
            settings,
            items=vectors["items"],
            users=users,
            weights=weights,
            withdrawn=withdrawn,
            out=out,
            options=options,
        )
        report: dict[str, Any] = json.loads((out / "index_report.json").read_text())
        return report

    return build


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_graph(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path / "one")
    build(tmp_path / "two")
    build(tmp_path / "other", replace(SETTINGS, seed=5))
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


def test_the_report_has_recall_and_cost(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = build(tmp_path)
    assert {name: report[name] for name in ("k", "ef", "num_queries")} == {"k": 10, "ef": 10, "num_queries": 25}
    assert report["size_bytes"] == (tmp_path / "index.hnsw").stat().st_size
    assert report["build_seconds"] > 0


def test_fewer_users_than_requested_are_all_queried_and_a_wide_search_finds_everything(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wide = replace(SETTINGS, m=16, ef_construction=100, ef_search=NUM_ITEMS, num_queries=1000)
    report = build(tmp_path, wide)
    assert (report["num_queries"], report["recall"]) == (NUM_USERS, 1.0)


def test_the_transform_gives_the_path_of_each_report(
    vectors: dict[str, Path], options: PipelineOptions, tmp_path: Path
) -> None:
    given = (str(vectors["items"]), str(vectors["users"]))
    jobs = [IndexJob(*given, str(tmp_path / name), None, None) for name in ("a", "b")]
    with test_pipeline.TestPipeline(options=options) as pipeline:
        reports = pipeline | beam.Create(jobs) | BuildIndexes(SETTINGS)
        assert_that(reports, equal_to([str(tmp_path / name / "index_report.json") for name in ("a", "b")]))
    assert (tmp_path / "a" / "index.hnsw").read_bytes() == (tmp_path / "b" / "index.hnsw").read_bytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose logarithms spread by .5."""
    path: Path = tmp_path_factory.mktemp("weights") / "weights.npy"
    values = np.exp(np.random.default_rng(8).normal(0, 0.5, NUM_ITEMS))
    np.save(path, item_weights(values, power=1.0))
    return path


def test_weights_put_the_items_in_the_order_of_the_weighted_cosines(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    report = build(tmp_path, replace(SETTINGS, ef_search=NUM_ITEMS, min_recall=0.99), weights)
    kept = np.load(tmp_path / "item_weights.npy")
    np.testing.assert_array_equal(kept, np.load(weights))
    plain = unit(NUM_ITEMS, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "item_vectors.npy"), plain)
    index = AugmentedIndex.load(tmp_path / "index.hnsw", weighted(plain, kept))
    rows, _ = index.search(unit(NUM_USERS, 2), k=10, ef=NUM_ITEMS)
    products = (unit(NUM_USERS, 2) @ plain.T) * kept
    np.testing.assert_array_equal(rows, np.argsort(-products, axis=1, kind="stable")[:, :10])
    assert (report["form"], report["recall"]) == ("augmented", 1.0)
    assert report["weight_spread"] == pytest.approx(np.log(kept).std())


def test_withdrawn_items_keep_their_vectors_but_are_neither_in_the_graph_nor_in_its_recall(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    # Whom the users are nearest to, so that a recall over everything could not be 1.
    plain, asked = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)
    withdrawn = np.unique(np.argmax(asked @ plain.T, axis=1)).astype(np.int32)
    file = tmp_path / "rows.npy"
    np.save(file, withdrawn)
    settings = replace(SETTINGS, m=16, ef_construction=100, ef_search=NUM_ITEMS, min_recall=0.99)
    for name, given in (("plain", None), ("weighted", weights)):
        report = build(tmp_path / name, settings, given, file)
        assert report["recall"] == 1.0
        assert read_shape(tmp_path / name / "index.hnsw")[0] == NUM_ITEMS - len(withdrawn)
        np.testing.assert_array_equal(np.load(tmp_path / name / "item_vectors.npy"), plain)
        np.testing.assert_array_equal(np.load(tmp_path / name / "withdrawn.npy"), withdrawn)
        ranked = plain if given is None else weighted(plain, np.load(given))
        index = INDEXES[report["form"]].load(tmp_path / name / "index.hnsw", ranked, withdrawn)
        rows, _ = index.search(asked, k=NUM_ITEMS, ef=5000)
        assert not np.isin(rows, withdrawn).any()


def test_without_withdrawn_items_there_is_no_file_of_them_and_the_graph_is_complete(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path)
    assert read_shape(tmp_path / "index.hnsw")[0] == NUM_ITEMS
    assert not (tmp_path / "withdrawn.npy").exists()


def test_an_index_without_any_offered_item_is_refused(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(NUM_ITEMS, dtype=np.int32))
    with pytest.raises(ValueError, match="all 600 items of the catalogue are withdrawn, expected at least one"):
        build(tmp_path / "out", withdrawn=tmp_path / "rows.npy")
    assert not (tmp_path / "out").exists()


def test_the_report_names_missing_weights(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = build(tmp_path, replace(SETTINGS, parts=(6, 10)))
    assert (report["form"], report["weight_spread"], report["parts"]) == ("ip", 0.0, [6, 10])
    assert not (tmp_path / "item_weights.npy").exists()


def test_an_index_that_misses_too_much_is_refused_and_not_written(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    expected = (
        r"600 items has recall@10 0\.\d+ in the form ip, expected at least 0\.999; .* 0\.00; "
        r"raise ef_search \(10\), m \(3\) or ef_construction \(6\), or lower min_recall"
    )
    with pytest.raises(IndexRefusedError, match=expected):
        build(tmp_path / "out", replace(SETTINGS, min_recall=0.999))
    assert not (tmp_path / "out").exists()


def test_a_weighted_index_is_tried_in_both_forms_before_it_is_refused(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    # By the narrowest beam augmented vectors miss 15 of the 25 first items, vectors as they are 12.
    narrow = replace(SETTINGS, ef_search=1, k=1, min_recall=0.45)
    assert build(tmp_path / "taken", narrow, weights)["form"] == "ip"
    expected = (
        r"0\.400 in the form augmented, 0\.520 in the form ip, expected at least 0\.6; .* 0\.50; lower weight_power"
    )
    with pytest.raises(IndexRefusedError, match=expected):
        build(tmp_path / "out", replace(narrow, min_recall=0.6), weights)


def test_parts_that_are_not_of_these_vectors_are_refused(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"have width 16, expected the sum of the parts \(6, 9\)"):
        build(tmp_path, replace(SETTINGS, parts=(6, 9)))
