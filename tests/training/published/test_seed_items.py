"""A user's latest items and the items' popularity enter the vectors by the formula."""

import numpy as np
import pytest

from training.published.lightgcn import SeedSettings, with_seed_items

USERS, ITEMS = np.array([0, 0, 1]), np.array([2, 1, 1])
FROM_LAST = np.array([1, 0, 0])
TEMPERATURE = 0.5


@pytest.fixture
def vectors():
    rng = np.random.default_rng(1)
    found = [rng.normal(size=(rows, 3)) for rows in (3, 4)]
    return tuple((part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in found)


def asked(vectors, *, weight=0.0, decay_items=1.0, adjacent=0.0, popularity=0.0):
    settings = SeedSettings(weight=weight, decay_items=decay_items, adjacent=adjacent, popularity=popularity)
    return with_seed_items(*vectors, USERS, ITEMS, FROM_LAST, settings, temperature=TEMPERATURE)


def test_without_weight_and_popularity_scores_stay_as_they_are(vectors):
    users, items = asked(vectors)
    np.testing.assert_allclose(users @ items.T, vectors[0] @ vectors[1].T, atol=1e-6)


def test_popularity_adds_the_logarithm_of_the_pairs_in_units_of_the_temperature(vectors):
    users, items = asked(vectors, popularity=0.4)
    # Item 1 has two pairs, item 2 one; items without a pair count as with one.
    prior = 0.4 * TEMPERATURE * np.log([1, 2, 1, 1])
    np.testing.assert_allclose(users @ items.T, vectors[0] @ vectors[1].T + prior, atol=1e-6)


def test_latest_items_count_by_how_many_came_after_them(vectors):
    users, _ = asked(vectors, weight=2.0, decay_items=3.0)
    seed = np.exp(-1 / 3) * vectors[1][2] + vectors[1][1]
    expected = vectors[0][0] + 2.0 * seed / np.linalg.norm(seed)
    np.testing.assert_allclose(users[0, :3], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(users[:, :3], axis=1), 1, atol=1e-6)


def test_a_user_without_items_keeps_its_own_vector(vectors):
    users, _ = asked(vectors, weight=2.0)
    np.testing.assert_allclose(users[2, :3], vectors[0][2], atol=1e-6)


def test_items_next_to_each_other_in_a_users_order_come_closer(vectors):
    _, items = asked(vectors, adjacent=0.5)
    # Items 2 and 1 follow each other for user 0; user 1 has one item, next to nothing.
    expected = vectors[1][[2, 1]] + 0.5 * vectors[1][[1, 2]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(items[[2, 1], :3], expected, atol=1e-6)
    np.testing.assert_allclose(items[[0, 3], :3], vectors[1][[0, 3]], atol=1e-6)


def test_adjacent_items_count_by_how_often_they_are_next_to_each_other():
    items = np.eye(3, dtype=np.float32)
    order = np.array([0, 1, 0, 1, 0, 2])
    users = np.array([0, 0, 1, 1, 2, 2])
    settings = SeedSettings(weight=0.0, decay_items=1.0, adjacent=1.0, popularity=0.0)
    _, found = with_seed_items(items, items, users, order, np.zeros(6), settings, temperature=1.0)
    # Item 0 is next to item 1 twice, next to item 2 once.
    np.testing.assert_allclose(found[0, :3] / found[0, 0], [1, 2 / 3, 1 / 3], atol=1e-6)
