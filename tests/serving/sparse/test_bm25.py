"""BM25 equals a slow twin; term weights and expansion are what counting by hand gives."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from serving.sparse.bm25 import RIDGE, Scoring, count_buyers, expansion, impacts_of, learned_weights

# Five items, terms 0 to 2 of field 0, terms 3 and 4 of field 1.
COUNTS = sp.csr_array(
    np.array([[1, 0, 2, 1, 0], [0, 1, 0, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], float)
)
FIELD_OF = np.array([0, 0, 0, 1, 1], np.int16)
# Users by items.
MET = sp.csr_array(np.array([[3, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 2, 0]]))
EVERY_TERM = np.ones(5, bool)


def slow_bm25(counts: np.ndarray, field_of: np.ndarray, scoring: Scoring) -> np.ndarray:
    """Each impact by itself, as the formula in the head of the file reads."""
    num_items, num_terms = counts.shape
    found = np.zeros(counts.shape)
    for term in range(num_terms):
        having = sum(counts[item, term] > 0 for item in range(num_items))
        idf = math.log(1 + (num_items - having + 0.5) / (having + 0.5))
        of_field = [other for other in range(num_terms) if field_of[other] == field_of[term]]
        lengths = [sum(counts[item, other] for other in of_field) for item in range(num_items)]
        mean = sum(lengths) / max(sum(length > 0 for length in lengths), 1)
        for item in range(num_items):
            occurs = counts[item, term]
            if occurs:
                norm = 1 - scoring.b + scoring.b * lengths[item] / mean
                found[item, term] = idf * occurs * (scoring.k1 + 1) / (occurs + scoring.k1 * norm)
    return found


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(k1=0.5, b=0.0), Scoring(k1=3.0, b=1.0), Scoring(k1=0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_impacts_are_those_of_a_slow_twin(scoring: Scoring, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.4, size=(30, 12)).astype(float)
    field_of = np.sort(rng.integers(0, 3, 12)).astype(np.int16)
    found = impacts_of(sp.csr_array(counts), field_of, scoring, None)
    np.testing.assert_allclose(found.toarray(), slow_bm25(counts, field_of, scoring), rtol=1e-12)


def test_a_catalogue_without_terms_has_no_impacts() -> None:
    assert impacts_of(sp.csr_array((3, 0)), np.zeros(0, np.int16), Scoring(), None).nnz == 0


def test_a_term_weighs_more_the_more_of_its_buyers_have_it_by_another_item_too() -> None:
    counted = count_buyers(MET, COUNTS, Scoring(learned_weights=True), expands=EVERY_TERM)
    # Of purchases with term 0: user 0 by items 0 and 2, user 1 by item 0, user 2 by item 2; only user 0 has it again.
    assert counted.bought.tolist() == [4, 4, 4, 4, 2]
    assert counted.bought_again.tolist() == [2, 2, 2, 2, 0]
    field_mean = (2 + 2 + 2) / (4 + 4 + 4)
    found = learned_weights(counted, FIELD_OF)
    assert found[1] == pytest.approx((2 + RIDGE * field_mean) / (4 + RIDGE))
    assert found[4] == pytest.approx((0 + RIDGE * 2 / 6) / (2 + RIDGE))
    weighed = impacts_of(COUNTS, FIELD_OF, Scoring(learned_weights=True), counted)
    plain = impacts_of(COUNTS, FIELD_OF, Scoring(), None)
    np.testing.assert_allclose(weighed.toarray(), plain.toarray() * found)


def test_counts_of_groups_of_users_add_up_to_those_of_all() -> None:
    scoring = Scoring(learned_weights=True, expansion_terms=2)
    whole = count_buyers(MET, COUNTS, scoring, expands=EVERY_TERM)
    parts = [count_buyers(MET[rows], COUNTS, scoring, expands=EVERY_TERM) for rows in ([0], [1, 2], [3])]
    total = parts[0] + parts[1] + parts[2]
    assert total.num_users == whole.num_users == 4
    for name in ("bought", "bought_again", "having"):
        np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))
    np.testing.assert_array_equal(total.together.toarray(), whole.together.toarray())


def test_an_item_gets_the_terms_that_its_buyers_have_and_none_of_its_own() -> None:
    # Ten users: six have met items 0 and 1, four only item 2. Items 0 and 1 have a term each, item 3 that of item 0.
    counts = sp.csr_array(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], float))
    met = sp.csr_array(np.array([[1, 1, 0, 0]] * 6 + [[0, 0, 1, 0]] * 4))
    scoring = Scoring(expansion_terms=1, expansion_weight=0.5)
    counted = count_buyers(met, counts, scoring, expands=np.ones(3, bool))
    found = expansion(counts, counted, most=1).toarray()
    # All who have term 0 have term 1, six in ten of all users do: 1 - .6; nothing goes with term 2.
    np.testing.assert_allclose(found, [[0, 0.4, 0], [0.4, 0, 0], [0, 0, 0], [0, 0.4, 0]])
    plain = impacts_of(counts, np.zeros(3, np.int16), Scoring(), None).toarray()
    both = impacts_of(counts, np.zeros(3, np.int16), scoring, counted).toarray()
    idf_of_term_1 = math.log(1 + 3.5 / 1.5)
    # Item 3 was met by none, and has it of its term.
    assert both[3, 1] == pytest.approx(0.5 * 0.4 * idf_of_term_1)
    np.testing.assert_array_equal(both[plain > 0], plain[plain > 0])
    unexpanded = count_buyers(met, counts, scoring, expands=np.zeros(3, bool))
    assert expansion(counts, unexpanded, most=1).nnz == 0


def test_fewer_users_than_chance_needs_make_no_association() -> None:
    counts = sp.csr_array(np.eye(2))
    met = sp.csr_array(np.array([[1, 1]] * 4 + [[0, 1]] * 6))
    counted = count_buyers(met, counts, Scoring(expansion_terms=3), expands=np.ones(2, bool))
    assert expansion(counts, counted, most=3).nnz == 0


def test_what_is_learned_needs_purchases() -> None:
    for scoring in (Scoring(learned_weights=True), replace(Scoring(), expansion_terms=1)):
        with pytest.raises(ValueError, match="learned from purchases, and none are given"):
            impacts_of(COUNTS, FIELD_OF, scoring, None)
