"""A verdict follows from the interval, the test and what blocks, and has its reasons."""

from __future__ import annotations

import math

import pytest

from evaluation.statistics import Interval, decide


def interval(mean: float, low: float, high: float, num_users: int = 100) -> Interval:
    return Interval(mean, low, high, num_users)


BETTER, WORSE, LEVEL = interval(0.02, 0.01, 0.03), interval(-0.02, -0.03, -0.01), interval(0.0, -0.01, 0.01)


def test_a_significantly_better_arm_ships() -> None:
    verdict = decide(BETTER, metric="recall@10", p_value=0.003)
    assert verdict.decision == "ship"
    assert verdict.reasons[0] == "better: recall@10 +0.0200 [+0.0100, +0.0300], all of it above 0"
    assert verdict.reasons[1] == "permutation test p = 0.003"


def test_a_significantly_worse_arm_does_not_ship() -> None:
    verdict = decide(WORSE, metric="recall@10")
    assert verdict.decision == "do not ship"
    assert verdict.reasons == ("worse: recall@10 -0.0200 [-0.0300, -0.0100], all of it below 0",)


def test_is_undecided_where_the_interval_holds_nothing_and_where_the_test_disagrees() -> None:
    assert decide(LEVEL, metric="mrr").decision == "undecided"
    verdict = decide(BETTER, metric="mrr", p_value=0.06)
    assert verdict.decision == "undecided"
    assert "but not by the permutation test, p = 0.06" in verdict.reasons[0]


def test_is_undecided_without_users_to_compare_on() -> None:
    verdict = decide(interval(math.nan, math.nan, math.nan, 0), metric="mrr")
    assert verdict.decision == "undecided"
    assert verdict.reasons == ("no user has a figure of mrr for both",)


@pytest.mark.parametrize(
    ("difference", "decision"),
    [(LEVEL, "ship"), (interval(-0.02, -0.03, 0.0), "undecided"), (interval(-0.04, -0.05, -0.03), "do not ship")],
)
def test_a_margin_asks_for_not_much_worse_instead_of_better(difference: Interval, decision: str) -> None:
    assert decide(difference, metric="recall@10", lowest=-0.02, p_value=0.9).decision == decision


def test_blockers_keep_a_better_arm_back_and_warnings_do_not() -> None:
    blocked = decide(BETTER, metric="mrr", blockers=["the server answers with other lists"], warnings=["tail is worse"])
    assert blocked.decision == "do not ship"
    assert blocked.reasons[0] == "the server answers with other lists"
    warned = decide(BETTER, metric="mrr", warnings=["tail is worse"])
    assert warned.decision == "ship"
    assert warned.reasons[-1] == "tail is worse"


@pytest.mark.parametrize(("lowest", "alpha"), [(0.1, 0.05), (0.0, 0.0), (0.0, 1.0)])
def test_refuses_settings_out_of_range(lowest: float, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"lowest is {lowest} and alpha {alpha}; expected at most 0"):
        decide(BETTER, metric="mrr", lowest=lowest, alpha=alpha)
