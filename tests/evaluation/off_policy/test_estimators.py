"""Estimates from another policy's log are what a policy earns, with intervals that cover it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from evaluation.off_policy.estimators import (
    Estimate,
    LoggedFeedback,
    cross_fitted_rewards,
    doubly_robust,
    ips,
    snips,
    target_in_list,
)

NUM_TYPES, NUM_ITEMS, NUM_USERS, NUM_EACH, REPETITIONS = 20, 50, 300, 3, 200
Floats = npt.NDArray[np.float64]


def by_hand(**changed: object) -> LoggedFeedback:
    """Three rows of two users; weights 2, 1/2 and 0."""
    values = {
        "users": np.array([4, 4, 9]),
        "rewards": np.array([1.0, 0.0, 3.0]),
        "propensities": np.array([1 / 4, 1.0, 1 / 2]),
        "target_probabilities": np.array([1 / 2, 1 / 2, 0.0]),
        "predicted": np.array([1 / 2, 1.0, 2.0]),
        "predicted_target": np.array([1.0, 1 / 2, 1 / 4]),
    }
    return LoggedFeedback(**{**values, **changed})  # type: ignore[arg-type]


def test_estimates_by_hand() -> None:
    feedback = by_hand()
    # (2 x 1 + 1/2 x 0 + 0 x 3) / 3, and the same over 2 + 1/2.
    assert ips(feedback, num_samples=10, seed=0).value == pytest.approx(2 / 3)
    assert snips(feedback, num_samples=10, seed=0).value == pytest.approx(2 / (5 / 2))
    # (1 + 2 (1 - 1/2)) + (1/2 + 1/2 (0 - 1)) + (1/4 + 0) = 2 + 0 + 1/4.
    found = doubly_robust(feedback, num_samples=10, seed=0)
    assert found.value == pytest.approx((9 / 4) / 3)
    # (5/2)^2 / (4 + 1/4).
    assert found.effective_sample_size == pytest.approx((25 / 4) / (17 / 4))
    assert (found.num_logged, found.share_clipped) == (3, 0.0)


def test_weights_above_the_largest_are_cut_and_counted() -> None:
    found = ips(by_hand(), num_samples=10, seed=0, max_weight=1.5)
    assert found.value == pytest.approx((3 / 2) / 3)
    assert found.share_clipped == pytest.approx(1 / 3)
    assert found.effective_sample_size == pytest.approx(4 / (9 / 4 + 1 / 4))
    # A weight of exactly the largest is whole.
    assert ips(by_hand(), num_samples=10, seed=0, max_weight=2.0).share_clipped == 0


def test_users_are_resampled_whole() -> None:
    # One user's rows give 1 + 1, the other's row 0. Resamples are AA, AB or BB, and so the estimates 1, 2/3 or 0.
    feedback = by_hand(rewards=np.array([1 / 2, 2.0, 0.0]), target_probabilities=np.array([1 / 2, 1 / 2, 1 / 2]))
    # Of one resample, its estimate is both ends.
    seen = {round(ips(feedback, num_samples=1, seed=seed).low, 6) for seed in range(40)}
    assert seen == {1.0, round(2 / 3, 6), 0.0}


def test_a_policy_that_never_shows_the_same_has_no_normalised_estimate() -> None:
    nothing = by_hand(target_probabilities=np.zeros(3))
    assert ips(nothing, num_samples=10, seed=0).value == 0
    found = snips(nothing, num_samples=10, seed=0)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.effective_sample_size == 0


def test_the_logging_policy_itself_is_estimated_at_its_mean_reward() -> None:
    feedback = by_hand(target_probabilities=np.array([1 / 4, 1.0, 1 / 2]))
    for estimate in (ips, snips):
        assert estimate(feedback, num_samples=10, seed=0).value == pytest.approx(4 / 3)


@cache
def world() -> tuple[Floats, Floats, Floats]:
    """Chance of a reward, logging policy and target policy, [types of users, items] each: what sells is shown less."""
    rng = np.random.default_rng(1)
    chances = rng.beta(2, 5, (NUM_TYPES, NUM_ITEMS))
    noise = rng.normal(size=chances.shape)
    return chances, softmax(-2 * chances + 0.5 * noise), softmax(3 * chances + 0.5 * noise)


def softmax(scores: Floats) -> Floats:
    exponents = np.exp(scores)
    shares: Floats = exponents / exponents.sum(axis=1, keepdims=True)
    return shares


def drawn(shares: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """An item of each row of shares."""
    items: npt.NDArray[np.int64] = (rng.random((len(shares), 1)) >= np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
    return items


def truth() -> float:
    chances, _, target = world()
    return float((chances * target).sum(axis=1).mean())


def logged(seed: int, *, model: Floats | None = None) -> LoggedFeedback:
    """Users of types by chance, shown three items each by the logging policy; `model` [types, items] predicts."""
    chances, logging, target = world()
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(NUM_USERS), NUM_EACH)
    types = np.repeat(rng.integers(NUM_TYPES, size=NUM_USERS), NUM_EACH)
    items = drawn(logging[types], rng)
    rewards = (rng.random(len(users)) < chances[types, items]).astype(np.float64)
    feedback = LoggedFeedback(users, rewards, logging[types, items], target[types, items])
    if model is None:
        return feedback
    return replace(feedback, predicted=model[types, items], predicted_target=(model * target)[types].sum(axis=1))


@cache
def repeated() -> dict[str, list[Estimate]]:
    """Estimates of many logs."""
    chances, _, _ = world()
    bad = np.random.default_rng(2).random(chances.shape)
    found: dict[str, list[Estimate]] = {"ips": [], "snips": [], "good model": [], "bad model": []}
    for seed in range(REPETITIONS):
        feedback = logged(seed, model=chances)
        found["ips"].append(ips(feedback, num_samples=200, seed=seed))
        found["snips"].append(snips(feedback, num_samples=200, seed=seed))
        found["good model"].append(doubly_robust(feedback, num_samples=200, seed=seed))
        found["bad model"].append(doubly_robust(logged(seed, model=bad), num_samples=200, seed=seed))
    return found


ESTIMATES = ["ips", "snips", "good model", "bad model"]


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_have_no_bias(name: str) -> None:
    values = np.array([estimate.value for estimate in repeated()[name]])
    # Four standard errors of the mean of the repetitions.
    assert values.mean() == pytest.approx(truth(), abs=4 * values.std() / np.sqrt(REPETITIONS))


@pytest.mark.parametrize("name", ESTIMATES)
def test_intervals_cover_the_truth_at_about_their_level(name: str) -> None:
    covered = sum(estimate.low <= truth() <= estimate.high for estimate in repeated()[name])
    # Binomial with n = 200 and p = .94 (a percentile bootstrap is a little narrow): mean 188, standard deviation 3.4.
    assert 188 - 4 * 3.4 <= covered <= 200


def test_a_good_model_lowers_the_variance() -> None:
    spread = {name: np.var([estimate.value for estimate in found]) for name, found in repeated().items()}
    assert spread["good model"] < 0.5 * spread["ips"]
    assert spread["good model"] < 0.8 * spread["snips"]
    assert spread["bad model"] > spread["good model"]


def test_the_mean_of_the_log_is_not_the_answer() -> None:
    naive = np.array([logged(seed).rewards.mean() for seed in range(50)])
    assert abs(naive.mean() - truth()) > 5 * naive.std()


def test_cutting_weights_lowers_estimate_and_variance() -> None:
    cut = [ips(logged(seed), num_samples=2, seed=0, max_weight=3.0) for seed in range(50)]
    whole = repeated()["ips"][:50]
    assert np.mean([estimate.value for estimate in cut]) < truth()
    assert np.var([estimate.value for estimate in cut]) < np.var([estimate.value for estimate in whole])
    assert all(0 < estimate.share_clipped < 1 for estimate in cut)


def test_a_cross_fitted_model_lowers_the_variance_and_brings_no_bias() -> None:
    # Rewards of up to 1 a row with a mean far from 0: what a mean already explains is no weight's business.
    plain, robust = [], []
    chances, logging, target = world()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        types = rng.integers(NUM_TYPES, size=NUM_USERS)
        items = drawn(logging[types], rng)
        rewards = 2 + chances[types, items]
        model = cross_fitted_rewards(
            np.arange(NUM_USERS), items, rewards, num_items=NUM_ITEMS, num_folds=5, seed=seed, prior_rows=5.0
        )
        feedback = LoggedFeedback(
            np.arange(NUM_USERS),
            rewards,
            logging[types, items],
            target[types, items],
            model.of(items),
            model.expected(target, types),
        )
        plain.append(ips(feedback, num_samples=1, seed=0).value)
        robust.append(doubly_robust(feedback, num_samples=1, seed=0).value)
    assert np.var(robust) < 0.2 * np.var(plain)
    assert np.mean(robust) == pytest.approx(2 + truth(), abs=4 * np.std(robust) / np.sqrt(100))


def test_a_list_shows_its_items_at_any_position() -> None:
    ranked = np.array([[3, 0, -1], [2, 1, 0], [-1, -1, -1]], np.int32)
    users, items = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 3, 1, 0, 7, 0, 2])
    assert target_in_list(ranked, users, items).tolist() == [1, 1, 0, 1, 0, 0, 0]


def test_positions_add_up_to_the_reward_of_the_list() -> None:
    # Two arms share users evenly; item i earns i / 10 in any list. The target shows the second arm's lists.
    lists = np.array([[0, 1], [1, 2]])
    users = np.repeat(np.arange(400), 2)
    items = lists[np.arange(400) % 2].ravel()
    # Item 1 is in both lists, and so shown to everybody: its propensity is 1.
    propensities = np.where(items == 1, 1.0, 0.5)
    ranked = np.tile(lists[1], (400, 1))
    feedback = LoggedFeedback(users, items / 10, propensities, target_in_list(ranked, users, items))
    # A place of the list (1, 2) earns (.1 + .2) / 2.
    assert ips(feedback, num_samples=2, seed=0).value == pytest.approx(0.15)


def test_an_unknown_list_or_item_is_named() -> None:
    with pytest.raises(ValueError, match="1 of 2 users are not as expected, 0 to 0, rows of the lists: 1 in row 1"):
        target_in_list(np.zeros((1, 2), np.int32), np.array([0, 1]), np.array([0, 0]))
    with pytest.raises(ValueError, match="1 of 1 items are not as expected, rows from 0 on: -1 in row 0"):
        target_in_list(np.zeros((1, 2), np.int32), np.array([0]), np.array([-1]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": np.zeros(2)}, r"shapes are .*'rewards': \(2,\).*expected one and the same"),
        ({"users": np.array([0, -1, 2])}, "1 of 3 users .*rows from 0 on: -1 in row 1"),
        ({"rewards": np.array([np.nan, 1, np.inf])}, "2 of 3 rewards .*finite numbers: nan in row 0, inf in row 2"),
        ({"propensities": np.array([0, 1, 1.5])}, r"2 of 3 propensities .*above 0 up to 1: 0 in row 0, 1\.5 in row 2"),
        ({"target_probabilities": np.array([0, 1, -0.5])}, r"1 of 3 target_probabilities .*0 to 1: -0\.5 in row 2"),
        ({"predicted": np.array([0, np.nan, 1])}, "1 of 3 predicted .*finite numbers: nan in row 1"),
        ({"predicted_target": None}, "one of predicted and predicted_target is None"),
    ],
)
def test_faulty_feedback_is_named_by_row(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changed)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="with n of at least 1"):
        LoggedFeedback(np.zeros(0, np.int64), *[np.zeros(0)] * 3)


def test_missing_and_invalid_inputs_of_estimates_are_refused() -> None:
    with pytest.raises(ValueError, match="no predictions; give predicted and predicted_target, or take snips"):
        doubly_robust(by_hand(predicted=None, predicted_target=None), num_samples=10, seed=0)
    with pytest.raises(ValueError, match="max_weight is 0, expected above 0"):
        ips(by_hand(), num_samples=10, seed=0, max_weight=0)
