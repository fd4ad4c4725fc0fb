"""The sparse index scores as a slow twin does, is read back as it was written, and refuses another catalogue."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.schema import Schema
from serving.retrieval.eligible import everything_but
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import UserQueries
from serving.sparcode.postings import catalogue_digest
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, Query, SparseIndex
from serving.sparse.retriever import Sparse, best_rows
from serving.sparse.terms import count_terms, terms_of
from serving.sparse.typed import TypedWords

DAY, AS_OF = 86_400, 1_512_086_400
ITEM_IDS = [f"i{number}" for number in range(6)]
SCHEMA = Schema.model_validate({"item_columns": {"aisle": "categorical", "kind": "text"}})
ITEMS = pa.table(
    {
        "item_name": [None, "crispbread", None, None, None, None],
        "aisle": ["snacks", "snacks", "dairy", "dairy", "snacks", None],
        "kind": ["rye crackers", "gluten free crackers", "milk", "free range milk", "gluten free crackers", ""],
    }
)
# User 1 has met items 0 and 1, user 2 item 2, user 3 nothing; nobody item 4.
MET = Purchases.from_events(
    np.array([1, 1, 1, 2]), np.array([0, 0, 1, 2]),
    seconds=AS_OF - DAY * np.array([90, 60, 0, 30]), num_users=4, num_items=6,
)  # fmt: skip


def index_of(scoring: Scoring | None = None) -> SparseIndex:
    fields = fields_of(SCHEMA, {"aisle": 0.5, "kind_text": 1.0})
    vocabulary, counts = count_terms(terms_of(ITEMS, fields), fields, num_items=6)
    about = About(catalogue_digest(ITEM_IDS), fields, Scoring(), 60.0, 0.01)
    plain = SparseIndex.build(about, vocabulary, counts, None)
    return plain if scoring is None else replace(plain, about=replace(about, scoring=scoring)).learned_from(MET)


def query_of(index: SparseIndex, text: str) -> Query:
    return TypedWords(index, ITEMS.column("item_name").to_pylist()).understand(text).query


def asked(rows: list[int], *, exclude_known: bool = False, denied: list[int] | None = None) -> UserQueries:
    eligible = everything_but(np.array(denied or [], np.int32), num_items=6)
    moments = np.full(len(rows), AS_OF, np.int64)
    return UserQueries(MET.of(np.array(rows)), moments, exclude_known=exclude_known, eligible=eligible)


def slow_scores(index: SparseIndex, user: int) -> list[float]:
    """The formula in the head of the file, item by item and term by term."""
    own = MET.of(np.array([user]))
    history = zip(own.indices.tolist(), own.counts.tolist(), own.last_seconds.tolist(), strict=True)
    weights = {item: math.log(1 + num) * 2 ** (-(AS_OF - last) / DAY / 60) for item, num, last in history}
    counts, impacts = index.counts.toarray(), index.impacts.toarray()
    scores = [0.0] * 6
    for term in range(len(index.vocabulary)):
        share = sum(weight for item, weight in weights.items() if counts[item, term]) / max(sum(weights.values()), 1e-9)
        field = index.vocabulary.fields[index.vocabulary.field_of[term]]
        for item in range(6):
            scores[item] += field.weight * share / (share + 0.01) * float(impacts[term, item])
    return scores


@pytest.mark.parametrize("user", [1, 2, 3])
@pytest.mark.parametrize("scoring", [None, Scoring(learned_weights=True), Scoring(k1=2.0, expansion_terms=2)])
def test_the_list_of_a_history_is_that_of_a_slow_twin(user: int, scoring: Scoring | None) -> None:
    index = index_of(scoring)
    expected = slow_scores(index, user)
    rows, scores = Sparse(index).retrieve(asked([user]), 6)
    found = [row for row in sorted(range(6), key=lambda row: (-expected[row], row)) if expected[row] > 0]
    assert rows[0].tolist() == found + [-1] * (6 - len(found))
    np.testing.assert_allclose(scores[0, : len(found)], [expected[row] for row in found], rtol=1e-5)


def test_an_item_that_nobody_has_met_is_found_by_its_terms() -> None:
    rows, _ = Sparse(index_of()).retrieve(asked([1], exclude_known=True), 6)
    # Item 3 has no more than "free" of it, and items 2 and 5 nothing.
    assert rows[0].tolist() == [4, 3, -1, -1, -1, -1]


def test_filtered_items_make_room_and_do_not_change_scores() -> None:
    rows, scores = Sparse(index_of()).retrieve(asked([1]), 2)
    left, left_scores = Sparse(index_of()).retrieve(asked([1], denied=[int(rows[0, 0])]), 2)
    assert left[0, 0] == rows[0, 1]
    assert left_scores[0, 0] == scores[0, 1]
    assert rows[0, 0] not in left[0]


def test_equal_scores_are_in_the_order_of_the_catalogue() -> None:
    assert best_rows(np.array([0, 2, 1, 2, 2], np.float32), 2).tolist() == [1, 3]
    assert best_rows(np.array([0, 2, 1, 2, 2], np.float32), 9).tolist() == [1, 3, 4, 2]


def test_typed_words_find_items_by_all_fields_with_words() -> None:
    index = index_of()
    assert np.flatnonzero(index.scores(query_of(index, "Crispbread!"))).tolist() == [1]
    assert np.flatnonzero(index.scores(query_of(index, "GLUTEN-free"))).tolist() == [1, 3, 4]
    # Categories are no words.
    assert not index.scores(query_of(index, "snacks unheard of")).any()


def test_matches_are_the_terms_that_make_the_score_the_strongest_first() -> None:
    index = index_of()
    [query] = index.of_histories(MET.of(np.array([1])), np.array([AS_OF]))
    found = index.matches(query, np.array([4, 2, 5], np.int32), most=3)
    assert found == [["gluten", "crackers", "free"], [], []]
    shares = {index.vocabulary.terms[term]: weight for term, weight in zip(query.terms, query.weights, strict=True)}
    assert shares["crackers"] == pytest.approx(1 / 1.01)
    assert shares["snacks"] == pytest.approx(0.5 / 1.01)


@pytest.mark.parametrize("scoring", [None, Scoring(1.5, 0.5, True, 2, 0.3)])
def test_it_is_read_back_as_it_was_written(tmp_path: Path, scoring: Scoring | None) -> None:
    index = index_of(scoring)
    index.save(tmp_path / "sparse")
    found = SparseIndex.load(tmp_path / "sparse", ITEM_IDS)
    assert found.about == index.about
    assert found.vocabulary.terms == index.vocabulary.terms
    assert found.vocabulary.field_of.tolist() == index.vocabulary.field_of.tolist()
    for one, other in ((found.impacts, index.impacts), (found.counts, index.counts)):
        np.testing.assert_array_equal(one.toarray(), other.toarray())
        assert one.dtype == np.float32
    report = index.report(tmp_path / "sparse")
    assert (report.num_terms, report.num_postings) == (len(index.vocabulary), index.impacts.nnz)
    assert report.num_empty == 1
    assert report.size_bytes == sum(path.stat().st_size for path in (tmp_path / "sparse").iterdir())


def test_an_index_of_other_items_is_refused(tmp_path: Path) -> None:
    index_of().save(tmp_path / "sparse")
    with pytest.raises(ValueError, match=r"is of catalogue .* expected .* run the index step again"):
        SparseIndex.load(tmp_path / "sparse", [*ITEM_IDS[:-1], "other"])


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("impacts_indices", lambda values: values + 100),
        ("counts_data", lambda values: values * np.nan),
        ("counts_indptr", lambda values: values[:-1]),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, part: str, values: object) -> None:
    index_of().save(tmp_path / "sparse")
    path = tmp_path / "sparse" / f"{part}.npy"
    np.save(path, values(np.load(path)))  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"{part.partition('_')[0]} have .* entries that do not fit"):
        SparseIndex.load(tmp_path / "sparse", ITEM_IDS)


def test_rows_of_another_catalogue_keep_their_scores_and_new_ones_have_none() -> None:
    index = index_of()
    other = index.of_items(np.array([4, -1, 2]))
    query = query_of(index, "gluten milk")
    np.testing.assert_array_equal(other.scores(query), index.scores(query)[[4, 5, 2]])
    assert other.num_items == 3


def test_purchases_of_another_catalogue_are_refused() -> None:
    other = Purchases.from_events(np.array([1]), np.array([0]), seconds=np.array([0]), num_users=2, num_items=5)
    with pytest.raises(ValueError, match="purchases are of 5 items, the sparse index of 6"):
        Sparse(index_of()).retrieve(UserQueries(other, np.zeros(2, np.int64)), 3)
