"""The schema of a dataset, described once: Feast views, encoder, towers, server and report derive from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from artefacts.config import as_tuple
from features import columns
from features.computed import COMPUTED
from features.event_kinds import EventKinds
from features.kinds import KINDS, TEXT_SUFFIX, Kind, Storage, stored_as
from features.lists import WEIGHTS_SUFFIX, weighted_column

Tower = Literal["user", "item"]
TOWERS: tuple[Tower, ...] = ("user", "item")
Side = Literal["user", "item", "event", "dated"]
SIDES: tuple[Side, ...] = (*TOWERS, "event", "dated")
"""What has columns: users, items, events (further inputs of the user tower), and what is true of items for some days
(further inputs of the item tower)."""


class Statistic(BaseModel):
    """A value that the daily snapshot jobs compute for every user or item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    storage: Storage
    meaning: str


# The moment comes first in both lists: ages and decays are relative to it.
USER_STATISTICS: tuple[Statistic, ...] = (
    Statistic(name=columns.USER_AS_OF, storage=Storage.INT, meaning="the moment this row speaks of, Unix seconds"),
    Statistic(name="user_num_events", storage=Storage.INT, meaning="events so far"),
    Statistic(name="user_num_items", storage=Storage.INT, meaning="distinct items so far"),
    Statistic(name="user_num_days", storage=Storage.INT, meaning="days with an event so far"),
    Statistic(name="user_value", storage=Storage.FLOAT, meaning="business value so far (spend)"),
    Statistic(name="user_last_seconds", storage=Storage.INT, meaning="latest event, Unix seconds; 0 if none"),
    Statistic(name="user_history", storage=Storage.STRINGS, meaning="last distinct items, latest first"),
    Statistic(
        name="user_history_seconds", storage=Storage.INTS, meaning="latest event with each of them, Unix seconds"
    ),
)
FAST_HALF_LIFE_DAYS = 7.0
SLOW_HALF_LIFE_DAYS = 28.0
ITEM_STATISTICS: tuple[Statistic, ...] = (
    Statistic(name=columns.ITEM_AS_OF, storage=Storage.INT, meaning="the moment this row speaks of, Unix seconds"),
    Statistic(name="item_num_events", storage=Storage.INT, meaning="events so far"),
    Statistic(name="item_num_buyers", storage=Storage.INT, meaning="distinct users so far"),
    Statistic(name="item_price", storage=Storage.FLOAT, meaning="mean business value of an event; 0 if none"),
    Statistic(name="item_fast_rate", storage=Storage.FLOAT, meaning="events a day, half-life 7 days"),
    Statistic(name="item_slow_rate", storage=Storage.FLOAT, meaning="events a day, half-life 28 days"),
    Statistic(name="item_fast_new_rate", storage=Storage.FLOAT, meaning="first-time buyers a day, half-life 7 days"),
    Statistic(name="item_slow_new_rate", storage=Storage.FLOAT, meaning="first-time buyers a day, half-life 28 days"),
)

# Values that a share list keeps, largest shares first; those of a user or an item with more values are cut off.
MAX_SHARES = 32

STATISTICS: dict[Tower, tuple[Statistic, ...]] = {"user": USER_STATISTICS, "item": ITEM_STATISTICS}
ENTITY_KEY: dict[Tower, str] = {"user": columns.USER_ID, "item": columns.ITEM_ID}
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# Inputs that the encoder makes of statistics, of places and of text columns.
INPUT_NAMES = frozenset(
    {
        "user_numeric",
        "item_numeric",
        "event_numeric",
        "dated_numeric",
        "user_history_age_days",
        "user_cells",
        "item_cells",
    }
)
# Columns of snapshots, of joined examples and of Feast's own queries.
TABLE_NAMES = frozenset(
    {columns.EVENT_TIMESTAMP, columns.CREATED_TIMESTAMP, "entity_row_id", "user_row", "item_row", "first_meeting"}
)


def plural(name: str) -> str:
    """Several of what an English word names, such as `check-ins` and `deliveries`."""
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "z", "ch", "sh")) else f"{name}s"


def in_words_of(event_name: str, text: str) -> str:
    """A text about purchases with the data set's own word."""
    if event_name == "purchase":
        return text
    return (
        text.replace("purchases", plural(event_name)).replace("purchase", event_name).replace("are bought", "are met")
    )


Kinds = Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class Shares(NamedTuple):
    """Which two fields hold the shares of a column's values among those that a user or an item has met.

    Attributes:
        column: Categorical column of the other tower.
        values: Field with the values, largest share first.
        shares: Field with the share of each of them; also what the model input is called.
    """

    column: str
    values: str
    shares: str


class Schema(BaseModel):
    """The columns of a dataset besides the canonical ones, and how each enters its tower.

    A column may be used in more than one way: `product_type: [categorical, text]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_columns: dict[str, Kinds] = Field(default_factory=dict)
    """Column of the users table -> `categorical`, `categories`, `numeric`, `boolean`, `timestamp`, `text`, `vector`,
    `geo` or another kind of column, or a list of them."""
    item_columns: dict[str, Kinds] = Field(default_factory=dict)
    """Column of the items table -> its kind or kinds, likewise."""
    event_columns: dict[str, Kinds] = Field(default_factory=dict)
    """Column of the events table -> its kind or kinds, likewise: what is known when a list is asked for, such as query
    text, device or store. Inputs of the user tower, which a request gives in `context`; missing where it does not."""
    dated_columns: dict[str, Kinds] = Field(default_factory=dict)
    """Column of the table of dated facts -> its kind or kinds, likewise: what is true of an item for some days, such as
    a discount. Inputs of the item tower; missing on days for which an item has no fact."""
    item_category: str | None = None
    """Item column that the reports, the filters and the server call the category."""
    item_family: str | None = None
    """Categorical item column that says which items are variants of one thing, such as sizes of a shirt, or come from
    one seller; a list has at most `serving.max_per_family` of them."""
    user_geo: tuple[str, str] | None = None
    """Numeric user columns with the latitude and the longitude of each user, in degrees; places near one another then
    have vectors near one another. Null where users have no place."""
    item_geo: tuple[str, str] | None = None
    """Numeric item columns with the latitude and the longitude of each item, likewise."""
    user_statistics_of: tuple[str, ...] = ()
    """Categorical item columns whose values' shares among the items met so far are a feature of each user."""
    item_statistics_of: tuple[str, ...] = ()
    """Categorical user columns whose values' shares among the buyers so far are a feature of each item."""
    computed_features: tuple[str, ...] = ()
    """Further features that the daily snapshots compute from the events, by name (features/computed.py)."""
    event_kinds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Kind of event, in the events' column `kind` -> reward of its events that have none of their own, such as `{view:
    0.1, purchase: 1}`; empty where all events are of one kind."""
    positive_kinds: tuple[str, ...] | None = None
    """Kinds that are fitted, are relevant in evaluation and make an item known to a user; null takes those with a
    reward above 0."""
    history_kinds: tuple[str, ...] | None = None
    """Kinds that make users' histories and statistics, the positive ones among them; null takes all."""
    value_meaning: str = "business value"
    """What the `value` of an event is, with its unit, for reports and model cards."""
    event_name: str = Field("purchase", pattern=r"^[^\W\d_][\w -]{0,31}$")
    """What one event is, in the singular, such as check-in or play: the word of reports and answers for people."""

    @field_validator("user_columns", "item_columns", "event_columns", "dated_columns")
    @classmethod
    def _kinds_are_known(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, kinds in value.items():
            if wrong := [kind for kind in kinds if kind not in KINDS]:
                raise ValueError(f"column {name!r} has kind {wrong[0]!r}; a column is one of: {', '.join(KINDS)}")
            try:
                stored_as(kinds)
            except ValueError as error:
                raise ValueError(f"column {name!r} {error}") from None
        return value

    @field_validator("computed_features")
    @classmethod
    def _computed_features_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in COMPUTED:
                raise ValueError(f"names {name!r}, expected some of: {', '.join(COMPUTED)}")
            if value.count(name) > 1:
                raise ValueError(f"names {name!r} more than once; name it once")
        return value

    def model_post_init(self, _context: object) -> None:
        """Refuses names that would mean two things in the joined examples."""
        self._check_names()
        self.kinds_of_events()
        self._check_shares()
        self._check_geo()
        names = [name for side in SIDES for name in self.columns_of(side)]
        names += [*columns.EVENT_COLUMNS, columns.ITEM_NAME]
        # In other tables they may be columns.
        reserved: dict[Side, tuple[str, ...]] = {
            "event": (columns.KIND,),
            "dated": (columns.FIRST_DAY, columns.LAST_DAY),
        }
        names += [name for side, of_side in reserved.items() for name in of_side if name in self.columns_of(side)]
        names += [statistic.name for tower in STATISTICS.values() for statistic in tower]
        names += [name for tower in TOWERS for field in self.shares_of(tower) for name in field[1:]]
        names += self.computed_features
        # In any case: DuckDB tells no upper from lower case in names.
        folded = [name.casefold() for name in names]
        for name in names:
            if folded.count(name.casefold()) > 1:
                same = sorted({other for other in names if other.casefold() == name.casefold()} - {name})
                also = f", and as {', '.join(map(repr, same))}" if same else ""
                raise ValueError(
                    f"column {name!r} is used twice{also} (users, items, events and statistics share one name space, "
                    "in which upper and lower case are the same); give it another name under `columns` of its source"
                )
        if self.item_category is not None and self.item_category not in self.item_columns:
            raise ValueError(
                f"item_category is {self.item_category!r}, which is not an item column; "
                f"expected one of: {', '.join(self.item_columns) or '(none declared)'}"
            )
        if self.item_family is not None and self.item_family not in self.columns_of_kind("item", Kind.CATEGORICAL):
            raise ValueError(
                f"item_family is {self.item_family!r}, which is not a categorical item column; expected one of: "
                f"{', '.join(self.columns_of_kind('item', Kind.CATEGORICAL)) or '(none declared)'}"
            )
        self._check_inputs()

    def _check_names(self) -> None:
        """Refuses names that a model input cannot have, or that the encoder gives to inputs of its own."""
        for name in (name for side in SIDES for name in self.columns_of(side)):
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(
                    f"column {name!r} must begin with a letter and hold letters, digits and _ only; give it such a "
                    "name under `columns` of its source"
                )
            if name.casefold() in TABLE_NAMES:
                raise ValueError(
                    f"column {name!r} is what a column of the feature tables is called "
                    f"({', '.join(sorted(TABLE_NAMES))}); give it another name under `columns` of its source"
                )
            if name.casefold() in INPUT_NAMES or name.casefold().endswith(TEXT_SUFFIX):
                reserved = ", ".join(sorted(INPUT_NAMES))
                raise ValueError(
                    f"column {name!r} is what a model input is called ({reserved}, or anything ending in "
                    f"{TEXT_SUFFIX}); give it another name under `columns` of its source"
                )

    def _check_inputs(self) -> None:
        """Refuses inputs that two columns would share, and weights of nothing."""
        inputs: dict[str, str] = dict.fromkeys(INPUT_NAMES, "")
        for side in SIDES:
            for name, kinds in self.columns_of(side).items():
                for own in (KINDS[kind].own for kind in kinds):
                    if own is not None and (other := inputs.setdefault((name + own.suffix).casefold(), name)) != name:
                        raise ValueError(
                            f"column {name!r} becomes the model input {name + own.suffix!r}, as "
                            f"{f'the column {other!r}' if other else 'a place'} does; give it another name under "
                            "`columns` of its source"
                        )
            lists = self.columns_of_kind(side, Kind.CATEGORIES)
            for name in self.columns_of_kind(side, Kind.WEIGHTS):
                if weighted_column(name) not in lists:
                    raise ValueError(
                        f"column {name!r} has weights, expected the name of a column of categories with "
                        f"{WEIGHTS_SUFFIX} behind: {', '.join(lists) or '(none declared)'}"
                    )

    def _check_geo(self) -> None:
        """Refuses a latitude or longitude that is no numeric column of the tower."""
        for tower in TOWERS:
            numeric = self.columns_of_kind(tower, Kind.NUMERIC)
            if (geo := self.geo_of(tower)) is not None and not set(geo) <= set(numeric):
                wrong = next(name for name in geo if name not in numeric)
                raise ValueError(
                    f"{tower}_geo names {wrong!r}, which is not a numeric {tower} column; expected latitude and "
                    f"longitude among: {', '.join(numeric) or '(none declared)'}"
                )

    def _check_shares(self) -> None:
        """Refuses shares of what is no categorical column of the other tower, or the same ones twice."""
        for tower, other in zip(TOWERS, reversed(TOWERS), strict=True):
            allowed = self.columns_of_kind(other, Kind.CATEGORICAL)
            chosen = [shares.column for shares in self.shares_of(tower)]
            for name in chosen:
                if name not in allowed:
                    raise ValueError(
                        f"{tower}_statistics_of names {name!r}, which is not a categorical {other} column; "
                        f"expected some of: {', '.join(allowed) or '(none declared)'}"
                    )
                if chosen.count(name) > 1:
                    raise ValueError(f"{tower}_statistics_of names {name!r} more than once; name it once")

    def columns_of(self, side: Side) -> dict[str, tuple[str, ...]]:
        """Declared columns of a side's table and their kinds."""
        found: dict[str, tuple[str, ...]] = getattr(self, f"{side}_columns")
        return found

    def columns_of_kind(self, side: Side, kind: str) -> list[str]:
        """Declared columns that enter a tower as `kind`, in order of declaration."""
        return [name for name, kinds in self.columns_of(side).items() if kind in kinds]

    def kinds_of_events(self) -> EventKinds | None:
        """The kinds of events; None where all are of one kind."""
        return EventKinds.of(self.event_kinds, self.positive_kinds, self.history_kinds)

    def geo_of(self, tower: Tower) -> tuple[str, str] | None:
        """Columns with the latitude and longitude of a tower's rows; None where there are none."""
        return self.user_geo if tower == "user" else self.item_geo

    def shares_of(self, tower: Tower) -> list[Shares]:
        """Columns of the other tower whose values' shares are features of this one, in order of declaration."""
        names = self.user_statistics_of if tower == "user" else self.item_statistics_of
        return [Shares(name, f"{tower}_{name}_values", f"{tower}_{name}_shares") for name in names]

    def computed_of(self, tower: Tower) -> list[str]:
        """Computed features of a tower that the dataset has, in order of declaration."""
        return [name for name in self.computed_features if COMPUTED[name].tower == tower]

    def view_fields(self, tower: Tower) -> Iterator[tuple[str, Storage]]:
        """Name and storage of every field in a tower's feature view: statistics, computed, shares, columns, facts."""
        for statistic in STATISTICS[tower]:
            yield statistic.name, statistic.storage
        for name in self.computed_of(tower):
            yield name, Storage.FLOAT
        for shares in self.shares_of(tower):
            yield shares.values, Storage.STRINGS
            yield shares.shares, Storage.FLOATS
        dated = self.dated_columns if tower == "item" else {}
        for name, kinds in {**self.columns_of(tower), **dated}.items():
            yield name, stored_as(kinds)


ARROW_TYPES: dict[Storage, pa.DataType] = {
    Storage.STRING: pa.string(),
    Storage.FLOAT: pa.float32(),
    Storage.INT: pa.int64(),
    Storage.STRINGS: pa.list_(pa.string()),
    Storage.INTS: pa.list_(pa.int64()),
    Storage.FLOATS: pa.list_(pa.float32()),
    Storage.BOOL: pa.bool_(),
    Storage.MOMENT: pa.int64(),
    Storage.VECTOR: pa.list_(pa.float32()),
    Storage.WEIGHTS: pa.list_(pa.float32()),
    Storage.PLACE: pa.list_(pa.float32()),
}
MOMENT = pa.timestamp("us", tz="UTC")
VIEW_NAMES: dict[Tower, str] = {"user": "user_daily", "item": "item_daily"}
SERVICE_NAMES: dict[Tower, str] = {"user": "user_tower", "item": "item_tower"}

# Who has met which item until a given midnight: the repeat-purchase retriever, the already-bought filter and the mark
# of first purchases all read it.
PAIRS_SCHEMA = pa.schema(
    [
        (columns.USER_ID, pa.string()),
        (columns.ITEM_ID, pa.string()),
        ("num_events", pa.int64()),
        ("first_seconds", pa.int64()),
        ("last_seconds", pa.int64()),
    ]
)


def view_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of the fields of a tower's feature view, without key and timestamps."""
    return pa.schema([(name, ARROW_TYPES[storage]) for name, storage in schema.view_fields(tower)])


def snapshot_schema(schema: Schema, tower: Tower) -> pa.Schema:
    """Arrow schema of a tower's snapshot files: key, the two timestamps that Feast needs, then the view's fields."""
    head = [
        (ENTITY_KEY[tower], pa.string()),
        (columns.EVENT_TIMESTAMP, MOMENT),
        (columns.CREATED_TIMESTAMP, MOMENT),
    ]
    return pa.schema([*(pa.field(name, kind) for name, kind in head), *view_schema(schema, tower)])
