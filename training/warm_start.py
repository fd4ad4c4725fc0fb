"""Warm start: weights and the optimiser's state of an earlier fit, carried over row by row.

Tables of ids and of values grow: a row belongs to an id, not to a number, and moves with it. New rows are as in a new
table: an item's id table starts at zero, so that a new item is what its category, text and numbers say of it; where ids
have hash buckets, a new id takes over what its bucket has learned.

    what           axis of its rows        rows belong to
    <column>_table            0            ids or values of the column
    <column>_guess         last            values of the column (counterpart features)
    <tower>_augmented         0            ids (dual augmented vectors)

Shape letters: n rows of a table, D vector width.

Source: the vocabularies that grow with daily warm starts, Yi et al., RecSys 2019, section 5.1 (sequential training).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from features.encoding import Encoder
from features.ids import IdMap
from features.schema import ENTITY_KEY, TOWERS

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]
Rows = npt.NDArray[np.int64]

# Name of a variable -> the column that its rows belong to, and the axis.
OWNERS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"^(cold\.)?(?P<column>.+)_table/embeddings$"), 0),
    (re.compile(r"^(?P<column>.+)_guess/(kernel|bias)$"), -1),
    (re.compile(r"^(?P<tower>user|item)_augmented/table$"), 0),
)
# Worked out from the vectors of an epoch, so that it is not carried.
DERIVED = re.compile(r"_augmented/fallback$")
SLOT = "@"


class CarryOverError(ValueError):
    """A state is not one of this model: the message names the variable, what was found and expected."""


@dataclass(frozen=True)
class Growth:
    """Where the rows of yesterday's tables are today.

    Attributes:
        rows: Column -> [rows of the old table] int64, the row in the new one, -1 where the id is gone.
        inherits: Column -> [rows of the new table] int64, the old row that a new id starts from, -1 for none.
    """

    rows: Mapping[str, Rows]
    inherits: Mapping[str, Rows]

    @classmethod
    def between(cls, old: Encoder, new: Encoder) -> Growth:
        """Compares two encoders of one dataset."""
        maps = {ENTITY_KEY[tower]: (_ids(old, tower), _ids(new, tower)) for tower in TOWERS}
        maps |= {name: (old.vocabularies[name], values) for name, values in new.vocabularies.items()}
        moved = {name: _moved(*pair) for name, pair in maps.items()}
        inherits = {name: _inherited(*pair, moved[name]) for name, pair in maps.items()}
        return cls(moved, inherits)

    def num_new(self, column: str) -> int:
        """Rows that nothing of yesterday's moves to."""
        return len(self.inherits[column]) - int((self.rows[column] >= 0).sum())


def _ids(encoder: Encoder, tower: str) -> IdMap:
    return encoder.user_ids if tower == "user" else encoder.item_ids


def _moved(old: IdMap, new: IdMap) -> Rows:
    rows = np.full(old.num_table_rows, -1, np.int64)
    rows[0] = 0
    if len(old) > 1:
        found = new.rows(np.asarray(old.ids(np.arange(1, len(old))), dtype=object))
        rows[1 : len(old)] = np.where(found > 0, found, -1)
    if old.num_buckets == new.num_buckets:
        rows[len(old) :] = len(new) + np.arange(old.num_buckets)
    return rows


def _inherited(old: IdMap, new: IdMap, moved: Rows) -> Rows:
    inherits = np.full(new.num_table_rows, -1, np.int64)
    if not old.num_buckets or old.num_buckets != new.num_buckets:
        return inherits
    is_new = np.ones(new.num_table_rows, bool)
    is_new[moved[moved >= 0]] = False
    buckets = new.bucket_of_row()
    rows = np.flatnonzero(is_new[: len(new)])
    inherits[rows] = buckets[rows] - len(new) + len(old)
    return inherits


Carried = Mapping[str, Sequence[tf.Variable]]
"""Variables that are carried, by a prefix of their names; those of the model itself have none."""


def state_of(carried: Carried, optimizer: tf_keras.optimizers.Optimizer) -> Arrays:
    """The values of variables and, for those that are trained, what the optimiser keeps of them: name -> array.

    A slot is named after its variable: `user_id_table/embeddings@accumulator`.
    """
    arrays: Arrays = {}
    variables = _by_name(carried)
    _make_slots(optimizer, variables)
    for name, variable in variables.items():
        arrays[name] = variable.numpy()
        for slot in optimizer.get_slot_names() if variable.trainable else ():
            arrays[f"{name}{SLOT}{slot}"] = optimizer.get_slot(variable, slot).numpy()
    arrays[f"{SLOT}iterations"] = np.asarray(optimizer.iterations.numpy())
    return arrays


def carry_over(
    state: Mapping[str, Array], growth: Growth, carried: Carried, optimizer: tf_keras.optimizers.Optimizer
) -> None:
    """Sets variables and their optimiser to a state, whose tables may have had other rows.

    Args:
        state: As `state_of` gave it.
        growth: Where rows have moved.
        carried: Of a model that was built alike, over the new tables; in place.
        optimizer: Of the same kind; in place.

    Raises:
        CarryOverError: A variable is missing, or its shape is another for another reason than new rows.
    """
    variables = _by_name(carried)
    _make_slots(optimizer, variables)
    for name, variable in variables.items():
        variable.assign(_carried(name, state, variable.numpy(), growth))
        for slot in optimizer.get_slot_names() if variable.trainable else ():
            kept = optimizer.get_slot(variable, slot)
            kept.assign(_carried(f"{name}{SLOT}{slot}", state, kept.numpy(), growth))
    optimizer.iterations.assign(int(_found(f"{SLOT}iterations", state)))


def save_state(state: Mapping[str, Array], path: Path) -> None:
    """Writes a state as `.npz`, without pickles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **state)


def load_state(path: Path) -> Arrays:
    """Reads what `save_state` wrote."""
    with np.load(path, allow_pickle=False) as state:
        return dict(state.items())


def moved_rows(values: Array, rows: Rows, *, fresh: Array) -> Array:
    """Values by old row, [old rows, ...], put where these rows are now; the others are as in `fresh` [rows, ...]."""
    moved, kept = fresh.copy(), rows >= 0
    moved[rows[kept]] = values[kept]
    return moved


def _make_slots(optimizer: tf_keras.optimizers.Optimizer, variables: Mapping[str, tf.Variable]) -> None:
    """Makes what the optimiser keeps of variables, where it has not taken a step yet."""
    # Keras's legacy optimisers have no other way.
    optimizer._create_all_weights([variable for variable in variables.values() if variable.trainable])


def _by_name(carried: Carried) -> dict[str, tf.Variable]:
    """One that two towers share comes once."""
    found: dict[str, tf.Variable] = {}
    for prefix, variables in carried.items():
        for variable in variables:
            name = "/".join(part for part in (prefix, variable.name.removesuffix(":0")) if part)
            if not DERIVED.search(name) and found.setdefault(name, variable) is not variable:
                raise CarryOverError(f"two variables are named {name!r}, expected distinct names; name their layers")
    return found


def _carried(name: str, state: Mapping[str, Array], fresh: Array, growth: Growth) -> Array:
    kept = _found(name, state)
    owner = _owner(name.split(SLOT)[0], growth)
    if owner is None:
        if kept.shape != fresh.shape:
            raise CarryOverError(f"{name} has shape {list(kept.shape)} in the state, expected {list(fresh.shape)}")
        return kept
    column, axis = owner
    rows, inherits = growth.rows[column], growth.inherits[column]
    old, new = np.moveaxis(kept, axis, 0), np.moveaxis(fresh, axis, 0)
    if len(old) != len(rows) or len(new) != len(inherits) or old.shape[1:] != new.shape[1:]:
        raise CarryOverError(
            f"{name} has shape {list(kept.shape)} in the state and {list(fresh.shape)} now, expected tables of "
            f"{len(rows)} and {len(inherits)} rows for {column}"
        )
    moved = moved_rows(old, rows, fresh=new)
    has_origin = inherits >= 0
    moved[has_origin] = old[inherits[has_origin]]
    return np.moveaxis(moved, 0, axis)


def _found(name: str, state: Mapping[str, Array]) -> Array:
    if name not in state:
        raise CarryOverError(f"{name} is not in the state, which has: {', '.join(sorted(state)[:8])}, ...")
    return state[name]


def _owner(name: str, growth: Growth) -> tuple[str, int] | None:
    for pattern, axis in OWNERS:
        if match := pattern.match(name):
            groups = match.groupdict()
            column = groups["column"] if "column" in groups else ENTITY_KEY[groups["tower"]]  # type: ignore[index]
            return (column, axis) if column in growth.rows else None
    return None
