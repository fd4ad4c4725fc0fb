"""The encoder: raw values to model inputs, in one implementation for training, Beam and the server.

Shape letters: B rows, T history length, L trigrams, F numeric inputs of a tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from artefacts.files import json_text, json_value
from features import columns, geo, lists
from features.computed import DAY_SECONDS
from features.ids import IdMap
from features.kinds import KINDS, InputSpec, Kind, Measure, OwnInput, stored_as
from features.numbers import numeric_names, numeric_values, values_without_events
from features.schema import ARROW_TYPES, ENTITY_KEY, MAX_SHARES, SIDES, TOWERS, Schema, Shares, Side, Tower


def dense_shares(raw: pa.Table, field: Shares, vocabulary: IdMap) -> npt.NDArray[np.float32]:
    """Shares of a column's values as one vector a row.

    The values kept are scaled to a sum of 1; those that the vocabulary does not know come together in column 0.

    Args:
        raw: [B] rows with the two list fields; nulls and empty lists where there was no event.
        field: Which fields.
        vocabulary: Rows of the values, V with row 0.

    Returns:
        [B, V] float32, rows that sum to 1 or are all 0.
    """
    values, (row, _) = lists.flat(raw.column(field.values), MAX_SHARES)
    shares, _ = lists.flat(raw.column(field.shares), MAX_SHARES)
    dense = np.zeros((raw.num_rows, len(vocabulary)), np.float32)
    total = np.bincount(row, weights=shares, minlength=raw.num_rows)
    np.add.at(dense, (row, vocabulary.rows(values)), shares / total[row])
    return dense


Values = Callable[[pa.ChunkedArray], pa.Array | pa.ChunkedArray]
Inputs = dict[str, npt.NDArray[np.int32] | npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float64]

HISTORY, HISTORY_AGE = "user_history", "user_history_age_days"
VALUES_SUFFIX = lists.VALUES_SUFFIX
CELLS: dict[Tower, str] = {"user": "user_cells", "item": "item_cells"}
"""Input of the cells of places, and key of their vocabulary."""
NUMERIC_INPUT: dict[Side, str] = {
    "user": "user_numeric",
    "item": "item_numeric",
    "event": "event_numeric",
    "dated": "dated_numeric",
}
MORE: dict[Tower, Side] = {"user": "event", "item": "dated"}
"""What has further inputs of a tower."""
MEASURED_ROWS = 100_000
"""Rows after which lists are measured no more, where rows are streamed."""
MOST_DEVIATIONS = 10.0
"""A scaled number ends here: one that hardly varied in training may be a thousand deviations off when it is served."""


@dataclass(frozen=True)
class Encoder:
    """Raw values -> arrays, with everything that was learned from the data to do so.

    Attributes:
        schema: The dataset.
        user_ids, item_ids: Rows of the id tables, with the buckets of unknown ids.
        vocabularies: Rows of the values of columns, and of the cells of places, by the input that looks them up.
        scaling: Mean and standard deviation of each numeric input.
        history_length: T.
        text_length: L.
        text_buckets: Buckets for trigrams.
        measures: Length and scale of the inputs that hold lists.
    """

    schema: Schema
    user_ids: IdMap
    item_ids: IdMap
    vocabularies: dict[str, IdMap]
    scaling: dict[str, tuple[float, float]]
    history_length: int
    text_length: int
    text_buckets: int
    measures: dict[str, Measure] = field(default_factory=dict)

    def weights_of(self, column: str) -> str | None:
        """The column with the weights of a column's values; None where there is none."""
        name = column + lists.WEIGHTS_SUFFIX
        return name if any(name in self.schema.columns_of_kind(side, Kind.WEIGHTS) for side in SIDES) else None

    def input_specs(self, tower: Tower) -> list[InputSpec]:
        """The inputs of a tower, in a fixed order."""
        ids = self.user_ids if tower == "user" else self.item_ids
        specs = [InputSpec(ENTITY_KEY[tower], "id", None, ids.num_table_rows)]
        specs += [own.spec(self, name) for name, own in own_inputs(self.schema, tower)]
        specs.append(InputSpec(NUMERIC_INPUT[tower], "numeric", len(numeric_names(self.schema, tower))))
        if self.schema.geo_of(tower) is not None:
            cells = len(self.vocabularies[CELLS[tower]])
            specs.append(InputSpec(CELLS[tower], "cells", len(geo.CELL_DEGREES), cells, is_fact=True))
        for shares in self.schema.shares_of(tower):
            specs.append(InputSpec(shares.shares, "shares", len(self.vocabularies[shares.column])))
        if tower == "user":
            specs.append(InputSpec(HISTORY, "history", self.history_length, self.item_ids.num_table_rows))
            specs.append(InputSpec(HISTORY_AGE, "history_number", self.history_length))
        # What is true for a while is no fact of the items of a history.
        more = MORE[tower]
        specs += [replace(own.spec(self, name), is_fact=False) for name, own in own_inputs(self.schema, more)]
        if numbers := numeric_names(self.schema, more):
            specs.append(InputSpec(NUMERIC_INPUT[more], "numeric", len(numbers)))
        return specs

    def encode_users(self, raw: pa.Table, *, as_of_seconds: npt.NDArray[np.int64]) -> Inputs:
        """Inputs of the user tower.

        Args:
            raw: [B] rows with user_id and the fields of the user view; nulls where nothing is known. Columns of events
                may be absent: then they are missing.
            as_of_seconds: [B] int64, the moment of each row, Unix seconds; ages are relative to it.

        Returns:
            One array per `input_specs("user")`; ages in days, 0 where padded. Unknown ids have the rows of their
            buckets, which are beyond those of the catalogue.
        """
        inputs = self._encode_side(raw, "user", as_of_seconds)
        items, place = lists.flat(raw.column("user_history"), self.history_length)
        shape = (raw.num_rows, self.history_length)
        inputs[HISTORY] = np.zeros(shape, np.int32)
        inputs[HISTORY][place] = self.item_ids.table_rows(items)
        seconds, _ = lists.flat(raw.column("user_history_seconds"), self.history_length)
        inputs[HISTORY_AGE] = np.zeros(shape, np.float32)
        inputs[HISTORY_AGE][place] = np.maximum(as_of_seconds[place[0]] - seconds.astype(np.int64), 0) / DAY_SECONDS
        return inputs | self.encode_events(raw, as_of_seconds=as_of_seconds)

    def encode_events(self, raw: pa.Table, *, as_of_seconds: npt.NDArray[np.int64]) -> Inputs:
        """Inputs of the user tower that columns of events become; arguments as in `encode_users`."""
        for name, kinds in self.schema.event_columns.items():
            if name not in raw.column_names:
                raw = raw.append_column(name, pa.nulls(raw.num_rows, ARROW_TYPES[stored_as(kinds)]))
        return self._encode_columns(raw, "event", as_of_seconds)

    def encode_items(self, raw: pa.Table, *, as_of_seconds: npt.NDArray[np.int64]) -> Inputs:
        """Inputs of the item tower; arguments and result as in `encode_users`."""
        return self._encode_side(raw, "item", as_of_seconds) | self._encode_columns(raw, "dated", as_of_seconds)

    def _encode_side(self, raw: pa.Table, tower: Tower, as_of_seconds: npt.NDArray[np.int64]) -> Inputs:
        ids = self.user_ids if tower == "user" else self.item_ids
        inputs: Inputs = {ENTITY_KEY[tower]: ids.table_rows(_objects(raw, ENTITY_KEY[tower]))}
        inputs |= self._encode_columns(raw, tower, as_of_seconds)
        if self.schema.geo_of(tower) is not None:
            inputs[CELLS[tower]] = self.cells_of(raw, tower)
        for shares in self.schema.shares_of(tower):
            inputs[shares.shares] = dense_shares(raw, shares, self.vocabularies[shares.column])
        return inputs

    def _encode_columns(self, raw: pa.Table, side: Side, as_of_seconds: npt.NDArray[np.int64]) -> Inputs:
        """What has an input of its own, and all numbers together."""
        own_of = own_inputs(self.schema, side)
        inputs: Inputs = {name + own.suffix: own.encode(self, name, raw.column(name)) for name, own in own_of}
        if numbers := numeric_values(raw, self.schema, side, as_of_seconds=as_of_seconds):
            inputs[NUMERIC_INPUT[side]] = self._scaled(numbers)
        return inputs

    def _scaled(self, numbers: dict[str, Floats]) -> npt.NDArray[np.float32]:
        """Numeric inputs, 0 where unknown: [B, F]."""
        means, deviations = zip(*(self.scaling[name] for name in numbers), strict=True)
        scaled = (np.stack(list(numbers.values()), axis=1) - means) / deviations
        limited = np.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        return np.where(np.isnan(limited), 0.0, limited).astype(np.float32)

    def without_events(self) -> Inputs:
        """What counts events in the inputs of an item that has none yet: by input, its first numbers [S] float32.

        The number of events is the first one of `item_numeric`.
        """
        numbers = {name: np.array([value]) for name, value in values_without_events(self.schema).items()}
        none: Inputs = {NUMERIC_INPUT["item"]: self._scaled(numbers)[0]}
        for shares in self.schema.shares_of("item"):
            none[shares.shares] = np.zeros(len(self.vocabularies[shares.column]), np.float32)
        return none

    def cells_of(self, raw: pa.Table, tower: Tower) -> npt.NDArray[np.int32]:
        """Rows of the cells that the places of a tower's rows lie in, which have to be declared: [B, G] int32."""
        place = self.schema.geo_of(tower)
        assert place is not None
        latitude, longitude = (raw.column(name) for name in place)
        return geo.cell_rows(latitude, longitude, self.vocabularies[CELLS[tower]])

    def facts_of(self, items: pa.Table) -> list[tuple[InputSpec, Inputs]]:
        """What the items of a history are known by: of each such input of the item tower its values, and their weights.

        Args:
            items: Canonical items.
        """
        own_of = {name + own.suffix: (name, own) for name, own in own_inputs(self.schema, "item")}

        def values(name: str) -> npt.NDArray[np.int32] | npt.NDArray[np.float32]:
            if name not in own_of:
                return self.cells_of(items, "item")
            column, own = own_of[name]
            return own.encode(self, column, items.column(column))

        facts = [spec for spec in self.input_specs("item") if spec.is_fact]
        return [(spec, {name: values(name) for name in (spec.name, spec.weights) if name}) for spec in facts]

    def save(self, folder: Path) -> None:
        """Writes `encoder.json` and a Parquet file for each id map."""
        folder.mkdir(parents=True, exist_ok=True)
        self.user_ids.save(folder / "user_ids.parquet")
        self.item_ids.save(folder / "item_ids.parquet")
        for name, vocabulary in self.vocabularies.items():
            vocabulary.save(folder / f"values_{name}.parquet")
        plain = {
            "schema": self.schema.model_dump(mode="json"),
            "scaling": self.scaling,
            "history_length": self.history_length,
            "text_length": self.text_length,
            "text_buckets": self.text_buckets,
            "measures": {name: asdict(measure) for name, measure in self.measures.items()},
        }
        (folder / "encoder.json").write_text(json_text(plain, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Reads what `save` wrote."""
        plain = json_value((folder / "encoder.json").read_text())
        schema = Schema.model_validate(plain.pop("schema"))
        names = _inputs_with_values(schema)
        # Encoders of earlier versions have none.
        measures = {name: Measure(**values) for name, values in plain.pop("measures", {}).items()}
        scaling = {name: (mean, deviation) for name, (mean, deviation) in plain.pop("scaling").items()}
        return cls(
            schema=schema,
            user_ids=IdMap.load(folder / "user_ids.parquet"),
            item_ids=IdMap.load(folder / "item_ids.parquet"),
            vocabularies={name: IdMap.load(folder / f"values_{name}.parquet") for name in names},
            scaling=scaling,
            measures=measures,
            **plain,
        )


def fit_encoder(
    schema: Schema, users: pa.Table, items: pa.Table, samples: Iterable[tuple[Tower, pa.Table]], *,
    history_length: int, text_length: int, text_buckets: int, id_buckets: int = 0, events: Iterable[pa.Table] = (),
    dated: Iterable[pa.Table] = (),
) -> Encoder:  # fmt: skip
    """Learns vocabularies from the catalogues and scales from samples of joined features.

    Args:
        schema: The dataset.
        users: Canonical users, in the order that gives their rows.
        items: Canonical items, in the order that gives their rows.
        samples: Tower and joined features with `event_timestamp`, streamed; only sums are kept.
        history_length: T.
        text_length: L.
        text_buckets: Buckets for trigrams.
        id_buckets: Buckets of each side for ids that the catalogues do not know; 0 leaves them in row 0.
        events: Samples of events with their declared columns and timestamps, streamed.
        dated: Dated facts with their declared columns, streamed.

    Returns:
        The encoder; a number that never varies is scaled by 1.
    """
    vocabularies, measures = dict[str, IdMap](), dict[str, Measure]()
    sums: dict[str, Floats] = {name: np.zeros(3) for side in SIDES for name in numeric_names(schema, side)}

    def added_up() -> Iterator[pa.Table]:
        for table in events:
            _add_up(sums, table, schema, "event", moments_of(table, columns.TIMESTAMP))
            yield table

    for side, tables in zip(SIDES, ([users], [items], added_up(), dated), strict=True):
        of_side = _learned(schema, side, tables)
        vocabularies |= of_side[0]
        measures |= of_side[1]
    for tower, table in zip(TOWERS, (users, items), strict=True):
        if (place := schema.geo_of(tower)) is not None:
            vocabularies[CELLS[tower]] = geo.vocabulary_of(*(table.column(name) for name in place))
    return Encoder(
        schema=schema,
        user_ids=IdMap(_objects(users, columns.USER_ID), id_buckets),
        item_ids=IdMap(_objects(items, columns.ITEM_ID), id_buckets),
        vocabularies=vocabularies,
        scaling=_fit_scaling(schema, samples, sums),
        history_length=history_length,
        text_length=text_length,
        text_buckets=text_buckets,
        measures=measures,
    )


def _learned(schema: Schema, side: Side, tables: Iterable[pa.Table]) -> tuple[dict[str, IdMap], dict[str, Measure]]:
    """Values and measures of the inputs that the columns of a side have to themselves."""
    own_of = own_inputs(schema, side)
    values: dict[str, set[str]] = {name + own.suffix: set() for name, own in own_of if own.values is not None}
    fields = [(name, ARROW_TYPES[stored_as(kinds)]) for name, kinds in schema.columns_of(side).items()]
    first, num_rows = list[pa.Table](), 0
    for table in tables:
        for name, own in own_of:
            if own.values is not None:
                values[name + own.suffix].update(pc.unique(own.values(table.column(name))).drop_null().to_pylist())
        if num_rows < MEASURED_ROWS:
            first.append(table.select([name for name, _ in fields]))
            num_rows += table.num_rows
    measured = pa.concat_tables(first) if first else pa.schema(fields).empty_table()
    measures = {name + own.suffix: own.measure(measured.column(name)) for name, own in own_of if own.measure}
    return {name: IdMap(sorted(found)) for name, found in values.items()}, measures


def own_inputs(schema: Schema, side: Side) -> list[tuple[str, OwnInput]]:
    """Columns of a side with an input of their own, and that input: by kind, then in order of declaration."""
    return [
        (name, kind.own)
        for word, kind in KINDS.items()
        if kind.own is not None
        for name in schema.columns_of_kind(side, word)
    ]


def category_inputs(schema: Schema, tower: Tower) -> list[tuple[str, str, Values]]:
    """Columns of a tower whose values are categories, the name of the input, and what finds the values in raw ones."""
    own_of = own_inputs(schema, tower)
    return [(name, name + own.suffix, own.values) for name, own in own_of if own.values and own.are_categories]


def _inputs_with_values(schema: Schema) -> list[str]:
    own_of = [(name, own) for side in SIDES for name, own in own_inputs(schema, side)]
    names = [name + own.suffix for name, own in own_of if own.values is not None]
    return names + [CELLS[tower] for tower in TOWERS if schema.geo_of(tower) is not None]


def moments_of(joined: pa.Table, name: str = columns.EVENT_TIMESTAMP) -> npt.NDArray[np.int64]:
    """Unix seconds of the moments of joined features, or of those in another column: [B] int64."""
    moments = joined.column(name).cast(pa.timestamp("us", tz="UTC"))
    return np.asarray(moments.cast(pa.int64()).to_numpy() // 1_000_000)


def _add_up(
    sums: dict[str, Floats], table: pa.Table, schema: Schema, side: Side, moments: npt.NDArray[np.int64]
) -> None:
    """Adds number, sum and sum of squares of what is known of each number of some rows."""
    for name, values in numeric_values(table, schema, side, as_of_seconds=moments).items():
        known = values[~np.isnan(values)]
        sums[name] += (len(known), known.sum(), np.square(known).sum())


def _fit_scaling(
    schema: Schema, samples: Iterable[tuple[Tower, pa.Table]], sums: dict[str, Floats]
) -> dict[str, tuple[float, float]]:
    for tower, table in samples:
        _add_up(sums, table, schema, tower, moments_of(table))
        if tower == "item":
            _add_up(sums, table, schema, "dated", moments_of(table))
    scaling = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count if count else 0.0
        deviation = float(np.sqrt(max(squares / count - mean**2, 0.0))) if count else 0.0
        scaling[name] = (float(mean), deviation if deviation > 1e-6 else 1.0)
    return scaling


def _objects(raw: pa.Table, name: str) -> npt.NDArray[np.object_]:
    return raw.column(name).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
