"""Index backends: nearest items, files, and items that are left out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from serving.retrieval import exact
from serving.retrieval.exact_index import ExactIndex
from serving.retrieval.index import INDEXES, AugmentedIndex, HnswIndex, IndexReport, read_shape
from serving.retrieval.index_recall import measure_recall
from serving.retrieval.weights import FORMS, Form


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


def test_a_short_list_in_the_batch_does_not_change_the_lists_of_the_others() -> None:
    # Two places far apart with so many vectors that each is a part of the graph: who asks the small one gets too few.
    rng = np.random.default_rng(1)
    places = np.repeat(np.eye(8, dtype=np.float32)[:2], (30, 470), axis=0)
    vectors = (places + 1e-3 * rng.normal(size=places.shape)).astype(np.float32)
    index = HnswIndex.build(vectors, m=2, ef_construction=4, seed=1)
    asked = np.concatenate([vectors[:3], vectors[30:40]])
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index._graph.knn_query(asked, k=60)
    rows, scores = index.search(asked, k=60, ef=60)
    for user, query in enumerate(asked):
        alone, alone_scores = index.search(query[None], k=60, ef=60)
        np.testing.assert_array_equal(rows[user], alone[0])
        np.testing.assert_array_equal(scores[user], alone_scores[0])
    # Some are of the graph, which misses what exact search finds.
    assert (rows != exact.search(asked, vectors, k=60)[0]).any()


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
        weight_spread=0.3, parts=(31, 33), m=32, num_vectors=99, num_below_half=2,
    )  # fmt: skip
    assert IndexReport(**json.loads(json.dumps(asdict(report)))) == report


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


LEFT_OUT = np.sort(np.random.default_rng(9).permutation(500)[:60]).astype(np.int32)


def offered_alone(queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """The k best of the other rows by sorting all products."""
    products = queries @ vectors.T
    products[:, LEFT_OUT] = -np.inf
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("form", INDEXES)
def test_excluded_items_are_never_found_however_wide_the_beam(
    form: Form, long_and_short: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> None:
    index = INDEXES[form].build(long_and_short, m=40, ef_construction=500, seed=3, left_out=LEFT_OUT)
    # Whom these vectors are, what is left out would come first.
    asked = np.concatenate([queries, long_and_short[LEFT_OUT]])
    for k, ef in ((12, 12), (12, 5000), (440, 5000)):
        rows, _ = index.search(asked, k=k, ef=ef)
        assert (rows >= 0).all()
        assert not np.isin(rows, LEFT_OUT).any()
    rows, scores = index.search(asked, k=12, ef=500)
    np.testing.assert_array_equal(rows, offered_alone(asked, long_and_short, 12))
    np.testing.assert_allclose(scores, np.take_along_axis(asked @ long_and_short.T, rows, axis=1), atol=1e-5)


def test_lists_are_padded_after_the_offered_items(
    vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> None:
    index = HnswIndex.build(vectors, m=8, ef_construction=100, seed=3, left_out=LEFT_OUT)
    rows, scores = index.search(queries, k=500, ef=50)
    assert (np.sort(rows[:, :440], axis=1) == np.delete(np.arange(500), LEFT_OUT)).all()
    assert (rows[:, 440:] == -1).all()
    assert np.isneginf(scores[:, 440:]).all()


@pytest.mark.parametrize("form", FORMS)
def test_exact_search_takes_over_without_excluded_items(form: Form) -> None:
    vectors = np.repeat(unit_vectors(4, 8, seed=5), 300, axis=0)
    left_out = np.arange(0, 1200, 3, dtype=np.int32)
    index = INDEXES[form].build(vectors, m=2, ef_construction=2, seed=1, left_out=left_out)
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index._graph.knn_query(index._asked(vectors[:3]), k=800)
    rows, _ = index.search(vectors[:3], k=1200, ef=2)
    assert (np.sort(rows[:, :800], axis=1) == np.delete(np.arange(1200), left_out)).all()
    assert (rows[:, 800:] == -1).all()


@pytest.mark.parametrize("form", FORMS)
def test_an_index_is_loaded_with_its_own_excluded_items_only(
    form: Form, long_and_short: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    kind, path = INDEXES[form], tmp_path / "index"
    index = kind.build(long_and_short, m=8, ef_construction=100, seed=3, left_out=LEFT_OUT)
    index.save(path)
    loaded = kind.load(path, long_and_short, LEFT_OUT)
    np.testing.assert_array_equal(loaded.left_out, LEFT_OUT)
    for found, same in zip(loaded.search(queries, k=9, ef=40), index.search(queries, k=9, ef=40), strict=True):
        np.testing.assert_array_equal(found, same)
    with pytest.raises(ValueError, match=r"shape \[440, 1[67]\], expected \[500, 1[67]\]; build it again"):
        kind.load(path, long_and_short)
    with pytest.raises(ValueError, match=r"expected \[441, 1[67]\]: 500 items, 59 of them left out; build it again"):
        kind.load(path, long_and_short, LEFT_OUT[1:])
    # As many, and one of them another one.
    other = np.sort(np.append(LEFT_OUT[1:], np.setdiff1d(np.arange(500), LEFT_OUT)[7])).astype(np.int32)
    with pytest.raises(ValueError, match=rf"has no item {LEFT_OUT[0]}, expected all 440 that are offered"):
        kind.load(path, long_and_short, other)


def test_a_graph_with_excluded_items_is_refused(
    index: HnswIndex, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"shape \[500, 16\], expected \[440, 16\]: 500 items, 60 of them left out"):
        HnswIndex.load(tmp_path / "index", vectors, LEFT_OUT)


@pytest.mark.parametrize("rows", [[3, 1], [1, 1], [-1, 3], [3, 500]])
def test_rows_that_cannot_be_left_out_are_refused(vectors: npt.NDArray[np.float32], rows: list[int]) -> None:
    with pytest.raises(ValueError, match=r"left out are \[.*\], expected them to ascend within 0 to 499"):
        HnswIndex.build(vectors, m=8, ef_construction=10, seed=1, left_out=np.array(rows, np.int32))


def test_an_index_without_any_offered_item_is_refused(vectors: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="all 500 items of the catalogue are withdrawn, expected at least one"):
        HnswIndex.build(vectors, m=8, ef_construction=10, seed=1, left_out=np.arange(500, dtype=np.int32))


def test_the_exact_form_is_loaded_with_its_own_items_only(vectors: npt.NDArray[np.float32], tmp_path: Path) -> None:
    path = tmp_path / "index.hnsw"
    ExactIndex.build(vectors, m=2, ef_construction=1, seed=1, left_out=LEFT_OUT).save(path)
    assert ExactIndex.num_vectors(path) == 440
    with pytest.raises(ValueError, match="holds 440 rows, expected those of 500 items without the 0 that are left out"):
        ExactIndex.load(path, vectors)
    with pytest.raises(ValueError, match="holds 440 rows, expected those of 500 items without the 60"):
        ExactIndex.load(path, vectors, np.arange(60, dtype=np.int32))
