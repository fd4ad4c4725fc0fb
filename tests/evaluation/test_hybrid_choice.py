"""What the sparse list counts is chosen on days before the cut, for each segment, and may come to be served."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from evaluation import choice, metrics
from evaluation.hybrid_choice import hybrid_weights, searched
from evaluation.validation_days import NewItems, Window
from features.columns import seconds_of
from features.schema import Schema
from serving.config import RankingConfig
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import Fused, UserQueries, lists_of
from serving.served import FUSED, HYBRID, SEGMENTS, SPARSE, settled
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex
from serving.sparse.terms import count_terms, terms_of

NUM_USERS, NUM_KINDS, OF_KIND = 80, 8, 6
NUM_ITEMS = NUM_KINDS * OF_KIND
MOMENT, CUT = dt.date(2024, 1, 8), dt.date(2024, 1, 15)
RANKING = RankingConfig(fusion_depth=20, short_past=2)


def window_of(*, by_content: bool, seed: int = 1) -> Window:
    """Users of a kind of items each, who have met one to three of them; vectors are random.

    Later they meet what is left of their kind, of which the last two items are new; or what the vectors point to. The
    fourth of each kind is described as new, too.
    """
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(NUM_ITEMS, 8)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    users = rng.normal(size=(NUM_USERS, 8)).astype(np.float32)
    kind = np.arange(NUM_USERS) % NUM_KINDS
    owners = np.repeat(np.arange(NUM_USERS), 1 + np.arange(NUM_USERS) // NUM_KINDS % 3)
    place = np.arange(len(owners)) - np.searchsorted(owners, owners)
    met = kind[owners] * OF_KIND + place
    later = np.zeros((NUM_USERS, NUM_ITEMS), bool)
    if by_content:
        for user in range(NUM_USERS):
            later[user, kind[user] * OF_KIND + 3 : (kind[user] + 1) * OF_KIND] = True
    else:
        np.put_along_axis(later, np.argsort(-(users @ items.T), axis=1)[:, :4], True, axis=1)
    seconds = np.full(len(owners), seconds_of(MOMENT) - 86_400)
    past = Purchases.from_events(owners + 1, met, seconds=seconds, num_users=NUM_USERS + 1, num_items=NUM_ITEMS)
    fields = fields_of(Schema())
    table = pa.table({"item_name": [f"kind{row // OF_KIND} x{row}" for row in range(NUM_ITEMS)]})
    vocabulary, counts = count_terms(terms_of(table, fields), fields, num_items=NUM_ITEMS)
    num_events = np.where(np.arange(NUM_ITEMS) % OF_KIND < 4, 5, 0).astype(np.float32)
    own = past.of(np.arange(1, NUM_USERS + 1))
    as_new = np.arange(NUM_ITEMS) % OF_KIND == 3
    return Window(
        first_day=MOMENT,
        end_day=CUT,
        users=UserQueries(own, np.full(NUM_USERS, seconds_of(MOMENT)), users),
        relevant=sp.csr_array(later),
        popularity=rng.permutation(NUM_ITEMS).astype(np.float32),
        ranked=items,
        sparse=SparseIndex.build(About("", fields, Scoring(), None, 0.01), vocabulary, counts, None),
        num_events=num_events,
        new_items=NewItems(items, as_new, sp.csr_array(later & as_new)),
    )


def measure(hits: metrics.Hits) -> np.ndarray:
    return metrics.ndcg_at_k(hits, 5)


def chosen_for(window: Window, ranking: RankingConfig = RANKING) -> choice.served.Served:
    weights = {out: hybrid_weights(window, measure, ranking, exclude_known=out) for out in (False, True)}
    candidates = list(choice.candidates_of(ranking, weights))
    values = choice.evaluate(candidates, window, measure, k=5, ranking=ranking)
    return choice.pick(candidates, values, metric="ndcg@5", before=None)


def test_where_content_says_what_comes_the_sparse_list_counts_in_every_segment() -> None:
    window = window_of(by_content=True)
    weights = hybrid_weights(window, measure, RANKING, exclude_known=True)
    assert min(weights.values()) > 0
    found = chosen_for(window)
    assert found.retriever in (SPARSE, HYBRID) or {SPARSE, HYBRID} & found.fusion_weights.keys()
    assert found.exclude_known


def test_where_content_says_nothing_it_counts_nothing_and_is_not_served() -> None:
    window = window_of(by_content=False)
    assert set(hybrid_weights(window, measure, RANKING, exclude_known=False).values()) == {0.0}
    found = chosen_for(window)
    assert found.retriever == "two_tower"
    assert {one.retriever for one in found.tried} >= {SPARSE, HYBRID, "popularity"}


def test_the_weight_for_items_with_few_events_is_chosen_among_items_that_are_described_as_new() -> None:
    # What users meet follows the vectors; what they meet of the items that are described as new follows content.
    window, by_content = window_of(by_content=False), window_of(by_content=True)
    assert by_content.new_items is not None
    of_content = replace(by_content.new_items, ranked=window.ranked)
    weights = hybrid_weights(replace(window, new_items=of_content), measure, RANKING, exclude_known=False)
    assert [weights[segment] > 0 for segment in SEGMENTS] == [False, True, False, True]


@pytest.mark.parametrize("num_users", [0, 19])
def test_without_such_items_or_with_few_users_of_them_it_stays_as_it_was(num_users: int) -> None:
    window, before = window_of(by_content=True), dict(zip(SEGMENTS, (0.1, 0.2, 0.3, 0.4), strict=True))
    assert window.new_items is not None
    few = window.new_items.relevant.toarray()
    few[num_users:] = False
    few_items = replace(window.new_items, relevant=sp.csr_array(few)) if num_users else None
    found = hybrid_weights(replace(window, new_items=few_items), measure, RANKING, exclude_known=True, before=before)
    assert (found["short_past_cold"], found["long_past_cold"]) == (0.2, 0.4)
    assert found["short_past_warm"] != 0.1
    assert found["long_past_warm"] != 0.3


def test_a_configured_weight_is_that_of_all_segments() -> None:
    configured = RANKING.model_copy(update={"hybrid_weight": 0.7})
    found = hybrid_weights(window_of(by_content=True), measure, configured, exclude_known=False)
    assert found == dict.fromkeys(SEGMENTS, 0.7) == settled(configured).hybrid_weights


@pytest.mark.parametrize("exclude_known", [False, True])
def test_every_candidate_is_scored_by_the_list_that_a_server_would_answer_with(exclude_known: bool) -> None:
    window = window_of(by_content=True)
    users = replace(window.users, exclude_known=exclude_known)
    weights = {out: hybrid_weights(window, measure, RANKING, exclude_known=out) for out in (False, True)}
    candidates = [one for one in choice.candidates_of(RANKING, weights) if one.exclude_known == exclude_known]
    parts = searched(window, RANKING, weights[exclude_known])
    lists = choice.FusedLists.of(users, window, RANKING, weights[exclude_known])
    # Four alone, and three pairs, or repeat purchases by themselves and five; 5 ratios, 4 constants.
    assert len(candidates) == (4 + 60 if exclude_known else 5 + 100)
    for one in candidates:
        fusion = tuple((parts[name], weight) for name, weight in one.fusion_weights.items())
        retrievers = parts | {FUSED: Fused(fusion, rank_constant=one.fusion_rank_constant, depth=20)}
        served = lists_of(retrievers, users, one.retriever, k=5, can_be_found=np.ones(NUM_USERS, bool)).rows
        expected = metrics.find_hits(served, window.relevant)
        np.testing.assert_array_equal(lists.hits(one, 5).found, expected.found, err_msg=str(one))


def test_a_fixed_retriever_has_its_weights_chosen_all_the_same() -> None:
    fixed = RANKING.model_copy(update={"retriever": HYBRID, "exclude_known": True})
    found = chosen_for(window_of(by_content=True), fixed)
    assert found.retriever == HYBRID
    assert min(found.hybrid_weights.values()) > 0
    assert str(found).startswith("hybrid (")
