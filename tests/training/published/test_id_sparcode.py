"""What SparCode gets from towers of ids: the same scores, other items for histories, corrected batches."""

from math import comb

import numpy as np
import pytest

from features.columns import ITEM_ID, USER_ID
from features.encoding import HISTORY
from features.sources.lightgcn import Pairs
from training.published.sparcode import (
    examples,
    frozen_towers,
    history_vectors,
    pair_batches,
    unit_vectors,
    user_inputs,
)
from training.trainer import embed

NUM_USERS, NUM_ITEMS, LENGTH = 7, 12, 4


@pytest.fixture
def vectors():
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=(rows, 3)).astype(np.float32) for rows in (NUM_USERS, NUM_ITEMS))


@pytest.fixture
def pairs():
    """User u has u of the items, in no order: from fewer than a history holds to more; user 0 has none."""
    rng = np.random.default_rng(2)
    items = [rng.permutation(NUM_ITEMS)[:user] for user in range(NUM_USERS)]
    return Pairs(np.repeat(np.arange(NUM_USERS), np.arange(NUM_USERS)), np.concatenate(items).astype(np.int64))


def test_inner_products_are_the_same_up_to_a_factor_of_each_user(vectors):
    users, items = unit_vectors(*vectors)
    scores = vectors[0] @ vectors[1].T
    longest = max(np.linalg.norm(item) for item in vectors[1])
    factors = [1 / (np.linalg.norm(user) * longest) for user in vectors[0]]
    np.testing.assert_allclose(users @ items.T, scores * np.array(factors)[:, None], atol=1e-6)


def test_both_sides_have_length_one_and_users_nothing_where_items_have_their_missing_length(vectors):
    users, items = unit_vectors(*vectors)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-6)
    assert (users[:, -1] == 0).all()
    longest = np.linalg.norm(vectors[1], axis=1).argmax()
    assert items[longest, -1] == pytest.approx(0, abs=1e-3)


def test_a_history_reads_items_without_their_missing_length(vectors):
    _, items = unit_vectors(*vectors)
    found = history_vectors(items)
    assert (found[0] == 0).all()
    assert (found[:, -1] == 0).all()
    np.testing.assert_array_equal(found[1:, :-1], items[:, :-1])


def test_towers_look_vectors_up_by_row_and_do_not_learn(vectors, pairs):
    users, items = vectors
    towers = frozen_towers(users, items, history_length=LENGTH)
    inputs = user_inputs(pairs, num_users=NUM_USERS, history_length=LENGTH)
    np.testing.assert_array_equal(embed(towers.user, inputs), users)
    np.testing.assert_array_equal(embed(towers.item, {ITEM_ID: np.array([3, 1], np.int32)}), items[[2, 0]])
    assert towers.user.trainable_variables == towers.item.trainable_variables == []


def test_a_users_history_is_the_latest_items_the_last_one_first(pairs):
    inputs = user_inputs(pairs, num_users=NUM_USERS, history_length=LENGTH)
    np.testing.assert_array_equal(inputs[USER_ID], np.arange(NUM_USERS) + 1)
    for user in range(NUM_USERS):
        own = pairs.items[pairs.users == user][::-1][:LENGTH] + 1
        np.testing.assert_array_equal(inputs[HISTORY][user], [*own, *[0] * (LENGTH - len(own))])


def test_the_history_of_a_pair_is_the_users_latest_other_items(pairs):
    span = examples(pairs, num_users=NUM_USERS, num_items=NUM_ITEMS, history_length=LENGTH)
    assert len(span) == len(pairs) == 21
    for example, (user, item) in enumerate(zip(pairs.users, pairs.items, strict=True)):
        history = span.users[HISTORY][span.user_row[example]]
        others = [row + 1 for row in pairs.items[pairs.users == user][::-1] if row != item][:LENGTH]
        assert item + 1 not in history
        np.testing.assert_array_equal(history, [*others, *[0] * (LENGTH - len(others))])


def test_an_epoch_has_every_pair_once_and_candidates_corrected_for_how_likely_they_are_there(pairs):
    batches_of = pair_batches(
        pairs, num_users=NUM_USERS, num_items=NUM_ITEMS, history_length=LENGTH, batch_size=7, num_uniform=3, seed=1
    )
    batches = list(batches_of(0))
    seen = []
    counts, others = np.bincount(pairs.items, minlength=NUM_ITEMS), len(pairs) - 1
    for batch in batches:
        user, item = batch[f"user/{USER_ID}"] - 1, batch[f"item/{ITEM_ID}"] - 1
        assert (len(user), len(item)) == (7, 10)
        seen += zip(user, item[:7], strict=True)
        # There unless none of the six other rows has it, and none of three draws out of twelve items is it.
        absent = np.array([comb(others - counts[one], 6) / comb(others, 6) for one in item]) * (1 - 3 / 12)
        np.testing.assert_allclose(batch["log_q"], np.log(1 - absent), rtol=1e-5)
        knows = [[candidate in pairs.items[pairs.users == row] for candidate in item] for row in user]
        elsewhere = ~np.eye(7, 10, dtype=bool)
        assert batch["mask"][np.array(knows) & elsewhere].all()
        assert not batch["mask"][~elsewhere].any()
    assert sorted(seen) == sorted(zip(pairs.users, pairs.items, strict=True))


def test_epochs_differ_and_the_same_one_comes_again(pairs):
    batches_of = pair_batches(
        pairs, num_users=NUM_USERS, num_items=NUM_ITEMS, history_length=LENGTH, batch_size=7, num_uniform=3, seed=1
    )
    first, again, other = ([batch[f"item/{ITEM_ID}"] for batch in batches_of(epoch)] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.array(first) != np.array(other)).any()
