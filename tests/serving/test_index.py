"""Which items are nearest?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from serving import exact
from serving.index import INDEXES, AugmentedIndex, HnswIndex, IndexReport, measure_recall, read_shape


def unit_vectors(count: int, dimension: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    return unit_vectors(500, 16, seed=1)


@pytest.fixture(scope="module")
def queries() -> npt.NDArray[np.float32]:
    return unit_vectors(20, 16, seed=2)


@pytest.fixture(scope="module")
def index(vectors: npt.NDArray[np.float32]) -> HnswIndex:
    return HnswIndex.build(vectors, m=8, ef_construction=100, seed=3)


def test_a_beam_over_the_whole_catalogue_equals_exact_search(
    index: HnswIndex, vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> None:
    rows, scores = index.search(queries, k=30, ef=len(vectors))
    exact_rows, exact_scores = exact.search(queries, vectors, k=30)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)
    assert measure_recall(index, vectors, query_embeddings=queries, k=30, ef=len(vectors)) == 1.0


def test_a_narrow_beam_finds_less(
    index: HnswIndex, vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> None:
    recalls = [measure_recall(index, vectors, query_embeddings=queries, k=5, ef=ef) for ef in (5, 20, 500)]
    assert recalls[0] < recalls[1] <= recalls[2] == 1.0


def test_the_beam_is_never_narrower_than_k(index: HnswIndex, queries: npt.NDArray[np.float32]) -> None:
    rows, scores = index.search(queries, k=100, ef=1)
    assert (rows >= 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_the_same_seed_makes_the_same_file(index: HnswIndex, vectors: npt.NDArray[np.float32], tmp_path: Path) -> None:
    index.save(tmp_path / "first")
    HnswIndex.build(vectors, m=8, ef_construction=100, seed=3).save(tmp_path / "second")
    HnswIndex.build(vectors, m=8, ef_construction=100, seed=4).save(tmp_path / "other")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert (tmp_path / "first").read_bytes() != (tmp_path / "other").read_bytes()


def test_saved_and_loaded_answers_the_same(
    index: HnswIndex, vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    assert read_shape(tmp_path / "index") == (500, 16)
    loaded = HnswIndex.load(tmp_path / "index", vectors)
    for found, expected in zip(loaded.search(queries, k=9, ef=40), index.search(queries, k=9, ef=40), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_k_beyond_the_catalogue_is_padded(index: HnswIndex, queries: npt.NDArray[np.float32]) -> None:
    rows, scores = index.search(queries, k=503, ef=50)
    assert rows.shape == scores.shape == (20, 503)
    assert (np.sort(rows[:, :500], axis=1) == np.arange(500)).all()
    assert (rows[:, 500:] == -1).all()
    assert np.isneginf(scores[:, 500:]).all()


def test_exact_search_takes_over_where_the_graph_reaches_fewer_than_k() -> None:
    # Many equal vectors link only to each other: the graph falls into parts.
    vectors = np.repeat(unit_vectors(4, 8, seed=5), 300, axis=0)
    index = HnswIndex.build(vectors, m=2, ef_construction=2, seed=1)
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index._graph.knn_query(vectors[:3], k=len(vectors))
    rows, scores = index.search(vectors[:3], k=len(vectors), ef=2)
    assert (np.sort(rows, axis=1) == np.arange(len(vectors))).all()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_file_of_another_dimension_is_refused(
    index: HnswIndex, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"shape \[500, 16\], expected \[500, 8\]"):
        HnswIndex.load(tmp_path / "index", vectors[:, :8])
    with pytest.raises(ValueError, match=r"shape \[500, 16\], expected \[499, 16\]"):
        HnswIndex.load(tmp_path / "index", vectors[:499])


@pytest.mark.parametrize(("kept", "message"), [(20, "has 20 bytes"), (5000, "not a readable hnswlib index")])
def test_a_truncated_file_is_refused(
    index: HnswIndex, vectors: npt.NDArray[np.float32], tmp_path: Path, kept: int, message: str
) -> None:
    index.save(tmp_path / "index")
    (tmp_path / "index").write_bytes((tmp_path / "index").read_bytes()[:kept])
    with pytest.raises(ValueError, match=message):
        HnswIndex.load(tmp_path / "index", vectors)


def test_a_vector_that_is_not_finite_is_refused(vectors: npt.NDArray[np.float32]) -> None:
    spoiled = vectors.copy()
    spoiled[42, 3] = np.nan
    with pytest.raises(ValueError, match="vector 42 is not finite"):
        HnswIndex.build(spoiled, m=8, ef_construction=10, seed=1)
    with pytest.raises(ValueError, match=r"shape \(0, 16\)"):
        HnswIndex.build(vectors[:0], m=8, ef_construction=10, seed=1)


def test_a_report_read_from_json_equals_the_one_written() -> None:
    report = IndexReport(
        recall=0.97, k=10, ef=50, num_queries=6, size_bytes=1000, build_seconds=0.1, form="augmented",
        weight_spread=0.3, parts=(31, 33),
    )  # fmt: skip
    assert IndexReport(**json.loads(json.dumps(asdict(report)))) == report


def test_recall_needs_a_query(index: HnswIndex, vectors: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="no query"):
        measure_recall(index, vectors, query_embeddings=vectors[:0], k=5, ef=10)


@pytest.fixture(scope="module")
def long_and_short(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same directions with lengths from 1/9 to 1."""
    lengths = np.exp(np.random.default_rng(6).uniform(np.log(1 / 9), 0, len(vectors)))
    scaled: npt.NDArray[np.float32] = (vectors * lengths[:, None]).astype(np.float32)
    return scaled


def test_both_forms_with_a_beam_over_the_whole_catalogue_equal_exact_search(
    long_and_short: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> None:
    asked = 3 * queries
    expected, expected_scores = exact.search(asked, long_and_short, k=12)
    for form, kind in INDEXES.items():
        index = kind.build(long_and_short, m=40, ef_construction=500, seed=3)
        rows, scores = index.search(asked, k=12, ef=len(long_and_short))
        np.testing.assert_array_equal(rows, expected, err_msg=form)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5, err_msg=form)


def test_an_augmented_index_is_loaded_as_one_and_as_nothing_else(
    long_and_short: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index = AugmentedIndex.build(long_and_short, m=8, ef_construction=100, seed=3)
    index.save(tmp_path / "index")
    assert read_shape(tmp_path / "index") == (500, 17)
    loaded = AugmentedIndex.load(tmp_path / "index", long_and_short)
    for found, same in zip(loaded.search(queries, k=9, ef=40), index.search(queries, k=9, ef=40), strict=True):
        np.testing.assert_array_equal(found, same)
    with pytest.raises(ValueError, match=r"shape \[500, 17\], expected \[500, 16\]"):
        HnswIndex.load(tmp_path / "index", long_and_short)


def test_an_index_over_other_vectors_is_refused(
    index: HnswIndex, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="holds another vector of item 0 than the one given"):
        HnswIndex.load(tmp_path / "index", np.float32(1.01) * vectors)


def test_an_augmented_index_pads_and_stays_whole_where_many_vectors_are_equal() -> None:
    vectors = np.repeat(unit_vectors(4, 8, seed=5), 300, axis=0)
    index = AugmentedIndex.build(vectors, m=2, ef_construction=2, seed=1)
    rows, scores = index.search(vectors[:3], k=len(vectors) + 2, ef=2)
    assert (np.sort(rows[:, :-2], axis=1) == np.arange(len(vectors))).all()
    assert (rows[:, -2:] == -1).all()
    assert (np.diff(scores[:, :-2], axis=1) <= 0).all()
