"""Which commands look at the bundles that are there, and choose the served one? Heavy imports wait until one runs."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinspire.command_line import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    ConfigPath,
    DryRun,
    Now,
    Overrides,
    Runs,
    errors,
    moment,
)

if TYPE_CHECKING:
    from serving.bundle_history import Reason
    from twinspire.config import Config

VERSION_HELP = "A version, or the beginning of just one, such as its day."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help=VERSION_HELP)]

bundles = typer.Typer(no_args_is_help=True, help="List, compare, publish and remove bundles.")


@bundles.command("list")
def list_(
    as_json: AsJson = False, config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = None, runs: Runs = DEFAULT_RUNS
) -> None:
    """List all bundles, the latest written first."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundle_folder import list_bundles, published, rollback_target
        from serving.manifest import BundleError
        from twinspire.show_bundles import print_bundles, summary

        entries, served = list_bundles(folder), published(folder)
        try:
            before = rollback_target(folder)
        except BundleError:
            before = None
        rows = [summary(entry, published=served, rollback=before) for entry in entries]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        else:
            print_bundles(rows)


@bundles.command()
def show(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help=f"{VERSION_HELP} Default: the published one.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Tell what a bundle is and where it comes from, and verify its checksums."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundle import check_files
        from serving.bundle_folder import find_version, published, size_of
        from serving.manifest import read_manifest
        from serving.publish import current
        from twinspire.show_bundles import print_manifest

        chosen = current(folder) if version is None else folder / find_version(folder, version)
        manifest = read_manifest(chosen)
        check_files(chosen, manifest)
        is_published, size_bytes = published(folder) == chosen.name, size_of(chosen)
        if as_json:
            more = {"published": is_published, "verified": True, "size_bytes": size_bytes}
            typer.echo(json.dumps(manifest.model_dump(mode="json") | more, indent=2))
        else:
            print_manifest(manifest, is_published=is_published, size_bytes=size_bytes)


@bundles.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="A", help=VERSION_HELP)],
    new: Annotated[str, typer.Argument(metavar="B", help=VERSION_HELP)],
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Tell what changed from bundle A to bundle B, after verifying both."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundle_diff import compare
        from serving.bundle_folder import find_version
        from twinspire.show_bundles import print_diff

        found = compare(*(folder / find_version(folder, asked) for asked in (old, new)))
        if as_json:
            typer.echo(json.dumps(asdict(found), indent=2))
        else:
            print_diff(found)


@bundles.command()
def promote(
    version: Version,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Verify a bundle, load it as the server does, and publish it."""
    with errors():
        settings, folder = _open(config, set_, runs)
        from serving.bundle_folder import find_version

        _verify_and_publish(settings, folder, find_version(folder, version), moment(now), "promote")


@bundles.command()
def rollback(
    config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = None, runs: Runs = DEFAULT_RUNS, now: Now = None
) -> None:
    """Publish what was published before the current bundle; again, and it goes further back."""
    with errors():
        settings, folder = _open(config, set_, runs)
        from serving.bundle_folder import rollback_target

        _verify_and_publish(settings, folder, rollback_target(folder), moment(now), "rollback")


@bundles.command()
def prune(
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Bundles that stay (overrides bundles.keep).")
    ] = None,
    older_than: Annotated[
        int | None,
        typer.Option(min=0, metavar="DAYS", help="Age after which a bundle goes (overrides bundles.max_age_days)."),
    ] = None,
    dry_run: DryRun = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Remove bundles beyond a number or an age, never the published one nor the one to roll back to."""
    with errors():
        settings, folder = _open(config, set_, runs)
        from serving.retention import prune as remove
        from twinspire.show_bundles import print_removals

        removals = remove(
            folder,
            keep=settings.bundles.keep if keep is None else keep,
            max_age_days=settings.bundles.max_age_days if older_than is None else older_than,
            now=moment(now),
            dry_run=dry_run,
        )
        print_removals(removals, dry_run=dry_run)


def _open(config: Path, overrides: list[str] | None, runs: Path) -> tuple[Config, Path]:
    """The configuration and the folder of its bundles."""
    from artefacts.paths import RunPaths
    from twinspire.load_config import load

    settings = load(config, overrides or [])
    return settings, RunPaths(runs / settings.name, settings.as_of).bundles


def _verify_and_publish(settings: Config, folder: Path, version: str, now: dt.datetime, reason: Reason) -> None:
    from artefacts.console import console
    from serving.bundle import Bundle
    from serving.bundle_folder import published
    from serving.publish import publish
    from twinspire.pipeline.serve import retrievers_of

    # A server that is started next must be able to answer from it as configured.
    retrievers_of(Bundle.open(folder / version), settings)
    before = published(folder)
    publish(folder, version, moment=now, reason=reason)
    told = "was published already" if before == version else f"verified and published; before: {before or 'none'}"
    console().print(f"{version} {told}", markup=False)
