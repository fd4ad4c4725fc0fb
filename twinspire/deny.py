"""The command `deny`: keeps the file of items that a running server leaves out of all answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artefacts.files import json_text
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    ConfigPath,
    Overrides,
    Runs,
    errors,
    ids_as_stored,
    settle,
)

if TYPE_CHECKING:
    from artefacts.paths import RunPaths

HEAD = "# Items that are never answered with, an id a line; kept by `twinspire deny`.\n"


def deny(
    item: Annotated[list[str] | None, typer.Option("--item", "-i", help="Item id; may be repeated.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Allow the items again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show what is denied.")] = False,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Keep items out of all answers from now on; a running server follows within a second."""
    with errors():
        _, paths = settle(config, set_, None, runs)
        if bool(item) == list_ or (undo and list_):
            raise ValueError("give either --item ID, with --undo to allow it again, or --list")
        if item:
            item = ids_as_stored(item)
            _change(paths, item, undo=undo)
        denied, in_bundle = _read(paths.denied_items), _items_of_bundle(paths)
        rows = [{"item_id": name, "in_bundle": in_bundle is None or name in in_bundle} for name in denied]
        if as_json:
            typer.echo(json_text(rows, indent=2))
        elif list_:
            _print(rows)
        else:
            _tell(item or [], rows, undo=undo)


def _change(paths: RunPaths, items: Sequence[str], *, undo: bool) -> None:
    """Adds items to the file, or takes them out; comments and the order of the others stay."""
    from artefacts.files import replace_text
    from artefacts.locks import locked
    from features.forgotten import ids_in, line_of

    path = paths.denied_items
    path.parent.mkdir(parents=True, exist_ok=True)
    # Against another call: what it adds must not be lost.
    with locked(path.parent):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else HEAD.splitlines()
        if undo:
            lines = [line for line in lines if not set(ids_in(line)) & set(items)]
        else:
            there = set(ids_in("\n".join(lines)))
            lines += [line_of(name) for name in dict.fromkeys(items) if name not in there]
        replace_text(path, "".join(f"{line}\n" for line in lines))


def _read(path: Path) -> list[str]:
    from features.forgotten import ids_in

    return ids_in(path.read_text(encoding="utf-8")) if path.exists() else []


def _items_of_bundle(paths: RunPaths) -> set[str] | None:
    """Ids of the items of the published bundle; None where there is none."""
    import pyarrow.parquet as pq

    path = paths.bundles / "current" / "items.parquet"
    return set(pq.read_table(path, columns=["item_id"]).column(0).to_pylist()) if path.exists() else None


def _print(rows: Sequence[dict[str, object]]) -> None:
    from artefacts.console import console

    if not rows:
        console().print("nothing is denied")
    for row in rows:
        note = "" if row["in_bundle"] else "   (not in the published bundle)"
        console().print(f"{row['item_id']}{note}", markup=False)


def _tell(items: Sequence[str], rows: Sequence[dict[str, object]], *, undo: bool) -> None:
    from artefacts.console import console

    unknown = {row["item_id"] for row in rows if not row["in_bundle"]}
    for name in dict.fromkeys(items):
        outcome = "is allowed again" if undo else "is denied; a running server follows within a second"
        note = "; the published bundle has no such item: check the spelling" if name in unknown else ""
        console().print(f"{name} {outcome}{note}", markup=False)
