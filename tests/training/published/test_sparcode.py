"""SparCode over towers of ids begins as those towers, learns from pairs, and is evaluated by the same rules."""

from dataclasses import replace

import numpy as np
import pytest

from features.sources.lightgcn import Pairs
from training.published import sparcode as published_sparcode
from training.published.sparcode import Choice, IdTowers, choose, figures, fit_over, search_sparcode, search_towers

NUM_USERS, NUM_ITEMS = 30, 60
PLAIN = Choice(parts=2, codes=NUM_USERS, interest_tokens=0, scale=1.0, epochs=0)


@pytest.fixture(scope="module")
def pairs():
    """Users in two groups, each of which has met ten of its thirty items; three of them are set apart."""
    rng = np.random.default_rng(1)
    items = np.stack([user % 2 * 30 + rng.choice(30, 10, replace=False) for user in range(NUM_USERS)])
    users = np.arange(NUM_USERS)[:, None]
    return tuple(
        Pairs(np.broadcast_to(users, part.shape).ravel(), part.ravel()) for part in (items[:, :7], items[:, 7:])
    )


@pytest.fixture(scope="module")
def towers(pairs):
    """Vectors of unequal length whose first coordinate separates the groups, of users faintly; the others are noise."""
    rng = np.random.default_rng(2)
    users, items = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (NUM_USERS, NUM_ITEMS))
    users[:, 0] = 0.5 - np.arange(NUM_USERS) % 2
    items[:, 0] = 1 - np.arange(NUM_ITEMS) // 30 * 2
    return IdTowers(users, items, pairs[0], temperature=1.0)


def test_without_training_and_with_a_code_for_each_user_lists_are_those_of_the_towers(towers):
    users = np.arange(NUM_USERS)
    # Scores at or below -bias are cut at 0; the first five are well above.
    expected = search_towers(towers, users, k=5)
    found = search_sparcode(fit_over(towers, PLAIN, seed=1, title="a test"), towers, users, k=5)
    np.testing.assert_array_equal(found, expected)


def test_fewer_codes_than_users_give_users_of_one_code_one_list(towers):
    untrained = replace(towers, pairs=Pairs(np.array([0, NUM_USERS - 1]), np.array([0, 0])))
    sparcode = fit_over(untrained, replace(PLAIN, parts=1, codes=2), seed=1, title="a test")
    lists = search_sparcode(sparcode, untrained, np.arange(1, NUM_USERS - 1), k=5)
    assert len(np.unique(lists, axis=0)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("interest_tokens", [0, 3])
def test_it_learns_the_groups_and_never_lists_known_items(towers, pairs, interest_tokens, monkeypatch):
    settings = published_sparcode.FIXED.model_copy(update={"learning_rate": 0.01, "batch_size": 16})
    monkeypatch.setattr(published_sparcode, "FIXED", settings)
    users, recalls = np.arange(NUM_USERS), []

    def evaluate(sparcode):
        ranked = search_sparcode(sparcode, towers, users, k=50)
        known = towers.known(users).toarray()
        assert not any(known[user, items[items >= 0]].any() for user, items in enumerate(ranked))
        recalls.append(figures(ranked, pairs[1], num_items=NUM_ITEMS)["recall@20"])
        return {}

    fit_over(
        towers, replace(PLAIN, interest_tokens=interest_tokens, epochs=20), seed=1, title="a test", evaluate=evaluate
    )
    assert len(recalls) == 21
    # By chance 20 of the 53 unknown items would be .38; knowing the group, 20 of 23 is .87.
    assert recalls[0] < 0.6
    assert recalls[-1] > 0.75


def test_figures_by_hand():
    # User 3 finds the one item in place 2; user 5 one of two, in place 30.
    held_out = Pairs(np.array([3, 5, 5]), np.array([8, 1, 59]))
    places = np.arange(50)
    ranked = np.stack([np.array([7, 8, *[-1] * 48]), np.where(places == 29, 1, places + 2)]).astype(np.int32)
    found = figures(ranked, held_out, num_items=NUM_ITEMS)
    assert found["recall@20"] == pytest.approx((1 + 0) / 2)
    assert found["ndcg@20"] == pytest.approx((1 / np.log2(3) + 0) / 2)
    assert found["recall@50"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.slow
def test_each_change_is_tried_on_top_of_the_best_so_far_with_every_number_of_epochs(towers, pairs, monkeypatch):
    monkeypatch.setattr(published_sparcode, "FIRST", PLAIN)
    monkeypatch.setattr(published_sparcode, "CHANGES", ({"codes": 2}, {"interest_tokens": 1}))
    trials = choose(towers, pairs[1], seed=1)
    assert [trial.choice.epochs for trial in trials] == [0, 1, 2] * 3
    assert trials[3].choice == replace(PLAIN, codes=2)
    best = max(trials[:6], key=lambda trial: trial.recall).choice
    assert trials[6].choice == replace(best, interest_tokens=1, epochs=0)
