"""Use of interests: shares of the pairs by interest and mean cosines, by a slow twin, and what is warned of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from evaluation.interests import interest_use

RNG = np.random.default_rng(2)
U, K, D, N = 6, 3, 4, 9


def test_shares_and_cosines_are_those_of_the_learned_part() -> None:
    learned = RNG.normal(size=(U, K, D)).astype(np.float32)
    learned /= np.linalg.norm(learned, axis=2, keepdims=True)
    # The same two numbers behind each vector of a user.
    rest = np.repeat(RNG.normal(size=(U, 1, 2)), K, axis=1).astype(np.float32)
    users = np.concatenate([learned, rest], axis=2).reshape(U, K * (D + 2))
    items = RNG.normal(size=(N, D + 2)).astype(np.float32)
    pairs = sp.csr_array((RNG.random((U, N)) < 0.4).astype(np.float32))
    counts, cosines = np.zeros(K), []
    for user, item in zip(*pairs.nonzero(), strict=True):
        counts[int(np.argmax([head @ items[item, :D] for head in learned[user]]))] += 1
    for user in range(U):
        cosines += [learned[user, one] @ learned[user, other] for one, other in ((0, 1), (0, 2), (1, 2))]
    found = interest_use(users, items, pairs, learned_width=D, seed=1)
    np.testing.assert_allclose(found.shares, counts / counts.sum(), rtol=1e-6)
    assert found.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found.metrics()["interest_2_share"] == pytest.approx(counts[1] / counts.sum())
    assert found.warnings() == []


def test_interests_that_are_one_and_that_nothing_picks_are_warned_of() -> None:
    items, pairs = RNG.normal(size=(N, D)).astype(np.float32), sp.csr_array(np.ones((U, N), np.float32))
    users = RNG.normal(size=(U, 1, D)).astype(np.float32)
    same = interest_use(np.tile(users, (1, K, 1)).reshape(U, -1), items, pairs, learned_width=D, seed=1)
    np.testing.assert_allclose(same.shares, 1 / K)
    assert "a cosine of 1.000 on average: interests have collapsed onto one" in " ".join(same.warnings())
    # The third is nearest to nothing: it points away from all items that the first finds.
    apart = np.concatenate([users, -users, np.zeros((U, 1, D), np.float32)], axis=1)
    [warning] = interest_use(apart.reshape(U, -1), items, pairs, learned_width=D, seed=1).warnings()
    assert "of 3 interests, hardly any item picks 3: they are not used" in warning
