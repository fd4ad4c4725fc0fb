"""Why a loss is not a number: the column or the rewards of a batch that a fit cannot use.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.encoding import NUMERIC_INPUT, Encoder
from features.numbers import numeric_names
from features.schema import ENTITY_KEY, TOWERS, Side, Tower
from training.data.batches import ITEM_PREFIX, USER_PREFIX, WEIGHT, Batch

PREFIX: dict[Tower, str] = {"user": USER_PREFIX, "item": ITEM_PREFIX}
SIDE_OF_INPUT: dict[str, Side] = {name: side for side, name in NUMERIC_INPUT.items()}
# Of an input, which is in standard deviations or a share; beyond it the squares of float32 overflow in a tower.
LARGEST_INPUT = 1e6
LARGEST_WEIGHT = 1e30


def cause_of(batch: Batch, encoder: Encoder) -> str | None:
    """What is wrong with the numbers of a batch, in words for its message.

    Args:
        batch: As `training.data.batches.batches` makes it.
        encoder: Of its inputs.

    Returns:
        The rewards or the first column with a value that is not finite or too large, whose it is, and what to do; None
        where all can be used.
    """
    weights, num_rows = batch[WEIGHT], len(batch[WEIGHT])
    bad = _unusable(weights, LARGEST_WEIGHT)
    if bad.any():
        first = int(bad.argmax())
        user, item = (_owner(batch, encoder, tower, first) for tower in TOWERS)
        return (
            f"the reward or value of {user} and {item} counts {weights[first]:g} ({bad.sum():,} of {num_rows:,} rows "
            "of the batch); correct it in the events, or set training.reward: none"
        )
    for tower in TOWERS:
        floats = {name: values for name, values in batch.items() if np.issubdtype(values.dtype, np.floating)}
        for name, values in floats.items():
            bad = _unusable(values, LARGEST_INPUT)
            if not name.startswith(PREFIX[tower]) or not bad.any():
                continue
            row, *place = (int(index) for index in np.unravel_index(bad.argmax(), bad.shape))
            column, side = name.removeprefix(PREFIX[tower]), SIDE_OF_INPUT.get(name.removeprefix(PREFIX[tower]))
            if side is not None:
                column = numeric_names(encoder.schema, side)[place[0]]
            num_bad = bad.reshape(len(bad), -1).any(axis=1).sum()
            return (
                f"the column {column} of {_owner(batch, encoder, tower, row)} is {values[(row, *place)]:g} after "
                f"scaling ({num_bad:,} of {len(bad):,} {tower}s of the batch); correct it in the source, or leave the "
                f"column out of dataset.{side or tower}_columns"
            )
    return None


def _unusable(values: npt.NDArray[np.generic], largest: float) -> npt.NDArray[np.bool_]:
    """Whether each is not finite or too large; nan compares as neither."""
    return np.asarray(~(np.abs(values.astype(np.float64)) <= largest))


def _owner(batch: Batch, encoder: Encoder, tower: Tower, row: int) -> str:
    """The user or item of a row of the tower's inputs."""
    ids = encoder.user_ids if tower == "user" else encoder.item_ids
    number = int(batch[PREFIX[tower] + ENTITY_KEY[tower]].astype(np.int64)[row])
    known = 0 < number < len(ids)
    return f"{tower} {ids.ids(np.array([number]))[0]}" if known else f"an unknown {tower}"
