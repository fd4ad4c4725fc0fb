"""Users are assigned to arms as configured, for good, and independently of other experiments."""

from __future__ import annotations

import numpy as np
import pytest

from serving.arms import Arm, Arms, one_arm

USERS = [f"user {number}" for number in range(20_000)]


def numbers(shares: list[float], salt: str) -> np.ndarray:
    arms = Arms([Arm(str(number), share) for number, share in enumerate(shares)], salt=salt)
    return np.array([int(arm.name) for arm in arms.of(USERS)])


def test_shares_are_as_configured() -> None:
    found = np.bincount(numbers([0.7, 0.2, 0.1], "a")) / len(USERS)
    # Four standard deviations.
    np.testing.assert_allclose(found, [0.7, 0.2, 0.1], atol=4 * np.sqrt(0.25 / len(USERS)))


def test_a_user_keeps_the_arm_and_another_salt_reassigns_users() -> None:
    first, again, other = numbers([0.5, 0.5], "a"), numbers([0.5, 0.5], "a"), numbers([0.5, 0.5], "b")
    np.testing.assert_array_equal(first, again)
    assert abs((first == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(USERS))


def test_a_larger_last_share_takes_users_from_its_neighbour_only() -> None:
    before, after = numbers([0.5, 0.4, 0.1], "a"), numbers([0.5, 0.3, 0.2], "a")
    assert set(after[before == 1].tolist()) == {1, 2}
    np.testing.assert_array_equal(before[before != 1], after[before != 1])


def test_one_arm_takes_everybody() -> None:
    assert {arm.name for arm in one_arm().of(USERS[:3])} == {"default"}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "expected at least one"),
        ([Arm("a", 0.5), Arm("a", 0.5)], "distinct names"),
        ([Arm("a", 0.5), Arm("b", 0.4)], "a 0.5, b 0.4, expected each at least 0.0001 and a sum of 1"),
        ([Arm("a", 1.0), Arm("b", 0.00001)], "a sum of 1"),
    ],
)
def test_arms_that_do_not_cover_all_users_are_refused(arms: list[Arm], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arms(arms, salt="")
