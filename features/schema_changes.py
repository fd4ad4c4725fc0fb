"""Schema changes: what changed in the columns since the last run, and what it means for training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features import columns
from features.kinds import KINDS
from features.schema import SIDES, TOWERS, Schema, Side, Tower
from features.sources.raw import Source

FULL = "do a full retrain with --full"


@dataclass(frozen=True)
class SchemaFacts:
    """The columns of a dataset, as one run found them; part of the tables' manifest.

    Attributes:
        source: Table -> raw column -> its type in the source.
        columns: Table -> canonical or declared name -> raw column.
        dataset: The declared schema, as JSON has it.
    """

    source: Mapping[str, Mapping[str, str]]
    columns: Mapping[str, Mapping[str, str]]
    dataset: Mapping[str, Any]

    @classmethod
    def of(cls, source: Source, schema: Schema) -> SchemaFacts:
        """Those of an opened source; nothing is read."""
        there = source.tables()
        return cls(
            {name: dict(table.kinds) for name, table in there.items()},
            {name: dict(table.columns) for name, table in there.items()},
            schema.model_dump(mode="json"),
        )

    @classmethod
    def load(cls, tables: Path) -> SchemaFacts | None:
        """Those of the run that wrote some tables; None where there are none, or older ones."""
        path = tables / "manifest.json"
        found = json.loads(path.read_text(encoding="utf-8")).get("schema") if path.exists() else None
        return None if found is None else cls(**found)

    def to_plain(self) -> dict[str, Any]:
        """What `load` finds in the manifest."""
        return asdict(self)

    def kinds(self, side: Side) -> dict[str, list[str]]:
        """Declared columns of a side and how each enters a tower."""
        # Tables of earlier versions have none of events.
        found: dict[str, list[str]] = self.dataset.get(f"{side}_columns", {})
        return found


@dataclass(frozen=True)
class SchemaChange:
    """One change.

    Attributes:
        column: What changed, such as `items.brand`.
        what: What is otherwise than before, in words.
        meaning: What follows, and what to do.
        needs_full: Whether a model of before cannot be carried on.
    """

    column: str
    what: str
    meaning: str
    needs_full: bool

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.column} {self.what}: {self.meaning}"


# Key of the dataset that no model depends on -> what a change of it means.
_MEANINGS = {
    "item_category": "reports, filters and answers name another column; no model depends on it",
    "item_family": "lists hold few items of each value of another column; no model depends on it",
}


def schema_changes(before: SchemaFacts, now: SchemaFacts) -> list[SchemaChange]:
    """What changed from one run to the next.

    A declared column that is gone from the source is not among these: opening the source refuses it.

    Returns:
        The changes, those of declared columns first; empty where there are none.
    """
    found = [change for side in SIDES for change in _declared(before, now, side)]
    for tower in TOWERS:
        found += _statistics(before, now, tower)
    for table in ("events", "users", "items", "dated"):
        found += _source(before, now, table)
    found += _event_kinds(before, now)
    for key, meaning in _MEANINGS.items():
        # Facts of an earlier version lack what it did not know.
        was, is_now = (facts.dataset.get(key) for facts in (before, now))
        if was != is_now:
            found.append(SchemaChange(f"dataset.{key}", f"was {was} and is {is_now} now", meaning, False))
    return found


def _declared(before: SchemaFacts, now: SchemaFacts, side: Side) -> Iterator[SchemaChange]:
    table = "dated" if side == "dated" else f"{side}s"
    old, new = before.kinds(side), now.kinds(side)
    raw_before, raw_now = before.columns.get(table, {}), now.columns.get(table, {})
    gone = {raw_before.get(name, name): name for name in old if name not in new}
    for name, kinds in new.items():
        column = f"{table}.{name}"
        former = gone.pop(raw_now.get(name, name), None) if name not in old else None
        if former is not None:
            what = f"was called {former} (column {raw_now.get(name, name)!r} of the source)"
            yield SchemaChange(column, what, f"what was learned of it goes by its name and is lost; {FULL}", True)
        elif name not in old:
            yield SchemaChange(column, f"is declared now ({_words(kinds)})", f"a new input of the tower; {FULL}", True)
        elif sorted(old[name]) != sorted(kinds):
            what = f"was {_words(old[name])} and is {_words(kinds)} now"
            yield SchemaChange(column, what, f"{_of_kinds(old[name], kinds)}; {FULL}", True)
        elif raw_before.get(name) != raw_now.get(name):
            what = f"was column {raw_before.get(name)!r} of the source and is {raw_now.get(name)!r} now"
            yield SchemaChange(column, what, f"its values may mean something else; {FULL}", True)
    for name in gone.values():
        what = f"is not declared any more (was {_words(old[name])})"
        yield SchemaChange(f"{table}.{name}", what, f"the tower loses an input; {FULL}", True)


def _of_kinds(old: list[str], new: list[str]) -> str:
    lost = [kind for kind in old if kind not in new]
    if any(own is not None and own.are_categories for own in (KINDS[kind].own for kind in lost if kind in KINDS)):
        return "the id tables of it cannot be carried over"
    if lost:
        return f"what was learned of it as {_words(lost)} cannot be carried over"
    return "a new input of the tower"


def _statistics(before: SchemaFacts, now: SchemaFacts, tower: Tower) -> Iterator[SchemaChange]:
    name = f"{tower}_statistics_of"
    was, is_now = (list(facts.dataset[name]) for facts in (before, now))
    if was != is_now:
        what = f"was {_words(was)} and is {_words(is_now)} now"
        yield SchemaChange(f"dataset.{name}", what, f"the {tower} tower has other inputs; {FULL}", True)


def _event_kinds(before: SchemaFacts, now: SchemaFacts) -> Iterator[SchemaChange]:
    for name in ("event_kinds", "positive_kinds", "history_kinds"):
        # Tables of earlier versions have none.
        was, is_now = (facts.dataset.get(name) or None for facts in (before, now))
        if was != is_now:
            what = f"was {was or 'nothing'} and is {is_now or 'nothing'} now"
            meaning = f"other events are fitted, are in histories, or count another reward; {FULL}"
            yield SchemaChange(f"dataset.{name}", what, meaning, True)


def _source(before: SchemaFacts, now: SchemaFacts, table: str) -> Iterator[SchemaChange]:
    """Changes of the raw columns that declared ones do not tell."""
    old, new = before.source.get(table, {}), now.source.get(table, {})
    used_before = {raw: name for name, raw in before.columns.get(table, {}).items()}
    used = {raw: name for name, raw in now.columns.get(table, {}).items()}
    for raw in (raw for raw in new if raw not in old):
        if raw not in used:
            meaning = "nothing reads it; to use it, declare it in dataset and do a full retrain"
            yield SchemaChange(f"{table}.{raw}", f"is new in the source ({new[raw]})", meaning, False)
        elif used[raw] in (columns.REWARD, columns.VALUE):
            meaning = f"events have a {used[raw]} from now on, and those of before may have none; {FULL}"
            yield SchemaChange(f"{table}.{raw}", f"is new in the source ({new[raw]})", meaning, True)
    for raw in (raw for raw in old if raw not in new):
        if raw not in used_before:
            yield SchemaChange(f"{table}.{raw}", "is gone from the source", "nothing read it", False)
        elif used_before[raw] in (columns.REWARD, columns.VALUE):
            meaning = f"events have no {used_before[raw]} from now on; {FULL}, or bring the column back"
            yield SchemaChange(f"{table}.{raw}", "is gone from the source", meaning, True)
    for raw in (raw for raw in new if raw in old and old[raw] != new[raw]):
        what = f"was {old[raw]} and is {new[raw]} now in the source"
        if None not in (widths := (_width(old[raw]), _width(new[raw]))) and widths[0] != widths[1] and raw in used:
            meaning = f"vectors of another width, which what was learned of them does not fit; {FULL}"
            yield SchemaChange(f"{table}.{raw}", what, meaning, True)
            continue
        if used.get(raw) in (columns.USER_ID, columns.ITEM_ID):
            meaning = (
                "ids are compared as text: check whether 17 has become 17.0, as then no id would be known any more"
            )
        elif raw in used:
            meaning = "it is read as declared; what cannot be read so is set aside and counted"
        else:
            meaning = "nothing reads it"
        yield SchemaChange(f"{table}.{raw}", what, meaning, False)


def _width(kind: str) -> str | None:
    """Numbers in each row of a column of lists of one size, as its type in the source has it; None of any other."""
    found = re.fullmatch(r"fixed_size_list<.*>\[(\d+)\]", kind)
    return None if found is None else found[1]


def _words(values: list[str]) -> str:
    return " and ".join(values) or "nothing"
