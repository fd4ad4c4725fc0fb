"""Equal vectors are in an index once, and searches find the items of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.retrieval import exact
from serving.retrieval.distinct import EQUALS_FILE, DistinctIndex, build_index, equal_items, load_index, num_indexed
from serving.retrieval.eligible import NO_ITEMS, EligibleItems, everything_but
from serving.retrieval.index import INDEXES, HnswIndex
from serving.retrieval.index_recall import ExactLists
from serving.retrieval.purchases import Purchases
from serving.retrieval.vector_search import search_eligible
from serving.retrieval.weights import weighted

Vectors = npt.NDArray[np.float32]
BUILT = {"m": 8, "ef_construction": 100, "seed": 1}
every_form = pytest.mark.parametrize("form", INDEXES)


def unit(num_rows: int, seed: int, width: int = 16) -> Vectors:
    drawn = np.random.default_rng(seed).normal(size=(num_rows, width))
    vectors: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def catalogue(num_vectors: int, num_items: int, seed: int) -> Vectors:
    """Items that have few different vectors, some of them many, in any order."""
    rng = np.random.default_rng(seed)
    return unit(num_vectors, seed)[rng.zipf(1.5, num_items) % num_vectors]


def test_items_are_represented_by_the_first_offered_one_with_the_same_vector() -> None:
    a, b, zero, other_zero = [1, 2], [1, 3], [0, 0], [-0.0, 0]
    vectors = np.array([b, a, zero, a, b, other_zero, a], np.float32)
    assert equal_items(vectors).tolist() == [[3, 1], [4, 0], [5, 2], [6, 1]]
    assert equal_items(vectors, np.array([1, 4], np.int32)).tolist() == [[5, 2], [6, 3]]
    assert equal_items(vectors[:3]).shape == (0, 2)


def test_items_without_an_equal_are_the_backends_alone(tmp_path: Path) -> None:
    index = build_index("ip", vectors := unit(20, 1), **BUILT)
    assert type(index) is HnswIndex
    index.save(tmp_path / "index.hnsw")
    assert [path.name for path in tmp_path.iterdir()] == ["index.hnsw"]
    assert type(load_index("ip", tmp_path / "index.hnsw", vectors)) is HnswIndex


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("place", ["first", "last", "between"])
@every_form
def test_thousands_of_equal_vectors_do_not_break_the_graph(form: str, place: str, seed: int) -> None:
    different, queries = unit(600, seed), unit(20, seed + 10)
    same = np.repeat(different[:1], 2000, axis=0)
    parts = {"first": [same, different], "last": [different, same], "between": [different[:300], same, different[300:]]}
    vectors = np.concatenate(parts[place])
    index = build_index(form, vectors, m=16, ef_construction=200, seed=seed)
    # Who is nearest to the equal ones gets nothing else, who is not gets them all together or not at all.
    asked = np.concatenate([queries, different[:1]])
    assert ExactLists.of(vectors, query_embeddings=asked, k=100).shares(index, ef=400).min() > 0.97
    rows, scores = index.search(asked, k=100, ef=400)
    assert all(len(np.unique(row)) == 100 for row in rows)
    np.testing.assert_allclose(scores, np.einsum("ud,ukd->uk", asked, vectors[rows]), atol=1e-5)
    assert (vectors[rows[-1]] == different[0]).all()


@every_form
def test_lists_hold_the_items_of_a_vector_in_catalogue_order_and_end_where_the_items_do(form: str) -> None:
    vectors = np.array([[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    index = build_index(form, vectors, **BUILT, left_out=np.array([2], np.int32))
    query = np.array([[0.6, 0.8]], np.float32)
    for k, expected in ((1, [0]), (2, [0, 3]), (3, [0, 3, 1]), (6, [0, 3, 1, 4, -1, -1])):
        rows, scores = index.search(query, k=k, ef=10)
        assert rows.tolist() == [expected]
        finite = scores[np.isfinite(scores)]
        np.testing.assert_allclose(finite, [{0: 0.8, 3: 0.8}.get(row, 0.6) for row in expected if row >= 0], atol=1e-6)
        assert len(finite) == k - expected.count(-1)


@pytest.mark.parametrize("vector", [[0, 0, 0], [0.6, 0, 0.8]])
@every_form
def test_a_catalogue_of_one_vector_is_searched(form: str, vector: list[float]) -> None:
    vectors = np.repeat(np.array([vector], np.float32), 50, axis=0)
    index = build_index(form, vectors, **BUILT)
    rows, scores = index.search(unit(3, 2, 3), k=60, ef=10)
    assert rows.tolist() == [[*range(50), *[-1] * 10]] * 3
    assert np.isneginf(scores[:, 50:]).all()


@every_form
def test_saved_and_loaded_answers_the_same(form: str, tmp_path: Path) -> None:
    vectors, left_out, queries = catalogue(50, 400, 3), np.array([0, 7, 9], np.int32), unit(9, 5)
    index = build_index(form, vectors, **BUILT, left_out=left_out)
    path = tmp_path / "index.hnsw"
    index.save(path)
    assert INDEXES[form].num_vectors(path) == len(np.unique(np.delete(vectors, left_out, axis=0), axis=0))
    assert num_indexed(form, path) == 397
    loaded = load_index(form, path, vectors, left_out)
    assert loaded.left_out.tolist() == [0, 7, 9]
    for found, same in zip(loaded.search(queries, k=30, ef=60), index.search(queries, k=30, ef=60), strict=True):
        np.testing.assert_array_equal(found, same)
    (tmp_path / EQUALS_FILE).unlink()
    with pytest.raises(ValueError, match="build it again"):
        load_index(form, path, vectors, left_out)


def test_an_index_of_an_earlier_version_that_holds_equal_vectors_is_read(tmp_path: Path) -> None:
    vectors, queries = catalogue(50, 400, 3), unit(9, 5)
    before = HnswIndex.build(vectors, m=8, ef_construction=100, seed=1)
    before.save(tmp_path / "index.hnsw")
    loaded = load_index("ip", tmp_path / "index.hnsw", vectors)
    np.testing.assert_array_equal(loaded.search(queries, k=9, ef=60)[0], before.search(queries, k=9, ef=60)[0])
    assert num_indexed("ip", tmp_path / "index.hnsw") == 400


EQUALS = np.array([[2, 0], [3, 0], [4, 1]], np.int32)


@pytest.mark.parametrize(
    "equals",
    [
        EQUALS.astype(np.int64),
        EQUALS[:, :1],
        EQUALS[::-1],
        np.array([[2, 1], [3, 0], [4, 1]], np.int32),
        np.array([[2, 0], [3, 2], [4, 1]], np.int32),
        np.array([[2, -5], [3, 0], [4, 1]], np.int32),
        np.array([[2, 0], [3, 0], [9, 1]], np.int32),
        np.array([[2, 0], [3, 0], [5, 1]], np.int32),
    ],
)
def test_a_file_of_equal_items_that_is_not_of_these_vectors_is_refused(
    equals: npt.NDArray[np.int32], tmp_path: Path
) -> None:
    a, b = [1, 0], [0, 1]
    vectors, left_out = np.array([a, b, a, a, b, b], np.float32), np.array([5], np.int32)
    path = tmp_path / "index.hnsw"
    build_index("ip", vectors, **BUILT, left_out=left_out).save(path)
    assert np.load(tmp_path / EQUALS_FILE).tolist() == EQUALS.tolist()
    np.save(tmp_path / EQUALS_FILE, equals)
    with pytest.raises(ValueError, match=r"equal_vectors\.npy: (holds int|3 items do not have the vectors)"):
        load_index("ip", path, vectors, left_out)


def test_equal_vectors_with_different_business_weights_are_ranked_by_the_weights() -> None:
    plain = np.repeat(unit(3, 1), 200, axis=0)
    weights = np.tile(np.array([0.25, 0.5, 0.75, 1], np.float32), 150)
    ranked = weighted(plain, weights)
    index = build_index("augmented", ranked, m=32, ef_construction=400, seed=1)
    assert len(equal_items(ranked)) == 600 - 12
    rows, _ = index.search(plain[:1], k=60, ef=100)
    assert rows[0].tolist() == [row for row in range(200) if weights[row] == 1] + list(range(2, 40, 4))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 130),
    max_fetch=st.integers(1, 130),
    share_offered=st.sampled_from([None, 0.9, 0.3, 0.02]),
    num_withdrawn=st.integers(0, 60),
    beam_cost=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_filtered_lists_are_those_of_exact_search(
    seed: int, k: int, max_fetch: int, share_offered: float | None, num_withdrawn: int, beam_cost: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors, asked = catalogue(25, 120, seed), unit(4, seed + 1)
    left_out = np.sort(rng.permutation(120)[:num_withdrawn]).astype(np.int32) if num_withdrawn else NO_ITEMS
    index = build_index("ip", vectors, **BUILT, left_out=left_out)
    assert isinstance(index, DistinctIndex)
    # The first row is of the unknown user, who knows nothing.
    met = np.unique(rng.integers(120, 4 * 120, 90))
    known = Purchases.from_events(
        met // 120, met % 120, seconds=np.zeros(len(met), np.int64), num_users=4, num_items=120
    )
    eligible = everything_but(left_out, num_items=120)
    if share_offered is not None:
        mask = rng.random(120) < share_offered
        mask[left_out] = False
        eligible = EligibleItems(mask)
    rows, scores = search_eligible(
        index, vectors, query_embeddings=asked, known=known, eligible=eligible, k=k, ef=200, max_fetch=max_fetch,
        beam_cost=beam_cost,
    )  # fmt: skip
    wanted, best = exact.search(
        asked, vectors, k=k, exclude=known.csr(), offered=None if eligible is None else eligible.mask
    )
    np.testing.assert_array_equal(rows >= 0, wanted >= 0)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    for user, row in enumerate(rows):
        found = row[row >= 0]
        assert len(np.unique(found)) == len(found)
        assert not np.isin(found, left_out).any()
        assert not np.isin(user * 120 + found, met).any()
        assert eligible is None or eligible.mask[found].all()
