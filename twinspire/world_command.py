"""The command `world`: makes a shop of which the truth is known, to measure methods on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinspire.job import Overrides, errors

if TYPE_CHECKING:
    from evaluation.worlds.config import WorldConfig


def world(
    out: Annotated[Path, typer.Option(help="Folder for the files; it must be empty or not exist.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", exists=True, dir_okay=False, help="YAML file of the world; defaults without."),
    ] = None,
    set_: Overrides = None,
) -> None:
    """Make a shop from a seed: events, users, items and promotions as files, and the truth beside them."""
    with errors():
        from artefacts.console import console, progress
        from evaluation.worlds.write import write_world

        settings = _load(file, set_ or [])
        with progress("days", total=settings.days) as advance:
            written = write_world(settings, out, advance=advance)
        console().print(
            f"{written.num_events:,} events of {written.num_users:,} users and {written.num_items:,} items on "
            f"{settings.days} days, {written.num_exposures:,} exposures: {out}\n"
            f"next: twinspire run --config {out / 'config.yaml'}   (cut {written.cut})",
            markup=False,
            highlight=False,
        )


def _load(file: Path | None, overrides: list[str]) -> WorldConfig:
    """The configuration of a world.

    Raises:
        ConfigError: The file is not YAML, or a value is wrong.
    """
    from evaluation.worlds.config import WorldConfig
    from twinspire.load_config import read_mapping, resolve

    raw = {} if file is None else read_mapping(file, expected="a mapping with the keys seed, days, users, items, ...")
    return resolve(WorldConfig, raw, overrides, source="the world" if file is None else str(file))
