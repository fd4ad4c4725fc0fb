"""Outputs of towers that a test writes down: parts and batch as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.losses.objective import Outputs


def outputs_of(
    users: Mapping[str, npt.ArrayLike],
    items: Mapping[str, npt.ArrayLike],
    *,
    batch: Mapping[str, npt.ArrayLike] | None = None,
    temperature: float = 1.0,
    queue: npt.ArrayLike | None = None,
) -> Outputs:
    """Parts become float32 variables, so that a tape watches them; what the batch lacks masks and weighs nothing."""
    user_parts, item_parts = (
        {name: tf.Variable(np.asarray(part, np.float32)) for name, part in side.items()} for side in (users, items)
    )
    rows, columns = (next(iter(parts.values())).shape[0] for parts in (user_parts, item_parts))
    given = {name: np.asarray(values) for name, values in (batch or {}).items()}
    private = given.get("private_log_q", np.zeros((rows, 0))).shape[1]
    common = columns - rows * private + (0 if queue is None else len(np.asarray(queue)))
    plain: dict[str, Any] = {
        "mask": np.zeros((rows, common + private), bool),
        "log_q": np.zeros(common, np.float32),
        "weight": np.ones(rows, np.float32),
    }
    return Outputs(
        user_parts,
        item_parts,
        {name: tf.constant(values) for name, values in (plain | given).items()},
        temperature,
        None if queue is None else tf.constant(np.asarray(queue, np.float32)),
    )
