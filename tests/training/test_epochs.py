"""Early stopping: which epoch is the best, and when a fit ends."""

from __future__ import annotations

import math

import pytest

from training.epochs import EarlyStopping, EpochReport

NAN = math.nan


def reports(*recalls: float) -> list[EpochReport]:
    return [EpochReport(number, 1.0, {"recall_at_5": recall}) for number, recall in enumerate(recalls, start=1)]


@pytest.mark.parametrize(
    ("recalls", "best"),
    [
        ([0.2], 1),
        ([0.2, 0.3, 0.25], 2),
        ([0.3, 0.2, 0.3], 1),
        ([NAN, 0.1, NAN], 2),
        # Nobody met anything new: there is nothing to choose by.
        ([NAN, NAN], 2),
    ],
)
def test_the_best_epoch_has_the_highest_recall_and_is_the_first_of_equal_ones(recalls: list[float], best: int) -> None:
    assert EarlyStopping("recall_at_5", patience=2).best(reports(*recalls)) == best


def test_a_fit_ends_after_as_many_epochs_without_a_better_one_as_it_is_patient() -> None:
    recalls = [0.2, 0.3, 0.25, 0.3, 0.1]
    ended = [
        [EarlyStopping("recall_at_5", patience).ends(reports(*recalls[:num])) for num in range(1, 6)]
        for patience in (1, 2, 3)
    ]
    assert ended == [
        [False, False, True, True, True],
        [False, False, False, True, True],
        [False, False, False, False, True],
    ]
