"""Exhaustive scoring finds what the formula gives."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from serving.sparcode import all_to_all
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import INTERACTIONS

RNG = np.random.default_rng(9)
B, K, N, K_C, D, H = 7, 3, 50, 2, 4, 5
USERS, ITEMS = (RNG.normal(size=shape).astype(np.float32) for shape in ((B, K * D), (N, K_C * D)))
NET = INTERACTIONS["mlp"](
    products=RNG.normal(size=(K_C, D)).astype(np.float32),
    hidden=RNG.normal(size=(K_C, H, D)).astype(np.float32),
    hidden_bias=RNG.normal(size=H).astype(np.float32),
    output=RNG.normal(size=H).astype(np.float32),
)
BOOK = Codebook(RNG.normal(size=(2, 3, 2)).astype(np.float32))
BIAS = -0.5


def brute_force(book: Codebook | None) -> np.ndarray:
    tokens = USERS.reshape(-1, D)
    tokens = tokens if book is None else book.decode(book.keys(tokens))
    pairs = NET.scores(tokens, NET.prepare(ITEMS.reshape(N, K_C, D)))
    return np.maximum(pairs + BIAS, 0).reshape(B, K, N).sum(axis=1)


@pytest.mark.parametrize("book", [None, BOOK], ids=["tokens", "codes"])
@pytest.mark.parametrize(("user_block", "item_block"), [(256, 4096), (2, 8)])
def test_lists_are_the_best_of_all_scores(
    book: Codebook | None, user_block: int, item_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_to_all, "USER_BLOCK", user_block)
    monkeypatch.setattr(all_to_all, "ITEM_BLOCK", item_block)
    expected = brute_force(book)
    known = sp.csr_array(RNG.random((B, N)) < 0.2)
    rows, scores = all_to_all.search(
        USERS, ITEMS, interaction=NET, bias=BIAS, codebook=book, k=N, exclude=known.astype(np.float32)
    )
    for user in range(B):
        found = rows[user][rows[user] >= 0]
        allowed = np.flatnonzero((expected[user] > 0) & ~known.toarray()[user])
        assert set(found) == set(allowed)
        np.testing.assert_allclose(scores[user, : len(found)], expected[user][found], rtol=1e-4, atol=1e-5)
        assert (np.diff(scores[user, : len(found)]) <= 0).all()


def test_items_that_are_not_offered_are_in_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_to_all, "ITEM_BLOCK", 8)
    offered = np.random.default_rng(3).random(N) < 0.7
    known = sp.csr_array(np.random.default_rng(4).random((B, N)) < 0.2).astype(np.float32)
    rows, _ = all_to_all.search(
        USERS, ITEMS, interaction=NET, bias=BIAS, codebook=None, k=N, exclude=known, offered=offered
    )
    for own, scores, gone in zip(rows, brute_force(None), known.toarray(), strict=True):
        assert set(own[own >= 0]) == set(np.flatnonzero((scores > 0) & offered & (gone == 0)))


def test_tokens_of_another_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="users have 5 numbers and items 8, expected a multiple of 4 and 8"):
        all_to_all.search(USERS[:, :5], ITEMS, interaction=NET, bias=BIAS, codebook=None, k=3)
