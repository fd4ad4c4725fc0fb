"""Search space of `twinspire tune`: the settings that are tried, between which bounds, and why.

`SPACE` is the space, the keys that mattered most where they were measured first
(docs/decisions/0012-how-the-towers-are-fitted.md). A trial knows a choice by its place in the list, so that a sampler
takes neighbours to be alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from artefacts.config import ConfigError

if TYPE_CHECKING:
    import optuna

    from training.config import TowerConfig, TrainingConfig

ADAGRAD_OVER_ADAM = 30
"""How many times the learning rate is that Adagrad wants."""
SECTIONS = ("towers", "training")
"""What the keys of a trial are of: only the training step reads them, so that trials share tables and features."""
HELD_FIXED = (
    "training.validation_days",
    "training.epochs",
    "training.patience",
    "training.distribute",
    "training.checkpoint_every_minutes",
    "training.keep_in_memory",
)
"""What decides how a trial is measured, or changes no result."""
_RANGE = re.compile(r"(?P<low>[^\[\]\s]+?)\.\.(?P<high>\S+)")
_DIGITS = 3


@dataclass(frozen=True)
class Range:
    """A number, drawn evenly in its logarithm.

    Attributes:
        key: Dotted key of the configuration.
        low: Least value.
        high: Greatest value.
        why: What speaks for these bounds.
        is_whole: Whether it is rounded to a whole number.
    """

    key: str
    low: float
    high: float
    why: str = ""
    is_whole: bool = False

    def coded(self, value: float) -> float:
        """How a trial has a value."""
        return value

    def suggest(self, trial: optuna.Trial) -> float:
        """The value of a trial, in three digits or whole."""
        value = trial.suggest_float(self.key, self.low, self.high, log=True)
        return round(value) if self.is_whole else float(f"{value:.{_DIGITS}g}")

    def including(self, value: float) -> Range:
        """The range made wide enough for a value, and whole if that is."""
        return replace(self, low=min(self.low, value), high=max(self.high, value), is_whole=isinstance(value, int))

    def __str__(self) -> str:
        """The bounds, as `--range` reads them."""
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Choices:
    """Some values in order, as JSON has them.

    Attributes:
        key: Dotted key of the configuration.
        values: From the one end to the other.
        why: What speaks for these values.
    """

    key: str
    values: tuple[Any, ...]
    why: str = ""

    def coded(self, value: Any) -> int:
        """How a trial has a value."""
        return self.values.index(value)

    def suggest(self, trial: optuna.Trial) -> Any:
        """The value of a trial."""
        return self.values[trial.suggest_int(self.key, 0, len(self.values) - 1)]

    def including(self, value: Any) -> Choices:
        """The choices with a value among them: a number in its place, anything else at the end."""
        if value in self.values:
            return self
        place = len(self.values)
        if _is_number(value):
            place = next((at for at, other in enumerate(self.values) if not _is_number(other) or other > value), place)
        return replace(self, values=(*self.values[:place], value, *self.values[place:]))

    def __str__(self) -> str:
        """The values, as `--range` reads them."""
        return shown(list(self.values))


Parameter = Range | Choices

SPACE: tuple[Parameter, ...] = (
    Range("training.learning_rate", 0.0003, 0.03, "ten times less to ten times more than is usual for Adam"),
    Range("towers.temperature", 0.03, 0.5, "below, only the hardest negative counts; above, all negatives count alike"),
    Choices("towers.embedding_dim", (16, 32, 64, 128), "capacity: few users overfit wide vectors"),
    Choices(
        "towers.hidden_units",
        ([], [64], [128], [128, 64]),
        "without hidden layers, a tower is the sum of its features and crosses none of them",
    ),
    Choices(
        "training.batch_size",
        (256, 512, 1024, 2048, 4096),
        "steps of an epoch, and negatives of an example; the best learning rate depends on it",
    ),
    Choices(
        "training.example_days",
        (30, 60, 90, 180, 365, 730),
        "more examples against older ones: 90 days beat 180 on groceries, years win on check-ins",
    ),
    Choices("training.example_fade_days", (30, 60, 120, 240, None), "how fast tastes and the catalogue change"),
    Choices("training.user_balance", (0.0, 0.5, 1.0), "counting users instead of examples cost a tenth on check-ins"),
    Choices(
        "training.history_dropout",
        (0.0, 0.15, 0.3, 0.45, 0.6),
        "keeps the towers from learning histories by heart",
    ),
    Choices(
        "towers.history_decay_days",
        ([None], [None, 180, 30], [None, 60], [None, 60, 7], [None, 30, 7, 1]),
        "how much the last items count against all: sessions want days, tastes want months",
    ),
    Choices("training.negatives.num_uniform", (128, 512, 2048), "unpopular items among the negatives"),
    Range("training.learning_rate_decay", 0.3, 1.0, "check-ins found more with 0.6 than with 1"),
)


def space_of(towers: TowerConfig, training: TrainingConfig) -> tuple[Parameter, ...]:
    """The part of `SPACE` that has an effect with the methods of a configuration."""
    reads_means = towers.history_encoder == "mean" and towers.num_interests == 1
    left_out = set() if reads_means else {"towers.history_decay_days"}
    times = ADAGRAD_OVER_ADAM if training.optimizer == "adagrad" else 1
    return tuple(
        replace(one, low=one.low * times, high=one.high * times)
        if isinstance(one, Range) and one.key == "training.learning_rate"
        else one
        for one in SPACE
        if one.key not in left_out
    )


def chosen_space(
    space: Sequence[Parameter], *, only: Sequence[str], ranges: Sequence[str], check: Callable[[str, Any], object]
) -> tuple[Parameter, ...]:
    """The space of a study: a part of the default one, with bounds and keys of the user's.

    Args:
        space: The default one.
        only: Keys that are tried; all if empty.
        ranges: `KEY=LOW..HIGH`, or `KEY=[A, B, C]`; the keys need not be of the default space.
        check: Raises ConfigError where the configuration does not take a value of a key; such values of the default
            space are left out.

    Raises:
        ConfigError: A key cannot be tuned, or does not take a value that the user gives.
    """
    given = {one.key: one for one in map(parse_range, ranges)}
    for one in given.values():
        for value in (one.low, one.high) if isinstance(one, Range) else one.values:
            check(one.key, value)
    found = {one.key: one for one in space} | given
    if unknown := [key for key in only if key not in found]:
        raise ConfigError(
            f"--only: {unknown[0]!r} is not among the keys that are tuned: {', '.join(found)}; give its values with "
            f"--range '{unknown[0]}=[A, B]' if it is another key of {' or '.join(SECTIONS)}"
        )
    chosen = []
    for one in found.values():
        if only and one.key not in only:
            continue
        if isinstance(one, Choices) and one.key not in given:
            # Such as more days than there are features of.
            one = replace(one, values=tuple(value for value in one.values if _is_taken(check, one.key, value)))
        chosen.append(one)
    return tuple(chosen)


def _is_taken(check: Callable[[str, Any], object], key: str, value: Any) -> bool:
    try:
        check(key, value)
    except ConfigError:
        return False
    return True


def parse_range(text: str) -> Parameter:
    """Reads `KEY=LOW..HIGH`, or `KEY=[A, B, C]`.

    Raises:
        ConfigError: It is neither, or the key is of no section that is tuned.
    """
    key, _, values = text.partition("=")
    key, values = key.strip(), values.strip()
    if key.partition(".")[0] not in SECTIONS or "." not in key or key in HELD_FIXED:
        raise ConfigError(
            f"--range {text!r}: {key!r} cannot be tuned; expected a key of {' or '.join(SECTIONS)}, such as "
            f"training.learning_rate, and none of {', '.join(HELD_FIXED)}"
        )
    try:
        if matched := _RANGE.fullmatch(values):
            low, high = float(matched["low"]), float(matched["high"])
            if 0 < low < high < float("inf"):
                return Range(key, low, high)
        elif isinstance(found := yaml.safe_load(values), list) and _are_different(found):
            return Choices(key, tuple(found))
    except (ValueError, yaml.YAMLError):
        pass
    raise ConfigError(
        f"--range {text!r}: expected KEY=LOW..HIGH with 0 < LOW < HIGH, such as {key}=0.001..0.1, or KEY=[A, B, ...] "
        "with two different values at least"
    )


def with_own_values(space: Sequence[Parameter], own: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """The space with the configuration's own values in it, which are the first trial; without keys of one value.

    Raises:
        ConfigError: Nothing is left to choose, or a range is of a key without a number.
    """
    for one in space:
        if isinstance(one, Range) and not _is_number(own[one.key]):
            raise ConfigError(
                f"--range {one.key}={one}: the configuration has {shown(own[one.key])}, which is no number; give "
                f"the values to try, --range '{one.key}=[A, B]'"
            )
    found = tuple(one.including(own[one.key]) for one in space)
    left = tuple(one for one in found if isinstance(one, Range) or len(one.values) > 1)
    if not left:
        raise ConfigError("there is one value for every key: nothing to tune; give more with --range 'KEY=[A, B]'")
    return left


def shown(value: Any) -> str:
    """A value as YAML has it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return str(text).removesuffix("...\n").strip()


def _are_different(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(values[at] not in values[:at] for at in range(len(values)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
