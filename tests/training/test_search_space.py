"""The search space of `twinspire tune`: its values are ones that configurations take, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from artefacts.config import ConfigError
from training.config import InterestsConfig, TowerConfig, TrainingConfig
from training.search_space import SPACE, Choices, Range, chosen_space, parse_range, shown, space_of, with_own_values
from twinspire.load_config import load, with_values

TABLES = Path(__file__).parents[2] / "configs" / "tables_example.yaml"
CONFIG = load(TABLES)


def check(key: str, value: Any) -> object:
    return with_values(CONFIG, {key: value}, source=f"--range {key}={shown(value)}")


def own(key: str) -> Any:
    value: Any = CONFIG.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def test_every_value_of_the_space_is_one_that_a_configuration_takes_and_has_a_reason() -> None:
    for one in SPACE:
        assert one.why
        for value in (one.low, one.high) if isinstance(one, Range) else one.values:
            check(one.key, value)


def test_the_defaults_are_within_the_space() -> None:
    for one in SPACE:
        assert one.including(own(one.key)) == one


def test_a_drawn_trial_has_a_value_of_every_key_and_neighbours_are_numbered_alike() -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3)).ask()
    values = {one.key: one.suggest(trial) for one in SPACE}
    check_all = with_values(CONFIG, values, source="a trial")
    assert check_all.training.learning_rate == values["training.learning_rate"]
    for one in SPACE:
        if isinstance(one, Choices):
            assert trial.params[one.key] == one.values.index(values[one.key])
        else:
            assert one.low <= values[one.key] <= one.high
            # Three digits.
            assert values[one.key] == pytest.approx(trial.params[one.key], rel=0.006)


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        (Choices("k", (16, 64)), 32, (16, 32, 64)),
        (Choices("k", (16, 64)), 64, (16, 64)),
        (Choices("k", (16, 64)), 128, (16, 64, 128)),
        (Choices("k", (30, 60, None)), 90, (30, 60, 90, None)),
        (Choices("k", (30, 60)), None, (30, 60, None)),
        (Choices("k", ([], [64])), [32], ([], [64], [32])),
        (Choices("k", ("a", "b")), "c", ("a", "b", "c")),
    ],
)
def test_the_configurations_own_value_is_among_the_choices_in_its_place(
    before: Choices, value: Any, after: tuple[Any, ...]
) -> None:
    assert before.including(value).values == after


def test_a_range_is_made_wide_enough_and_whole_for_the_configurations_own_value() -> None:
    assert Range("k", 0.1, 0.5).including(0.7) == Range("k", 0.1, 0.7)
    found = Range("k", 16.0, 64.0).including(8)
    assert (found.low, found.high, found.is_whole) == (8, 64.0, True)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    assert isinstance(found.suggest(trial), int)


def test_keys_without_an_effect_are_left_out_and_adagrad_has_larger_steps() -> None:
    found = {one.key: one for one in space_of(TowerConfig(history_encoder="toy"), TrainingConfig(optimizer="adagrad"))}
    assert "towers.history_decay_days" not in found
    several = space_of(TowerConfig(interests=InterestsConfig(num=2)), TrainingConfig())
    assert "towers.history_decay_days" not in [one.key for one in several]
    rate = found["training.learning_rate"]
    assert isinstance(rate, Range)
    assert (rate.low, rate.high) == pytest.approx((0.009, 0.9))


def test_only_and_ranges_choose_the_space() -> None:
    space = chosen_space(
        SPACE,
        only=["training.learning_rate", "training.log_q"],
        ranges=["training.learning_rate=0.001..0.01", "training.log_q=[none, yi2019]"],
        check=check,
    )
    assert space == (
        Range("training.learning_rate", 0.001, 0.01),
        Choices("training.log_q", ("none", "yi2019")),
    )
    assert len(chosen_space(SPACE, only=[], ranges=["training.log_q=[none, yi2019]"], check=check)) == len(SPACE) + 1


def test_values_that_do_not_go_with_the_configuration_are_left_out_of_the_default_space() -> None:
    short = load(TABLES, ["features.example_days=90", "training.example_days=90"])

    def check_short(key: str, value: Any) -> object:
        return with_values(short, {key: value}, source="a trial")

    space = chosen_space(SPACE, only=["training.example_days"], ranges=[], check=check_short)
    assert space == (Choices("training.example_days", (30, 60, 90), SPACE[5].why),)


@pytest.mark.parametrize("text", ["0.001..0.5", ".001...5", "1e-3..5e-1"])
def test_bounds_are_read_however_they_are_written(text: str) -> None:
    assert parse_range(f"training.learning_rate={text}") == Range("training.learning_rate", 0.001, 0.5)


@pytest.mark.parametrize(
    ("only", "ranges", "message"),
    [
        (
            ["training.epoch"],
            [],
            "--only: 'training.epoch' is not among the keys that are tuned: training.learn",
        ),
        ([], ["training.learning_rate=0.1"], r"expected KEY=LOW..HIGH with 0 < LOW < HIGH"),
        ([], ["training.learning_rate=0.1..0.01"], r"expected KEY=LOW..HIGH with 0 < LOW < HIGH"),
        ([], ["training.learning_rate=low..high"], r"expected KEY=LOW..HIGH with 0 < LOW < HIGH"),
        ([], ["training.batch_size=[64, 64]"], "with two different values at least"),
        ([], ["training.batch_size=[64"], "with two different values at least"),
        (
            [],
            ["features.history_length=[10, 20]"],
            "'features.history_length' cannot be tuned; expected a key of t",
        ),
        ([], ["training.validation_days=[7, 14]"], "'training.validation_days' cannot be tuned"),
        ([], ["training.lerning_rate=[1, 2]"], "unknown key 'training.lerning_rate'; did you mean 'learning_rate'"),
        ([], ["towers.temperature=[0.1, -1]"], "towers.temperature: Input should be greater than 0 .found -1"),
        ([], ["training.log_q=[none, all]"], r"--range training.log_q=all: training.log_q: Input should be 'none'"),
    ],
)
def test_what_cannot_be_tuned_is_explained(only: list[str], ranges: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_space(SPACE, only=only, ranges=ranges, check=check)


def test_a_range_of_a_key_without_a_number_and_a_space_without_a_choice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--range training.example_fade_days=10..100: the configuration has null"):
        with_own_values([parse_range("training.example_fade_days=10..100")], {"training.example_fade_days": None})
    with pytest.raises(ConfigError, match="there is one value for every key: nothing to tune"):
        with_own_values([Choices("training.batch_size", (64,))], {"training.batch_size": 64})
