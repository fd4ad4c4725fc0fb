"""The expected reward of an item is estimated from other users alone."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.off_policy.estimators import cross_fitted_rewards

USERS = np.array([5, 5, 7, 7, 8, 8, 9])
ITEMS = np.array([0, 1, 0, 2, 0, 1, 1])
REWARDS = np.array([1.0, 0.0, 2.0, 4.0, 3.0, 1.0, 0.5])


def test_rewards_are_those_of_a_loop_over_the_other_folds() -> None:
    model = cross_fitted_rewards(USERS, ITEMS, REWARDS, num_items=4, num_folds=2, seed=3, prior_rows=1.5)
    assert sorted(np.bincount([model.folds[0], model.folds[2], model.folds[4], model.folds[6]]).tolist()) == [2, 2]
    for fold in range(2):
        outside = model.folds != fold
        mean = REWARDS[outside].mean()
        for item in range(4):
            own = REWARDS[outside & (item == ITEMS)]
            expected = (own.sum() + 1.5 * mean) / (len(own) + 1.5)
            assert model.item_rewards[fold, item] == pytest.approx(expected)


def test_a_users_rows_share_a_fold_and_their_rewards_change_nothing_expected_of_them() -> None:
    plain = cross_fitted_rewards(USERS, ITEMS, REWARDS, num_items=3, num_folds=4, seed=0, prior_rows=1.0)
    assert (plain.folds[[0, 2, 4]] == plain.folds[[1, 3, 5]]).all()
    changed = np.where(USERS == 7, 100.0, REWARDS)
    other = cross_fitted_rewards(USERS, ITEMS, changed, num_items=3, num_folds=4, seed=0, prior_rows=1.0)
    of_seven = USERS == 7
    np.testing.assert_array_equal(plain.of(ITEMS)[of_seven], other.of(ITEMS)[of_seven])
    assert (plain.of(ITEMS)[~of_seven] != other.of(ITEMS)[~of_seven]).all()


def test_a_policys_expectation_is_the_weighted_mean_of_its_items() -> None:
    model = cross_fitted_rewards(USERS, ITEMS, REWARDS, num_items=3, num_folds=2, seed=1, prior_rows=1.0)
    policies = np.array([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
    contexts = np.array([0, 1, 0, 1, 0, 1, 1])
    found = model.expected(policies, contexts)
    for row in range(7):
        rewards = model.item_rewards[model.folds[row]]
        expected = rewards[0] if contexts[row] == 0 else rewards[1] / 4 + 3 * rewards[2] / 4
        assert found[row] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_folds": 1}, "num_folds is 1, expected 2 to 4"),
        ({"num_folds": 5}, "num_folds is 5, expected 2 to 4, the number of users"),
        ({"num_items": 2}, "items run from 0 to 2, expected 0 to 1"),
        ({"prior_rows": 0.0}, r"prior_rows is 0\.0, expected above 0"),
    ],
)
def test_faulty_arguments_are_refused(changed: dict[str, float], message: str) -> None:
    arguments = {"num_items": 3, "num_folds": 2, "seed": 0, "prior_rows": 1.0, **changed}
    with pytest.raises(ValueError, match=message):
        cross_fitted_rewards(USERS, ITEMS, REWARDS, **arguments)  # type: ignore[arg-type]


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="7 users, 7 items and 6 rewards"):
        cross_fitted_rewards(USERS, ITEMS, REWARDS[1:], num_items=3, num_folds=2, seed=0, prior_rows=1.0)
