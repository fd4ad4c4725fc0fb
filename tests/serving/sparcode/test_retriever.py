"""The SparCode retriever over small tables.

50 items, two tokens of a user. Codes are scored by a random net; what the retriever finds is held against sums over
every item, worked out from the same net without any table.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.retrieval.purchases import Purchases
from serving.retrieval.retrievers import Retriever, UserQueries
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import MlpInteraction
from serving.sparcode.postings import Postings, PostingsWriter
from serving.sparcode.retriever import SparCode, SparCodeCounts

Floats = npt.NDArray[np.float32]
NUM_ITEMS, NUM_USERS, NUM_TOKENS, WIDTH, BIAS = 50, 12, 2, 6, -1.0
# Of two float16 added in float32, each of which is off by half a digit of eleven bits.
ROUNDING = {"rtol": 2**-10, "atol": 1e-6}


def random(*shape: int, seed: int) -> Floats:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


CODEBOOK = Codebook(random(2, 5, WIDTH // 2, seed=1))
NET = MlpInteraction(
    products=random(3, WIDTH, seed=2),
    hidden=random(3, 7, WIDTH, seed=3),
    hidden_bias=random(7, seed=4),
    output=random(7, seed=5),
)
ITEM_TOKENS = random(NUM_ITEMS, 3, WIDTH, seed=6)
TOKENS = random(NUM_USERS, NUM_TOKENS * WIDTH, seed=7)
ALL_KEYS = np.arange(25)


def write(folder: Path, scores: Floats, keys: npt.NDArray[np.int64] = ALL_KEYS) -> Postings:
    """Postings with all of `scores` [K, N] that are above 0."""
    owners, items = np.nonzero(scores > 0)
    starts = np.searchsorted(owners, np.arange(len(keys) + 1))
    about = {"num_items": scores.shape[1], "bias": BIAS, "cap": scores.shape[1], "interaction": NET.digest}
    with PostingsWriter(folder, **about, codebook=CODEBOOK.digest, catalogue="items") as writer:
        writer.add(keys, starts, items.astype(np.int32), scores[owners, items])
    return Postings.open(folder, codebook=CODEBOOK, catalogue="items")


def net_scores(keys: npt.NDArray[np.int64]) -> Floats:
    return NET.scores(CODEBOOK.decode(keys), NET.prepare(ITEM_TOKENS)) + np.float32(BIAS)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SparCode]:
    def make(keys: npt.NDArray[np.int64] = ALL_KEYS, scores: Floats | None = None) -> SparCode:
        folder = tmp_path_factory.mktemp("sparcode") / "postings"
        postings = write(folder, net_scores(keys) if scores is None else scores, keys)
        return SparCode(CODEBOOK, postings, num_tokens=NUM_TOKENS)

    return make


@pytest.fixture(scope="module")
def sparcode(make: Callable[..., SparCode]) -> SparCode:
    return make()


def purchases() -> Purchases:
    """User 1 knows 10 items, user 2 all but three, user 3 all; the others none."""
    known = [(1, item) for item in range(5, 45, 4)] + [(2, item) for item in range(47)]
    pairs = np.array(known + [(3, item) for item in range(NUM_ITEMS)])
    return Purchases.from_events(
        *pairs.T, seconds=np.zeros(len(pairs), np.int64), num_users=NUM_USERS, num_items=NUM_ITEMS
    )


def users(rows: list[int], *, exclude_known: bool = False, tokens: Floats = TOKENS) -> UserQueries:
    own = purchases().of(np.array(rows, np.int64))
    return UserQueries(own, np.zeros(len(rows), np.int64), user_tokens=tokens[rows], exclude_known=exclude_known)


EVERYBODY = [*range(NUM_USERS)]


def brute_force(keys: npt.NDArray[np.int64]) -> Floats:
    """Sums over all items: [B, K_u] keys -> [B, N]."""
    scores = np.maximum(net_scores(keys.ravel()), 0)
    summed: Floats = scores.reshape(*keys.shape, NUM_ITEMS).sum(axis=1)
    return summed


def own_keys(tokens: Floats = TOKENS) -> npt.NDArray[np.int64]:
    return CODEBOOK.keys(tokens.reshape(-1, WIDTH)).reshape(-1, NUM_TOKENS)


def dense(rows: npt.NDArray[np.int32], scores: Floats) -> Floats:
    """Scores of lists spread over every item: [B, k] -> [B, N], 0 for items that are not listed."""
    found = np.zeros((len(rows), NUM_ITEMS), np.float32)
    for own, own_scores, row in zip(rows, scores, found, strict=True):
        row[own[own >= 0]] = own_scores[own >= 0]
    return found


def test_scores_are_the_sums_over_every_item(sparcode: SparCode) -> None:
    rows, scores = sparcode.retrieve(users(EVERYBODY), NUM_ITEMS)
    expected = brute_force(own_keys())
    # Both kinds of items are there: those that fit and those that don't.
    assert 0.2 < (expected > 0).mean() < 0.8
    np.testing.assert_allclose(dense(rows, scores), expected, **ROUNDING)
    assert (rows >= 0).sum(axis=1).tolist() == (expected > 0).sum(axis=1).tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 7, NUM_ITEMS, NUM_ITEMS + 5])
@pytest.mark.parametrize("exclude_known", [False, True])
def test_lists_are_the_first_of_all_sorted_distinct_and_padded(sparcode: SparCode, k: int, exclude_known: bool) -> None:
    complete = dense(*sparcode.retrieve(users(EVERYBODY), NUM_ITEMS))
    if exclude_known:
        complete[purchases().owners, purchases().indices] = 0
    rows, scores = sparcode.retrieve(users(EVERYBODY, exclude_known=exclude_known), k)
    assert (rows.dtype, scores.dtype, rows.shape, scores.shape) == (
        np.int32,
        np.float32,
        (NUM_USERS, k),
        (NUM_USERS, k),
    )
    for own, own_scores, all_scores in zip(rows, scores, complete, strict=True):
        order = sorted(range(NUM_ITEMS), key=lambda item, scores=all_scores: (-scores[item], item))
        best = [item for item in order if all_scores[item] > 0][:k]
        assert own.tolist() == best + [-1] * (k - len(best))
        assert own_scores.tolist() == [*all_scores[best].tolist(), *[-np.inf] * (k - len(best))]


def test_a_code_met_twice_counts_twice(sparcode: SparCode) -> None:
    tokens = np.tile(TOKENS[:, :WIDTH], (1, NUM_TOKENS))
    rows, scores = sparcode.retrieve(users(EVERYBODY, tokens=tokens), NUM_ITEMS)
    once = np.maximum(net_scores(own_keys(tokens)[:, 0]), 0)
    np.testing.assert_allclose(dense(rows, scores), 2 * once, **ROUNDING)


@given(st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_equal_scores_go_to_the_lower_row(tmp_path_factory: pytest.TempPathFactory, k: int, seed: int) -> None:
    # Three scores only, so that most are equal, also of items that are on one list and on two.
    levels = np.random.default_rng(seed).integers(0, 3, (len(ALL_KEYS), NUM_ITEMS)).astype(np.float32)
    postings = write(tmp_path_factory.mktemp("ties") / "postings", levels)
    rows, scores = SparCode(CODEBOOK, postings, num_tokens=NUM_TOKENS).retrieve(users(EVERYBODY), k)
    sums = levels[own_keys()].sum(axis=1)
    order = np.lexsort((np.tile(np.arange(NUM_ITEMS), (NUM_USERS, 1)), -sums))[:, :k]
    best = np.take_along_axis(sums, order, axis=1)
    assert rows.tolist() == np.where(best > 0, order, -1).tolist()
    assert scores.tolist() == np.where(best > 0, best, -np.inf).tolist()


@pytest.mark.parametrize("exclude_known", [False, True])
def test_a_list_does_not_depend_on_the_others_in_the_batch(make: Callable[..., SparCode], exclude_known: bool) -> None:
    # With few codes, so that the nearest built ones take part.
    sparcode = make(ALL_KEYS[::4])
    together = sparcode.retrieve(users(EVERYBODY, exclude_known=exclude_known), 7)
    for batch in ([3], [5, 0, 5], EVERYBODY[::-1]):
        found = sparcode.retrieve(users(batch, exclude_known=exclude_known), 7)
        np.testing.assert_array_equal(found[0], together[0][batch])
        np.testing.assert_array_equal(found[1], together[1][batch])


def test_a_code_that_was_not_built_is_replaced_by_the_nearest_one(make: Callable[..., SparCode]) -> None:
    built = ALL_KEYS[1::3]
    sparcode = make(built)
    keys, missing = own_keys(), ~np.isin(own_keys(), built)
    decoded = CODEBOOK.decode(built)
    for user, token in np.argwhere(missing):
        own = TOKENS.reshape(NUM_USERS, NUM_TOKENS, WIDTH)[user, token]
        keys[user, token] = built[np.argmin([np.linalg.norm(own - code) for code in decoded])]
    assert 0 < missing.sum() < missing.size
    rows, scores = sparcode.retrieve(users(EVERYBODY), NUM_ITEMS)
    np.testing.assert_allclose(dense(rows, scores), brute_force(keys), **ROUNDING)
    assert sparcode.counts() == SparCodeCounts(NUM_USERS, NUM_USERS * NUM_TOKENS, int(missing.sum()), 0)


def test_of_equally_near_built_codes_the_lowest_key_is_the_substitute(tmp_path: Path) -> None:
    # One part of width one, rows at 0, -1 and 1; a token at 0 is as far from the second as from the third.
    codebook = Codebook(np.array([[[0], [-1], [1]]], np.float32))
    with PostingsWriter(
        tmp_path / "postings", num_items=9, bias=0, cap=9, codebook=codebook.digest, catalogue="", interaction=""
    ) as writer:
        writer.add(np.array([1, 2]), np.array([0, 1, 2]), np.array([4, 8], np.int32), np.ones(2, np.float32))
    sparcode = SparCode(codebook, Postings.open(tmp_path / "postings", codebook=codebook, catalogue=""), num_tokens=1)
    own = Purchases.from_events(*[np.empty(0, np.int64)] * 2, seconds=np.empty(0, np.int64), num_users=1, num_items=9)
    found, _ = sparcode.retrieve(UserQueries(own, np.zeros(1, np.int64), user_tokens=np.zeros((1, 1), np.float32)), 2)
    assert found.tolist() == [[4, -1]]


def test_users_left_with_nothing_get_padding_and_are_counted(make: Callable[..., SparCode]) -> None:
    scores = np.ones((25, NUM_ITEMS), np.float32)
    # Codes of user 5 have no postings.
    scores[own_keys()[5]] = 0
    sparcode = make(scores=scores)
    empty = [bool(np.isin(keys, own_keys()[5]).all()) for keys in own_keys()]
    rows, _ = sparcode.retrieve(users(EVERYBODY), 3)
    assert (rows == -1).all(axis=1).tolist() == empty
    assert sparcode.counts() == SparCodeCounts(NUM_USERS, NUM_USERS * NUM_TOKENS, 0, sum(empty))
    # User 3 knows everything.
    sparcode.retrieve(users([3], exclude_known=True), 3)
    assert sparcode.counts() == SparCodeCounts(NUM_USERS + 1, (NUM_USERS + 1) * NUM_TOKENS, 0, sum(empty) + 1)
    assert 0 < sum(empty) < NUM_USERS


def test_no_users_get_no_lists(sparcode: SparCode) -> None:
    rows, scores = sparcode.retrieve(users([]), 3)
    assert rows.shape == scores.shape == (0, 3)


def test_threads_that_share_a_retriever_get_what_one_gets(make: Callable[..., SparCode]) -> None:
    sparcode, num_calls = make(ALL_KEYS[::2]), 200
    expected = sparcode.retrieve(users(EVERYBODY, exclude_known=True), 9)
    before = sparcode.counts()

    def ask(_: int) -> tuple[npt.NDArray[np.int32], Floats]:
        return sparcode.retrieve(users(EVERYBODY, exclude_known=True), 9)

    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(ask, range(num_calls))]
    for rows, scores in answers:
        np.testing.assert_array_equal(rows, expected[0])
        np.testing.assert_array_equal(scores, expected[1])
    assert before.num_substituted > 0
    assert sparcode.counts() == SparCodeCounts(
        *(count * (num_calls + 1) for count in (before.num_users, before.num_tokens, before.num_substituted)),
        before.num_empty * (num_calls + 1),
    )


def test_a_refused_user_leaves_nothing_behind(make: Callable[..., SparCode]) -> None:
    sparcode = make()
    expected = sparcode.retrieve(users(EVERYBODY), 9)
    tokens = TOKENS.copy()
    tokens[4, 7] = np.nan
    with pytest.raises(ValueError, match="token 1 of 2 is not finite"):
        sparcode.retrieve(users(EVERYBODY, tokens=tokens), 9)
    found = sparcode.retrieve(users(EVERYBODY), 9)
    np.testing.assert_array_equal(found[1], expected[1])
    assert sparcode.counts().num_users == 2 * NUM_USERS


def test_it_declares_tokens_and_no_vectors(sparcode: SparCode) -> None:
    retriever: Retriever = sparcode
    assert (retriever.needs_tokens, retriever.needs_embeddings) == (True, False)
    with pytest.raises(ValueError, match="user_tokens is None; this retriever needs the users' tokens"):
        retriever.retrieve(UserQueries(purchases(), np.zeros(NUM_USERS, np.int64)), 3)


def test_tokens_of_another_width_are_refused(sparcode: SparCode) -> None:
    with pytest.raises(ValueError, match=r"shape \[12, 6\], expected \[12, 12\]: 2 tokens of width 6"):
        sparcode.retrieve(users(EVERYBODY, tokens=TOKENS[:, :WIDTH]), 3)


def test_purchases_of_another_catalogue_are_refused(sparcode: SparCode) -> None:
    other = Purchases.from_events(*[np.array([1])] * 2, seconds=np.array([0]), num_users=2, num_items=49)
    asked = UserQueries(other, np.zeros(2, np.int64), user_tokens=TOKENS[:2])
    with pytest.raises(ValueError, match="purchases are of 49 items, the postings of 50"):
        sparcode.retrieve(asked, 3)


def test_postings_without_a_code_or_of_another_codebook_are_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", np.empty((0, NUM_ITEMS), np.float32), ALL_KEYS[:0])
    with pytest.raises(ValueError, match="empty: holds no code; sweep the tokens"):
        SparCode(CODEBOOK, empty, num_tokens=NUM_TOKENS)
    other = Codebook(random(2, 5, WIDTH // 2, seed=99))
    postings = write(tmp_path / "full", net_scores(ALL_KEYS))
    with pytest.raises(ValueError, match=f"made with codebook {CODEBOOK.digest[:12]}, expected {other.digest[:12]}"):
        SparCode(other, postings, num_tokens=NUM_TOKENS)
