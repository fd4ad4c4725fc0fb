"""The commands `items`: items that servers offer before the next night has read them."""

from __future__ import annotations

from collections.abc import Iterable
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
    from features.encoding import Encoder
    from features.schema import Schema
    from features.sources.raw import RawTable, TimestampUnit
    from twinspire.config import Config

MOST_NAMED = 5

items = typer.Typer(no_args_is_help=True, help="Offer new items within seconds, before the next night reads them.")


@items.command()
def add(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV table of items, with the columns of the items table.")],
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Add items, or change those that were added; a running server follows within seconds."""
    with errors():
        settings, paths = settle(config, set_, None, runs)
        from serving.added_items import add_items

        encoder = _published(paths)
        table = _table(file, settings, encoder.schema)
        outcome = add_items(paths.added_items, table, encoder.schema, encoder.item_ids)
        if as_json:
            typer.echo(json_text(outcome._asdict(), indent=2))
            return
        for names, text in (
            (outcome.added, "added; a running server follows within seconds, and the next night reads the items table"),
            (outcome.replaced, "changed"),
            (outcome.in_catalogue, "in the catalogue already, and not changed: the next night reads the items table"),
        ):
            _tell(names, text)
        for row, reason in outcome.set_aside:
            typer.secho(f"{file}, row {row}: set aside ({reason})", fg="yellow")


@items.command("list")
def list_(
    as_json: AsJson = False, config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = None, runs: Runs = DEFAULT_RUNS
) -> None:
    """Show what was added, and whether the published bundle has it by now."""
    with errors():
        _, paths = settle(config, set_, None, runs)
        from serving.added_items import read_items

        encoder = _published(paths)
        rows = read_items(paths.added_items, encoder.schema).to_pylist()
        known = encoder.item_ids.rows([row["item_id"] for row in rows])
        found = [row | {"in_bundle": bool(is_in)} for row, is_in in zip(rows, known, strict=True)]
        if as_json:
            typer.echo(json_text(found, indent=2))
            return
        for row in found:
            note = "   (in the published bundle by now)" if row["in_bundle"] else ""
            typer.echo(f"{row['item_id']}  {row['item_name'] or ''}{note}")
        if not found:
            typer.echo("nothing was added")


@items.command()
def remove(
    item: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of the items.")],
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Take back items that were added."""
    with errors():
        _, paths = settle(config, set_, None, runs)
        from serving.added_items import remove_items

        names = ids_as_stored(item)
        found = remove_items(paths.added_items, names, _published(paths).schema)
        _tell(found, "no longer offered")
        _tell([name for name in names if name not in found], "never added")


def _published(paths: RunPaths) -> Encoder:
    """The columns and ids of the published bundle, all that is needed of it."""
    from features.encoding import Encoder
    from serving.bundles.bundle import CURRENT, ENCODER
    from serving.bundles.manifest import read_manifest

    folder = paths.bundles / CURRENT
    read_manifest(folder)  # BundleError: there is no bundle, or it is of another format.
    return Encoder.load(folder / ENCODER)


def _table(file: Path, settings: Config, schema: Schema) -> RawTable:
    """The file as the items table of the source is read: with the names of its columns, and its unit of time."""
    from features.config import TableFile, TablesSource
    from features.sources.tables import entities_table

    source = settings.ingest.source
    unit: TimestampUnit = "s"
    own = TableFile(path=file)
    if isinstance(source, TablesSource):
        unit = source.timestamp_unit
        own = TableFile(path=file) if source.items is None else source.items.model_copy(update={"path": file})
    found = entities_table(own, schema, "item", unit)
    assert found is not None
    return found


def _tell(names: Iterable[str], text: str) -> None:
    some = list(names)
    if some:
        more = f" and {len(some) - MOST_NAMED:,} more" if len(some) > MOST_NAMED else ""
        typer.echo(f"{', '.join(some[:MOST_NAMED])}{more}: {text}")
