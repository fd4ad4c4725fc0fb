"""The contract of retrievers, run against each of them.

40 items; users: one with three items, one without any, one who knows all but four, one who knows all.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from features.schema import Schema
from serving.config import RankingConfig
from serving.registry import ALIASES, retriever_names, retrievers_of
from serving.retrieval.distinct import build_index
from serving.retrieval.eligible import NO_ITEMS, Items, everything_but
from serving.retrieval.index import AugmentedIndex, HnswIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import Fused, Popularity, Retriever, UserQueries
from serving.retrieval.vector_search import Cascade, TwoTowerRetriever
from serving.retrieval.weights import weighted
from serving.second_look.files import SecondLookParts, SecondLookReport
from serving.second_look.inputs import PAIR_INPUTS, STATISTICS, input_names
from serving.second_look.net import Net
from serving.served import DEFAULT, Served
from serving.sparcode.codebook import Codebook
from serving.sparcode.postings import Postings, PostingsWriter
from serving.sparcode.retriever import SparCode
from serving.sparse.bm25 import Scoring
from serving.sparse.fields import fields_of
from serving.sparse.index import About, SparseIndex
from serving.sparse.terms import count_terms, terms_of

NUM_ITEMS, DIMENSION = 40, 8
KNOWN = [[3, 17, 20], [], [*range(36)], [*range(NUM_ITEMS)]]
NUM_USERS = len(KNOWN)
AS_OF_SECONDS = 1512086400


def unit_vectors(count: int, seed: int) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    unit: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


VECTORS = unit_vectors(NUM_ITEMS, 1)
INDEX = HnswIndex.build(VECTORS, m=8, ef_construction=100, seed=1)
WEIGHTS = np.random.default_rng(5).uniform(0.2, 1, NUM_ITEMS).astype(np.float32)
WEIGHTED = weighted(VECTORS, WEIGHTS)
AUGMENTED_INDEX = AugmentedIndex.build(WEIGHTED, m=8, ef_construction=100, seed=1)
# A third of the catalogue has one vector.
EQUAL = np.where(np.arange(NUM_ITEMS)[:, None] % 3 == 0, VECTORS[:1], VECTORS)
EQUAL_INDEX = build_index("ip", EQUAL, m=8, ef_construction=100, seed=1)
POPULARITY = np.random.default_rng(2).integers(0, 9, NUM_ITEMS).astype(np.float32)


def two_tower(*, index: HnswIndex | None, max_fetch: int = 25, beam_cost: float = 1.0) -> TwoTowerRetriever:
    return TwoTowerRetriever(VECTORS, index, ef=20, max_fetch=max_fetch, beam_cost=beam_cost)


def sparcode(*, share_built: float) -> SparCode:
    """Two tokens a user; every built code has all items."""
    rng = np.random.default_rng(6)
    codebook = Codebook(rng.normal(size=(2, 4, DIMENSION // 4)).astype(np.float32))
    keys = np.flatnonzero(rng.random(4**2) < share_built)
    items = np.tile(np.arange(NUM_ITEMS, dtype=np.int32), len(keys))
    scores = rng.uniform(0.1, 3, len(items)).astype(np.float32)
    folder = Path(tempfile.mkdtemp(prefix="contract-postings-"))
    digests = {"codebook": codebook.digest, "catalogue": "0" * 64, "interaction": "1" * 64}
    with PostingsWriter(folder, num_items=NUM_ITEMS, bias=0.5, cap=NUM_ITEMS, **digests) as writer:
        writer.add(keys, np.arange(len(keys) + 1) * NUM_ITEMS, items, scores)
    postings = Postings.open(folder, codebook=codebook, catalogue="0" * 64)
    return SparCode(codebook, postings, num_tokens=2)


def sparse_index() -> SparseIndex:
    """One word that all items have, and a second of which there are seven."""
    fields = fields_of(Schema())
    items = pa.table({"item_name": [f"all w{number % 7}" for number in range(NUM_ITEMS)]})
    vocabulary, counts = count_terms(terms_of(items, fields), fields, num_items=NUM_ITEMS)
    return SparseIndex.build(About("", fields, Scoring(), 60.0, 0.01), vocabulary, counts, None)


def second_look() -> SecondLookParts:
    """A net of random weights over lists that are shorter than some that are asked for."""
    rng, lists = np.random.default_rng(8), ("repeat", "two_tower", "popularity")
    names = input_names(lists, 2)
    width, num_pairs, codes, units = len(names), 2 + len(PAIR_INPUTS), 2, 6
    shapes = {
        "attention": (num_pairs, codes), "hidden": (width + codes * num_pairs, units), "hidden_bias": (units,),
        "output": (units,),
    }  # fmt: skip
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    net = Net(names, np.zeros(width, np.float32), np.ones(width, np.float32), **weights)
    statistics = rng.random((NUM_ITEMS, len(STATISTICS))).astype(np.float32)
    report = SecondLookReport(lists, 15, 5, 1, 1, {})
    return SecondLookParts(net, statistics, np.arange(NUM_ITEMS, dtype=np.int32) % 5 - 1, report)


def registered() -> dict[str, Retriever]:
    """Everything in the registry, over a bundle that has what each of them needs."""
    report = SimpleNamespace(parts=(5, 3))
    bundle: Any = SimpleNamespace(
        folder=Path("bundle"),
        manifest=SimpleNamespace(
            facts=SimpleNamespace(index_report=report, served=Served(**vars(DEFAULT), why="", metric="", num_users=0))
        ),
        ranked=VECTORS,
        added=None,
        index=INDEX,
        item_weights=None,
        popularity=POPULARITY,
        sparcode=SimpleNamespace(retriever=lambda: sparcode(share_built=1.0)),
        sparse=sparse_index(),
        second_look=second_look(),
        num_events=np.arange(NUM_ITEMS) % 3,
    )
    weights = {"two_tower": 1.0, "repeat": 2.0}
    found = retrievers_of(bundle, RankingConfig(max_fetch=25, fusion_weights=weights, fusion_depth=15), ef_search=20)
    return {name: retriever for name, retriever in found.items() if name not in ALIASES}


RETRIEVERS: dict[str, Retriever] = {
    **registered(),
    "two_tower, by the index where that is slower": two_tower(index=INDEX),
    "two_tower, over-fetching always": two_tower(index=INDEX, max_fetch=10_000, beam_cost=0.0),
    "two_tower, weighted": TwoTowerRetriever(WEIGHTED, AUGMENTED_INDEX, ef=20, max_fetch=25, weights=WEIGHTS),
    "two_tower, many equal vectors": TwoTowerRetriever(EQUAL, EQUAL_INDEX, ef=20, max_fetch=25, beam_cost=0.0),
    "two_tower, over the exact index": TwoTowerRetriever(
        VECTORS, build_index("exact", VECTORS, m=8, ef_construction=100, seed=1), ef=0, max_fetch=25
    ),
    "cascade, weighted": Cascade(
        TwoTowerRetriever(WEIGHTED, AUGMENTED_INDEX, ef=20, max_fetch=25), first_width=5, depth=3
    ),
    "sparcode, most codes not built": sparcode(share_built=0.3),
    "fused, short lists": Fused(
        ((two_tower(index=INDEX), 1.0), (Popularity(POPULARITY), 1.0)), rank_constant=1, depth=1
    ),
}
DENIED = [np.array(rows, np.int32) for rows in ([3], [0, 3, 5, 17, 38], [*range(38)], [*range(NUM_ITEMS)])]
every_retriever = pytest.mark.parametrize("name", RETRIEVERS)
every_k = pytest.mark.parametrize("k", [1, 3, 10, NUM_ITEMS, NUM_ITEMS + 5])
excluding_or_not = pytest.mark.parametrize("exclude_known", [False, True])


def purchases() -> Purchases:
    pairs = np.array([(user, item) for user, items in enumerate(KNOWN, start=1) for item in items])
    days_ago = np.random.default_rng(3).integers(1, 300, len(pairs))
    return Purchases.from_events(
        pairs[:, 0],
        pairs[:, 1],
        seconds=AS_OF_SECONDS - 86_400 * days_ago,
        num_users=NUM_USERS + 1,
        num_items=NUM_ITEMS,
    )


def users(rows: list[int], *, exclude_known: bool, denied: Items = NO_ITEMS) -> UserQueries:
    moments = np.full(len(rows), AS_OF_SECONDS, np.int64)
    vectors = unit_vectors(NUM_USERS + 1, 4)[rows]
    # Two tokens of half the width, side by side.
    own = purchases().of(np.array(rows))
    eligible = everything_but(denied, num_items=NUM_ITEMS)
    return UserQueries(own, moments, vectors, exclude_known, user_tokens=vectors, eligible=eligible)


def everybody(*, exclude_known: bool, denied: Items = NO_ITEMS) -> UserQueries:
    """The unknown user first, then the four known ones."""
    return users([*range(NUM_USERS + 1)], exclude_known=exclude_known, denied=denied)


def num_candidates(name: str, *, exclude_known: bool, denied: Items = NO_ITEMS) -> npt.NDArray[np.int64]:
    known = [set(), *map(set, KNOWN)]
    out = set(denied.tolist())
    if name == "repeat":
        return np.array([0 if exclude_known else len(items - out) for items in known])
    if name == "sparse":
        # Without a history there is nothing to look for, and popular items come.
        known_out = [items | out if exclude_known else out for items in known]
        return np.array([NUM_ITEMS - len(gone) if items else 0 for items, gone in zip(known, known_out, strict=True)])
    return np.array([NUM_ITEMS - len(items | out if exclude_known else out) for items in known])


def test_every_registered_retriever_is_under_contract() -> None:
    assert set(retriever_names()) - ALIASES.keys() <= RETRIEVERS.keys()


@every_retriever
def test_a_retriever_that_claims_to_find_all_does(name: str) -> None:
    if not RETRIEVERS[name].finds_all:
        return
    rows, _ = RETRIEVERS[name].retrieve(everybody(exclude_known=False), NUM_ITEMS)
    assert (rows >= 0).all()


@every_retriever
@every_k
@excluding_or_not
def test_exactly_k_come_when_k_exist_and_all_otherwise(name: str, k: int, exclude_known: bool) -> None:
    rows, scores = RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known), k)
    assert rows.shape == scores.shape == (NUM_USERS + 1, k)
    assert (str(rows.dtype), str(scores.dtype)) == ("int32", "float32")
    expected = np.minimum(num_candidates(name, exclude_known=exclude_known), k)
    assert (rows >= 0).sum(axis=1).tolist() == expected.tolist()


@every_retriever
@every_k
@excluding_or_not
def test_lists_are_sorted_distinct_and_padded_at_the_end(name: str, k: int, exclude_known: bool) -> None:
    for rows, scores in zip(*RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known), k), strict=True):
        found = rows[rows >= 0]
        assert len(set(found.tolist())) == len(found)
        assert (found < NUM_ITEMS).all()
        assert (rows[len(found) :] == -1).all()
        assert np.isneginf(scores[len(found) :]).all()
        assert np.isfinite(scores[: len(found)]).all()
        assert (scores[: len(found) - 1] >= scores[1 : len(found)]).all() if len(found) else True


@every_retriever
@every_k
def test_a_known_item_never_comes_when_excluded(name: str, k: int) -> None:
    rows, _ = RETRIEVERS[name].retrieve(everybody(exclude_known=True), k)
    for own_rows, known in zip(rows[1:], KNOWN, strict=True):
        assert not set(own_rows.tolist()) & set(known)


@every_retriever
@every_k
@excluding_or_not
@pytest.mark.parametrize("denied", DENIED, ids=["one", "some", "nearly all", "all"])
def test_a_denied_item_never_comes_and_k_others_do_where_there_are(
    name: str, k: int, exclude_known: bool, denied: Items
) -> None:
    rows, scores = RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known, denied=denied), k)
    assert not set(rows.ravel().tolist()) & set(denied.tolist())
    expected = np.minimum(num_candidates(name, exclude_known=exclude_known, denied=denied), k)
    assert (rows >= 0).sum(axis=1).tolist() == expected.tolist()
    for own_rows, own_scores, known in zip(rows, scores, [[], *KNOWN], strict=True):
        found = own_rows[own_rows >= 0]
        assert len(set(found.tolist())) == len(found)
        assert not (exclude_known and set(found.tolist()) & set(known))
        assert (own_scores[: len(found) - 1] >= own_scores[1 : len(found)]).all() if len(found) else True


# In a fused list ranks move up, and with them scores that are made of ranks. A second look reads ranks, and a hybrid
# list is scaled by what is left.
@pytest.mark.parametrize("name", [name for name in RETRIEVERS if not name.startswith(("fused", "hybrid", "second"))])
@excluding_or_not
def test_the_remaining_items_keep_order_and_scores_when_items_are_denied(name: str, exclude_known: bool) -> None:
    asked = RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known), NUM_ITEMS)
    found = RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known, denied=DENIED[1]), NUM_ITEMS)
    for (rows, scores), (left, left_scores) in zip(zip(*asked, strict=True), zip(*found, strict=True), strict=True):
        stays = ~np.isin(rows, DENIED[1]) & (rows >= 0)
        np.testing.assert_array_equal(rows[stays], left[left >= 0])
        np.testing.assert_allclose(scores[stays], left_scores[left >= 0], rtol=1e-5, atol=1e-6)


@excluding_or_not
@pytest.mark.parametrize("denied", [NO_ITEMS, *DENIED])
def test_how_many_a_user_may_get_is_counted(exclude_known: bool, denied: Items) -> None:
    expected = num_candidates("two_tower", exclude_known=exclude_known, denied=denied)
    assert everybody(exclude_known=exclude_known, denied=denied).num_candidates.tolist() == expected.tolist()


# Others have scores of their own: counts, and ranks.
@pytest.mark.parametrize("name", [name for name in RETRIEVERS if name.startswith(("two_tower", "exact", "spar"))])
@excluding_or_not
def test_business_weights_of_a_request_replace_the_retrievers_own(name: str, exclude_known: bool) -> None:
    weights = np.random.default_rng(9).uniform(0.1, 1, NUM_ITEMS).astype(np.float32)
    asked = everybody(exclude_known=exclude_known)
    plain = RETRIEVERS["exact" if name == "two_tower, weighted" else name].retrieve(asked, NUM_ITEMS)
    found = RETRIEVERS[name].retrieve(replace(asked, scale=weights), NUM_ITEMS)
    for (rows, scores), (own_rows, own_scores) in zip(zip(*plain, strict=True), zip(*found, strict=True), strict=True):
        rows, own_rows = rows[rows >= 0], own_rows[own_rows >= 0]
        expected = dict(zip(rows.tolist(), scores[: len(rows)] * weights[rows], strict=True))
        assert set(own_rows.tolist()) == set(rows.tolist())
        np.testing.assert_allclose(
            own_scores[: len(rows)], [expected[row] for row in own_rows.tolist()], rtol=1e-5, atol=1e-6
        )
        assert (np.diff(own_scores[: len(rows)]) <= 0).all()


@every_retriever
@every_k
@excluding_or_not
def test_a_user_alone_gets_the_same_as_in_a_batch(name: str, k: int, exclude_known: bool) -> None:
    together, scores = RETRIEVERS[name].retrieve(everybody(exclude_known=exclude_known), k)
    for row in range(NUM_USERS + 1):
        alone, own_scores = RETRIEVERS[name].retrieve(users([row], exclude_known=exclude_known), k)
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_allclose(own_scores[0], scores[row], rtol=1e-5)


@every_retriever
def test_the_same_request_gets_the_same_answer(name: str) -> None:
    first, second = (RETRIEVERS[name].retrieve(everybody(exclude_known=True), 10) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@every_retriever
def test_vectors_are_required_where_the_retriever_declares_them(name: str) -> None:
    retriever = RETRIEVERS[name]
    without_vectors = UserQueries(purchases().of(np.array([1])), np.array([AS_OF_SECONDS]))

    def ask() -> npt.NDArray[np.int32]:
        return retriever.retrieve(without_vectors, 3)[0]

    if retriever.needs_embeddings:
        with pytest.raises(ValueError, match="query_embeddings is None"):
            ask()
    elif retriever.needs_tokens:
        with pytest.raises(ValueError, match="user_tokens is None"):
            ask()
    else:
        assert (ask() >= 0).all()


def test_a_batch_whose_parts_differ_in_number_is_refused() -> None:
    with pytest.raises(ValueError, match="5 rows of purchases and 4 moments; expected one of each"):
        UserQueries(purchases(), np.zeros(4, np.int64), unit_vectors(5, 4))
