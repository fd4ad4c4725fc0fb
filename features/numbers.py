"""Numeric inputs of the towers: what each number is made of, before it is scaled.

Counts and amounts enter as log(1 + x). A rate r measured at moment m is worth r 2^(-(t - m)/h) at moment t; it enters
as its logarithm, and the trend is the logarithm of the fast rate over the slow one.

Shape letters: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features import columns
from features.computed import COMPUTED, DAY_SECONDS
from features.kinds import KINDS, to_floats
from features.schema import FAST_HALF_LIFE_DAYS, SLOW_HALF_LIFE_DAYS, STATISTICS, Schema, Side, Tower

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# Sums of numbers up to here are finite as 32-bit floats.
LARGEST_NUMBER = 1e30
# Rates below a thousandth of an event a day are all "never".
SMALLEST_RATE = 1e-3


@dataclass(frozen=True)
class NumericInput:
    """One number of a tower's numeric input.

    Attributes:
        name: Key of its scale.
        reads: Fields of the feature view.
        value: (raw rows [B], moment of each row [B], Unix seconds) -> [B] float64, nan where unknown.
        moves_with_time: See `ColumnKind`.
    """

    name: str
    reads: tuple[str, ...]
    value: Callable[[pa.Table, Ints], Floats]
    moves_with_time: bool = False


def _count(name: str, field: str) -> NumericInput:
    return NumericInput(name, (field,), lambda raw, moments: np.log1p(to_floats(raw.column(field))))


def _amount(name: str, field: str) -> NumericInput:
    return NumericInput(name, (field,), lambda raw, moments: np.log1p(np.maximum(to_floats(raw.column(field)), 0)))


def _recency(raw: pa.Table, moments: Ints) -> Floats:
    last = to_floats(raw.column("user_last_seconds"))
    days = np.where(last > 0, moments - last, np.nan) / DAY_SECONDS
    return np.asarray(np.log1p(np.maximum(days, 0)))


def _log_rate(raw: pa.Table, moments: Ints, field: str, half_life_days: float) -> Floats:
    age_days = np.maximum(moments - to_floats(raw.column(columns.ITEM_AS_OF)), 0) / DAY_SECONDS
    return np.asarray(np.log(to_floats(raw.column(field)) * 2 ** (-age_days / half_life_days) + SMALLEST_RATE))


def _rates(suffix: str, fast: str, slow: str) -> tuple[NumericInput, ...]:
    """A fast rate, a slow one and their trend."""

    def fast_rate(raw: pa.Table, moments: Ints) -> Floats:
        return _log_rate(raw, moments, fast, FAST_HALF_LIFE_DAYS)

    def slow_rate(raw: pa.Table, moments: Ints) -> Floats:
        return _log_rate(raw, moments, slow, SLOW_HALF_LIFE_DAYS)

    return (
        NumericInput(f"item_fast{suffix}", (fast,), fast_rate),
        NumericInput(f"item_slow{suffix}", (slow,), slow_rate),
        NumericInput(f"item_trend{suffix}", (fast, slow), lambda raw, m: fast_rate(raw, m) - slow_rate(raw, m)),
    )


OF_STATISTICS: dict[Tower, tuple[NumericInput, ...]] = {
    "user": (
        _count("user_events", "user_num_events"),
        _count("user_items", "user_num_items"),
        _count("user_days", "user_num_days"),
        _amount("user_value", "user_value"),
        NumericInput("user_recency", ("user_last_seconds",), _recency),
    ),
    "item": (
        _count("item_events", "item_num_events"),
        _count("item_buyers", "item_num_buyers"),
        _amount("item_price", "item_price"),
        *_rates("", "item_fast_rate", "item_slow_rate"),
        *_rates("_new", "item_fast_new_rate", "item_slow_new_rate"),
    ),
}
# Read by the encoder as the moment of a row and as the history, not as numbers.
READ_OTHERWISE = frozenset({columns.USER_AS_OF, columns.ITEM_AS_OF, "user_history", "user_history_seconds"})


def numeric_inputs(schema: Schema, side: Side) -> list[NumericInput]:
    """A side's numeric inputs, in order: of a tower's statistics and computed features, then of columns.

    Of dated facts the first is whether an item has any: without it, none and a usual one would be the same number.

    Raises:
        ValueError: The snapshots compute something that no input reads.
    """
    inputs: list[NumericInput] = []
    if side == "dated" and schema.dated_columns:
        inputs.append(NumericInput("dated.any", tuple(schema.dated_columns), _has_any(list(schema.dated_columns))))
    if side in ("user", "item"):
        inputs = [*OF_STATISTICS[side], *map(_of_computed, schema.computed_of(side))]
        read = {field for one in inputs for field in one.reads} | READ_OTHERWISE
        if unread := [statistic.name for statistic in STATISTICS[side] if statistic.name not in read]:
            raise ValueError(
                f"{unread[0]} is computed for every {side} and read by no tower; add a numeric input that reads it to "
                "OF_STATISTICS in features/numbers.py, or remove it from the statistics"
            )
    for name, kinds in schema.columns_of(side).items():
        inputs += [_of_column(name, word, kind) for kind in kinds for word in KINDS[kind].numbers]
    return inputs


def _has_any(names: Sequence[str]) -> Callable[[pa.Table, Ints], Floats]:
    def has_any(raw: pa.Table, moments: Ints) -> Floats:
        known = [raw.column(name).is_valid().to_numpy() for name in names]
        return np.asarray(np.logical_or.reduce(known), np.float64)

    return has_any


def numeric_names(schema: Schema, side: Side) -> list[str]:
    """Names of a side's numeric inputs, in order."""
    return [one.name for one in numeric_inputs(schema, side)]


def values_without_events(schema: Schema) -> dict[str, float]:
    """What an item's numeric inputs that count events are before its first one, unscaled; they are the first inputs."""
    inputs = [*OF_STATISTICS["item"], *map(_of_computed, schema.computed_of("item"))]
    fields = {columns.ITEM_AS_OF, *(field for one in inputs for field in one.reads)}
    raw = pa.table({field: [0.0] for field in fields})
    return {one.name: float(one.value(raw, np.zeros(1, np.int64))[0]) for one in inputs}


def numeric_values(raw: pa.Table, schema: Schema, side: Side, *, as_of_seconds: Ints) -> dict[str, Floats]:
    """Numeric inputs before scaling, nan where unknown: name -> [B] float64.

    Args:
        raw: [B] rows of the tower's feature view, or of events.
        schema: The dataset.
        side: Whose.
        as_of_seconds: [B] int64, the moment of each row; rates and recency are relative to it.
    """
    return {one.name: one.value(raw, as_of_seconds) for one in numeric_inputs(schema, side)}


def _of_computed(name: str) -> NumericInput:
    feature = COMPUTED[name]
    return NumericInput(name, (name,), lambda raw, moments: feature.encode(to_floats(raw.column(name))))


def _of_column(name: str, word: str, kind: str) -> NumericInput:
    number = KINDS[kind].numbers[word]
    # No column is called so: its name has no dot.
    label = f"{name}.{word}" if word else name
    return NumericInput(
        label, (name,), lambda raw, moments: number(raw.column(name), moments), KINDS[kind].moves_with_time
    )
