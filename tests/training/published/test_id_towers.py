"""Towers of ids find out who belongs together, the same way with the same seed."""

import numpy as np
import pytest

from training.published.id_towers import IdTowerSettings, fit_id_towers, num_batches

SETTINGS = IdTowerSettings(
    embedding_dim=8,
    num_hops=1,
    temperature=0.2,
    epochs=12,
    batch_users=10,
    num_uniform=10,
    learning_rate=0.05,
)


@pytest.fixture(scope="module")
def pairs():
    """Sixty users in two groups; each has met six of the twenty items of its group."""
    rng = np.random.default_rng(0)
    items = np.concatenate([user % 2 * 20 + rng.choice(20, 6, replace=False) for user in range(60)])
    return np.repeat(np.arange(60), 6), items


def fit(pairs, settings=SETTINGS, *, seed=1, num_users=60, on_step=lambda loss: None):
    return fit_id_towers(*pairs, settings, num_users=num_users, num_items=40, seed=seed, on_step=on_step)


def test_users_score_items_of_their_group_above_all_others(pairs):
    users, items = fit(pairs)
    scores = users @ items.T
    own = np.arange(40)[None, :] // 20 == np.arange(60)[:, None] % 2
    gap = scores[own].reshape(60, 20).mean(1) - scores[~own].reshape(60, 20).mean(1)
    assert gap.min() > 0.2
    assert gap.mean() > 0.5


def test_vectors_have_length_one_and_the_loss_falls(pairs):
    losses = []
    users, items = fit(pairs, on_step=losses.append)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    assert len(losses) == 12 * num_batches(pairs[0], 10)
    assert np.mean(losses[-6:]) < np.mean(losses[:6])


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(pairs):
    first, again, other = (fit(pairs, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_a_user_without_pairs_gets_the_mean_direction(pairs):
    users, _ = fit(pairs, num_users=61)
    np.testing.assert_allclose(users[60], users[:60].mean(axis=0), atol=1e-6)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs to fit"):
        fit((np.zeros(0, np.int64), np.zeros(0, np.int64)))


def test_users_are_cut_into_equal_batches():
    assert num_batches(np.array([0, 0, 1, 5]), 2) == 2
    assert num_batches(np.array([3]), 100) == 1
