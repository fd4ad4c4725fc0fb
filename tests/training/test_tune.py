"""A study of trials: the first has the configuration's own values, it is the same after a kill, and prunes by epoch."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from artefacts.config import ConfigError, pick
from artefacts.paths import RunPaths
from evaluation.tuning import Trial, Tuning
from training import tune as module
from training.config import TrainSections
from training.search_space import Choices, Range
from training.tune import FIRST_COMPARED, Task, tune
from twinspire.load_config import load, with_values

CONFIG = load(Path(__file__).parents[2] / "configs" / "tables_example.yaml", ["training.learning_rate=0.02"])
NUM_USERS = 40
OnEpoch = Callable[[int, float], None]
RATE, DROPOUT = "training.learning_rate", "training.history_dropout"
SPACE = (Range(RATE, 0.0003, 0.03), Choices(DROPOUT, (0.0, 0.3, 0.6)))
OWN = {RATE: 0.02, DROPOUT: 0.3}


class Killed(BaseException):
    """As by a signal."""


def sections_of(values: Mapping[str, Any]) -> TrainSections:
    return pick(TrainSections, with_values(CONFIG, values, source="a trial"))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task("shop", RunPaths(tmp_path, dt.date(2024, 6, 1)), SPACE, OWN, sections_of, "study1", 200)


def recall_of(sections: TrainSections) -> float:
    """Best at a learning rate of .001 and little dropout."""
    training = sections.training
    return 0.5 - 0.1 * abs(math.log10(training.learning_rate / 0.001)) - 0.1 * training.history_dropout


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stands in for fits of three epochs; the learning rates that were fitted."""
    rates: list[float] = []

    def fit(
        sections: TrainSections, paths: RunPaths, *, unfinished: Path, on_epoch: OnEpoch
    ) -> tuple[float, npt.NDArray[np.float64]]:
        rates.append(sections.training.learning_rate)
        unfinished.mkdir()
        recalls = [recall_of(sections) - missing for missing in (0.02, 0.01, 0.0)]
        for epoch, recall in enumerate(recalls, start=1):
            on_epoch(epoch, recall)
        return recalls[-1], recalls[-1] + np.linspace(-0.1, 0.1, NUM_USERS)

    monkeypatch.setattr(module, "fit_trial", fit)
    return rates


def same(one: Tuning, other: Tuning) -> bool:
    """Whether two studies are the same but for the time that they took."""
    first, second = (
        replace(found, trials=tuple(replace(t, seconds=0.0) for t in found.trials)) for found in (one, other)
    )
    return first == second


def test_the_first_trial_has_the_configurations_own_values_and_the_best_is_found(
    task: Task, fitted: list[float]
) -> None:
    found = tune(task, num_trials=12)
    assert found.trials[0].values == OWN
    assert found.trials[0].recalls == pytest.approx(
        [recall_of(sections_of(OWN)) - missing for missing in (0.02, 0.01, 0)]
    )
    assert len(found.trials) == len(fitted) == 12
    finished = [one for one in found.trials if one.outcome == "finished"]
    assert found.trials[found.best].recall == max(one.recall for one in finished)
    # The stand-in's users all gain alike, so that nothing is noise.
    assert found.is_better
    assert found.difference.mean == pytest.approx(found.trials[found.best].recall - found.trials[0].recall)
    assert found.changes[RATE] == (0.02, found.trials[found.best].values[RATE])
    assert found.level == pytest.approx(1 - 0.05 / 11)
    assert sum(found.importance.values()) == pytest.approx(1)
    assert set(found.importance) == {RATE, DROPOUT}


def test_the_same_seed_draws_the_same_trials_and_another_one_others(
    task: Task, fitted: list[float], tmp_path: Path
) -> None:
    found = tune(task, num_trials=8)
    again = tune(replace(task, paths=RunPaths(tmp_path / "again", task.paths.as_of)), num_trials=8)
    assert same(found, again)

    def other_seed(values: Mapping[str, Any]) -> TrainSections:
        return replace(sections_of(values), seed=7)

    other = tune(replace(task, digest="study2", sections_of=other_seed), num_trials=8)
    assert other.trials[0].values == OWN
    assert other.trials[1].values != found.trials[1].values


def test_a_study_that_is_killed_in_a_trial_continues_with_that_trial(
    task: Task, fitted: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = tune(replace(task, paths=RunPaths(tmp_path / "whole", task.paths.as_of)), num_trials=8)
    fit = module.fit_trial

    def killed(*arguments: Any, on_epoch: OnEpoch, **given: Any) -> Any:
        def die(epoch: int, recall: float) -> None:
            on_epoch(epoch, recall)
            if len(fitted) == 8 + 5 and epoch == 2:
                raise Killed

        return fit(*arguments, on_epoch=die, **given)

    monkeypatch.setattr(module, "fit_trial", killed)
    with pytest.raises(Killed):
        tune(task, num_trials=8)
    (left,) = task.paths.tune.glob(".*.fit")
    assert left == task.unfinished(4)
    left.rmdir()
    monkeypatch.setattr(module, "fit_trial", fit)
    assert same(tune(task, num_trials=8), whole)
    assert not list(task.paths.tune.glob(".*.fit"))
    # All are done: the same call fits nothing.
    num_fits = len(fitted)
    assert same(tune(task, num_trials=8), whole)
    assert len(fitted) == num_fits


def test_more_trials_continue_a_study_and_another_digest_begins_one(task: Task, fitted: list[float]) -> None:
    few = tune(task, num_trials=4)
    more = tune(task, num_trials=6)
    assert more.trials[:4] == few.trials
    other = tune(replace(task, digest="study2"), num_trials=1)
    assert (len(other.trials), other.best, other.is_better) == (1, 0, False)
    assert len(tune(task, num_trials=6).trials) == 6


def test_a_trial_behind_the_median_of_earlier_ones_is_pruned_at_its_second_epoch(
    task: Task, fitted: list[float]
) -> None:
    found = tune(task, num_trials=30)
    pruned = [one for one in found.trials if one.outcome == "pruned"]
    assert pruned
    for one in pruned:
        assert len(one.recalls) == 2
        assert one.number >= FIRST_COMPARED
        before = [other.recalls[1] for other in found.trials[: one.number] if other.outcome == "finished"]
        assert one.recalls[1] < np.median(before)


def test_the_time_ends_a_study_between_epochs_but_not_its_first_trial(task: Task, fitted: list[float]) -> None:
    assert len(tune(task, num_trials=None, is_over=lambda: True).trials) == 1
    asked = iter([False, False, True])
    found = tune(task, num_trials=None, is_over=lambda: next(asked, True))
    # Asked before the second trial, and after its first two epochs.
    assert len(found.trials) == 1
    assert task.unfinished(1).is_dir()


def test_values_are_never_tried_twice_and_a_small_space_comes_to_its_end(task: Task, fitted: list[float]) -> None:
    small = replace(task, space=SPACE[1:], own={DROPOUT: 0.3})
    seen: list[Trial] = []
    found = tune(small, num_trials=20, on_trial=lambda trial, before: seen.append(trial))
    assert sorted(one.values[DROPOUT] for one in found.trials) == [0.0, 0.3, 0.6]
    assert tuple(seen) == found.trials
    assert found.importance == {}


def test_a_trial_whose_loss_is_no_number_is_noted_and_so_are_values_that_do_not_go_together(
    task: Task, fitted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = module.fit_trial

    def diverging(sections: TrainSections, *arguments: Any, **given: Any) -> Any:
        if sections.training.history_dropout == 0.6:
            raise FloatingPointError("the loss is nan")
        return fit(sections, *arguments, **given)

    def refusing(values: Mapping[str, Any]) -> TrainSections:
        if values[DROPOUT] == 0.0:
            raise ConfigError("not together")
        return sections_of(values)

    monkeypatch.setattr(module, "fit_trial", diverging)
    found = tune(replace(task, space=SPACE[1:], own={DROPOUT: 0.3}, sections_of=refusing), num_trials=5)
    assert [(one.values[DROPOUT], one.outcome) for one in found.trials] == [(0.3, "finished"), (0.6, "diverged")]
    assert found.best == 0
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        tune(replace(task, space=SPACE[1:], own={DROPOUT: 0.6}, digest="study2"), num_trials=1)


def test_a_gain_within_the_noise_is_not_better(
    task: Task, fitted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(sections: TrainSections, paths: RunPaths, *, unfinished: Path, on_epoch: OnEpoch) -> Any:
        rng = np.random.default_rng(int(1e6 * sections.training.learning_rate))
        by_user = rng.random(NUM_USERS)
        on_epoch(1, float(by_user.mean()))
        return float(by_user.mean()), by_user

    monkeypatch.setattr(module, "fit_trial", noisy)
    found = tune(task, num_trials=20)
    assert found.trials[found.best].recall > found.trials[0].recall
    assert not found.is_better


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"training.validation_days": 0}, "training.validation_days is 0: there is nothing to measure trials by"),
        ({"training.distribute": "multi_worker"}, "training.distribute is multi_worker, and trials are fitted by one"),
    ],
)
def test_what_cannot_be_measured_is_refused(task: Task, override: dict[str, Any], message: str) -> None:
    def of_override(values: Mapping[str, Any]) -> TrainSections:
        return sections_of({**values, **override})

    with pytest.raises(ValueError, match=message):
        tune(replace(task, sections_of=of_override), num_trials=1)
