"""Inputs of small towers, and rows for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tf_keras

from features.encoding import HISTORY, HISTORY_AGE, Inputs
from features.kinds import InputSpec

HISTORY_LENGTH, NUM_ITEM_ROWS = 4, 9
USER_SPECS = [
    InputSpec("user_id", "id", None, 6),
    InputSpec("age", "categorical", None, 4),
    InputSpec("hobby_text", "text", 3, 11),
    InputSpec("user_numeric", "numeric", 5),
    InputSpec(HISTORY, "history", HISTORY_LENGTH, NUM_ITEM_ROWS),
    InputSpec(HISTORY_AGE, "history_number", HISTORY_LENGTH),
]
ITEM_SPECS = [
    InputSpec("item_id", "id", None, NUM_ITEM_ROWS),
    InputSpec("aisle", "categorical", None, 3),
    InputSpec("title_text", "text", 4, 11),
    InputSpec("item_numeric", "numeric", 2),
]


def make_rows(specs: Sequence[InputSpec], num_rows: int, *, seed: int = 1) -> Inputs:
    rng = np.random.default_rng(seed)
    inputs: Inputs = {}
    for spec in specs:
        shape = (num_rows,) if spec.length is None else (num_rows, spec.length)
        values = rng.integers(0, spec.num_rows, shape) if spec.num_rows else np.abs(rng.normal(0, 2, shape))
        inputs[spec.name] = values.astype(spec.dtype)
    return inputs


@pytest.fixture
def user_specs() -> list[InputSpec]:
    return list(USER_SPECS)


@pytest.fixture
def item_specs() -> list[InputSpec]:
    return list(ITEM_SPECS)


@pytest.fixture
def rows_of() -> Callable[..., Inputs]:
    """Any valid rows for some inputs."""
    return make_rows


@pytest.fixture
def randomise() -> Callable[[tf_keras.Model], None]:
    """Sets all weights, also those that start at zero."""

    def randomise(model: tf_keras.Model) -> None:
        rng = np.random.default_rng(3)
        model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])

    return randomise
