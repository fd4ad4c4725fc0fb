"""Typed words: what they mean, the order of what has them, and items that were added since the index was built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from features.schema import Schema
from serving.retrieval.purchases import Purchases
from serving.retrieval.ranking import Rows, Scores, best_of_each
from serving.retrieval.retrievers import UserQueries
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex
from serving.sparse.more_items import with_items
from serving.sparse.terms import count_terms, terms_of
from serving.sparse.typed import TOWER_SHARE, ByWords, TypedWords

SCHEMA = Schema.model_validate({"item_columns": {"aisle": "categorical", "kind": "text"}})
ITEMS = pa.table(
    {
        "item_name": ["Rye bread", "Bread crumbs", "Rye crackers, rye", "Milk", None, "Bread"],
        "aisle": ["bread", "bread", "snacks", "dairy", "dairy", None],
        "kind": ["bread", "crumbs", "crackers", "milk", "buttermilk", "bread bread"],
    }
)
NAMES = ITEMS.column("item_name").to_pylist()
NUM_ITEMS = len(NAMES)
NOBODY = UserQueries(
    Purchases.from_events(np.array([1]), np.array([0]), seconds=np.array([0]), num_users=1 + 1, num_items=NUM_ITEMS).of(
        np.array([0])
    ),
    np.zeros(1, np.int64),
)


def index_of(items: pa.Table = ITEMS, scoring: Scoring | None = None) -> SparseIndex:
    fields = fields_of(SCHEMA)
    vocabulary, counts = count_terms(terms_of(items, fields), fields, num_items=items.num_rows)
    about = About("digest", fields, scoring or Scoring(), None, 0.01)
    if scoring is None:
        return SparseIndex.build(about, vocabulary, counts, None)
    plain = SparseIndex.build(About("digest", fields, Scoring(), None, 0.01), vocabulary, counts, None)
    met = Purchases.from_events(
        np.array([1, 1, 1, 2, 2, 3]), np.array([0, 1, 5, 2, 3, 3]),
        seconds=np.zeros(6, np.int64), num_users=4, num_items=items.num_rows,
    )  # fmt: skip
    return SparseIndex(about, plain.vocabulary, plain.impacts, plain.counts).learned_from(met)


@dataclass(frozen=True)
class Towers:
    """Scores of its own, for what is offered."""

    scores: tuple[float, ...]
    needs_embeddings: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = False
    finds_all: ClassVar[bool] = True
    fills_up: ClassVar[bool] = True

    def retrieve(self, users: UserQueries, k: int) -> tuple[Rows, Scores]:
        assert users.offered is not None
        rows = np.flatnonzero(users.offered)
        return best_of_each(np.zeros(len(rows), np.int64), rows, scores=np.array(self.scores)[rows], num_users=1, k=k)


@pytest.mark.parametrize(
    ("typed", "meant", "corrected"),
    [
        ("Crumbs, BREAD!", ("crumbs", "bread"), {}),
        ("braed ", ("bread",), {"braed": "bread"}),
        ("brraed ", ("brraed",), {}),  # #br brr rra rae aed ed# and #br bre rea ead ad#: 2 / 11, and two slips
        ("bred ", ("bread",), {"bred": "bread"}),
        ("crackesr rye", ("crackers", "rye"), {"crackesr": "crackers"}),
        # The last word, if nothing follows it, may be unfinished: crackers begins with it, and so does crumbs.
        ("rye cru", ("rye", "crumbs"), {"cru": "crumbs"}),
        ("cru rye", ("crumbs", "rye"), {"cru": "crumbs"}),
        ("b", ("bread",), {"b": "bread"}),
        ("b ", ("b",), {}),
        ("xyz milk", ("xyz", "milk"), {}),
        ("", (), {}),
    ],
)
def test_words_are_understood(typed: str, meant: tuple[str, ...], corrected: dict[str, str]) -> None:
    found = TypedWords(index_of(), NAMES).understand(typed)
    assert (found.words, found.corrected) == (meant, corrected)


def test_an_unknown_word_counts_by_its_similarity_in_every_field_that_has_it() -> None:
    index = index_of()
    query = TypedWords(index, NAMES).understand("milkk bread").query
    weights = {
        (index.vocabulary.fields[index.vocabulary.field_of[term]].name, index.vocabulary.terms[term]): weight
        for term, weight in zip(query.terms.tolist(), query.weights.tolist(), strict=True)
    }
    # #mi mil ilk lkk kk# of milkk: milk has #mi mil ilk lk#, and buttermilk #bu but utt tte ter erm rmi mil ilk lk#.
    # One letter is too many.
    milk = pytest.approx((1 + 2 * 3 / (5 + 4)) / 2)
    assert weights == {
        ("item_name", "bread"): 1.0,
        ("kind_text", "bread"): 1.0,
        ("item_name", "milk"): milk,
        ("kind_text", "milk"): milk,
    }


def test_the_order_is_that_of_the_formula() -> None:
    index, towers = index_of(), Towers((0.0, 8.0, 2.0, 9.0, 9.0, 4.0))
    typed = TypedWords(index, NAMES)
    understood = typed.understand("bread")
    words = index.scores(understood.query).astype(float)
    assert np.flatnonzero(words).tolist() == [0, 1, 5]
    # Of the three, item 5 has the name; its word is in two fields, twice in one of them.
    scaled = {0: 0.0, 1: 1.0, 5: 0.5}
    expected = {
        row: (row == 5) + (words[row] / words.max() + TOWER_SHARE * share) / (1 + TOWER_SHARE)
        for row, share in scaled.items()
    }
    rows, scores = ByWords(typed, understood, towers).retrieve(NOBODY, 4)
    order = sorted(expected, key=lambda row: -expected[row])
    assert rows[0].tolist() == [*order, -1]
    np.testing.assert_allclose(scores[0, :3], [expected[row] for row in order], rtol=1e-6)
    plain, _ = ByWords(typed, understood).retrieve(NOBODY, 4)
    assert plain[0, :3].tolist() == [5, *sorted((0, 1), key=lambda row: -words[row])]


def test_towers_move_no_item_in_front_of_one_whose_words_fit_better_by_more_than_their_share() -> None:
    index = index_of()
    typed = TypedWords(index, NAMES)
    understood = typed.understand("rye crumbs bread")
    words = index.scores(understood.query).astype(float)
    for seed in range(20):
        towers = Towers(tuple(np.random.default_rng(seed).normal(size=NUM_ITEMS).tolist()))
        rows, _ = ByWords(typed, understood, towers).retrieve(NOBODY, NUM_ITEMS)
        found = rows[0][rows[0] >= 0]
        assert sorted(found.tolist()) == np.flatnonzero(words).tolist()
        best_behind = np.maximum.accumulate(words[found][::-1])[::-1]
        assert (words[found] >= best_behind - TOWER_SHARE * words.max() - 1e-6).all()


@pytest.mark.parametrize("scoring", [None, Scoring(1.5, 0.5, True), Scoring(learned_weights=True, expansion_terms=2)])
def test_an_added_item_scores_as_its_twin_in_the_catalogue(scoring: Scoring | None) -> None:
    index = index_of(scoring=scoring)
    more = with_items(index, ITEMS.slice(1, 3))
    assert more.num_items == NUM_ITEMS + 3
    own = index.counts.toarray() > 0
    impacts, before = more.impacts.T.toarray(), index.impacts.T.toarray()
    np.testing.assert_array_equal(impacts[:NUM_ITEMS], before)
    np.testing.assert_allclose(impacts[NUM_ITEMS:], np.where(own, before, 0)[1:4], rtol=1e-5)


def test_an_added_item_is_found_by_words_that_no_other_has() -> None:
    index = index_of()
    added = pa.table({"item_name": ["Zwieback", None], "aisle": ["bread", None], "kind": ["bread", "rusk"]})
    more = with_items(index, added)
    typed = TypedWords(more, [*NAMES, "Zwieback", None])
    for text, row in (("zwieback", NUM_ITEMS), ("Zweiback ", NUM_ITEMS), ("rusk", NUM_ITEMS + 1)):
        rows, _ = ByWords(typed, typed.understand(text)).retrieve(NOBODY, 3)
        assert rows[0].tolist() == [row, -1, -1]
    # As rare as a term can be.
    (term,) = typed.understand("rusk").query.terms
    idf = np.log1p((NUM_ITEMS + 0.5) / 0.5)
    mean_length = 7 / 6  # of `kind` in the catalogue; rusk is one word of one
    expected = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 / mean_length))
    assert more.impacts[int(term), NUM_ITEMS + 1] == pytest.approx(expected)
