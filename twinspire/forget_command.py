"""Which command makes the runs of a dataset forget a person? And which ones, where it was compared with others?"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artefacts.locks import only_run
from twinspire.job import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    USER_OPTION,
    AsJson,
    ConfigPath,
    Now,
    Overrides,
    Runs,
    errors,
    ids_as_stored,
    moment,
    settle,
)

if TYPE_CHECKING:
    from artefacts.paths import RunPaths
    from twinspire.forget_everywhere import Removed

# What a comparison adds to the name of a dataset whose features it changes.
OTHER_FEATURES = re.compile(r"_[0-9a-f]{6}$")


@dataclass(frozen=True)
class Told:
    """What the command says at its end.

    Attributes:
        unknown: Ids that nothing below the runs named; they are remembered all the same.
        removed: What went, by the folder of the runs.
        bundles: Versions that still name somebody.
        published: The one of them that is served; None where that names nobody.
        bundles_removed: Versions that went.
    """

    unknown: list[str]
    removed: dict[str, list[Removed]]
    bundles: list[str]
    published: str | None
    bundles_removed: list[str]


def forget(
    user: Annotated[list[str] | None, USER_OPTION] = None,
    file: Annotated[Path | None, typer.Option("--file", help="User ids, one a line; # begins a comment.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make and publish the bundle of the published one's day again, at once.")
    ] = False,
    bundles: Annotated[
        bool, typer.Option("--bundles", help="Remove every bundle that names them and is not published.")
    ] = False,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    set_: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
    now: Now = None,
) -> None:
    """Remove a person's data from everything below the runs, and keep the source from bringing it back."""
    with errors():
        named = [*(user or []), *(_read_ids(file) if file else [])]
        if not named or not all(map(str.strip, named)):
            raise ValueError("no user to forget, or an empty id; name them with --user ID, or one a line with --file")
        people = ids_as_stored(named)
        _, paths = settle(config, set_, None, runs)
        unknown, removed = _forget_everywhere(paths, people, moment(now))
    if rebuild:
        _rebuild(paths, config, set_, runs, now)
    with errors():
        told = _told(paths, people, unknown, removed, remove_bundles=bundles)
        if as_json:
            typer.echo(json.dumps(asdict(told), indent=2))
        else:
            _print(told, people)


def _read_ids(file: Path) -> list[str]:
    from features.forgotten import ids_in

    return ids_in(file.read_text(encoding="utf-8"))


def _forget_everywhere(
    paths: RunPaths, people: Sequence[str], now: dt.datetime
) -> tuple[list[str], dict[str, list[Removed]]]:
    """Forgets in the runs of a dataset and of those comparisons that have features of their own."""
    from artefacts.console import progress
    from twinspire.forget_everywhere import forget, known, remember

    seen: set[str] = set()
    removed: dict[str, list[Removed]] = {}
    for own in _all_runs(paths):
        # Without the ids: what holds the lock is told to everybody who asks.
        with only_run(own.root, command="twinspire forget", now=now), progress(f"forgetting in {own.root.name}"):
            remember(own, people)
            seen |= known(own, people)
            removed[_name(own, paths)] = forget(own, people)
    return [user_id for user_id in people if user_id not in seen], removed


def _all_runs(paths: RunPaths) -> list[RunPaths]:
    """Those of a dataset, of comparisons with other features, and both in folders of their own (`runs/ablations`)."""
    from artefacts.paths import RunPaths

    own, runs = paths.root.name, paths.root.parent
    below = [folder for folder in sorted(runs.glob(f"*/{own}*")) if (folder / "tables").is_dir()]
    folders = [
        folder
        for folder in [*sorted(runs.glob(f"{own}_*")), *below]
        # Comparisons publish nothing: what has bundles is a dataset that happens to be called like this.
        if (OTHER_FEATURES.match(folder.name[len(own) :]) and not (folder / "bundles").exists()) or folder.name == own
    ]
    return [paths, *(RunPaths(folder, paths.as_of) for folder in folders)]


def _name(runs: RunPaths, paths: RunPaths) -> str:
    return str(runs.root.relative_to(paths.root.parent))


def _rebuild(paths: RunPaths, config: Path, set_: list[str] | None, runs: Path, now: dt.datetime | None) -> None:
    """Does the night of the published bundle again."""
    from serving.bundles.folder import published
    from serving.bundles.manifest import day_of
    from twinspire.nightly import daily

    version = published(paths.bundles)
    if version is None:
        typer.echo("nothing is published, so that there is no bundle to make again")
        return
    day = dt.datetime.combine(day_of(version), dt.time())
    daily(date=day, full=False, config=config, set_=set_, runs=runs, force=False, now=now)


def _told(
    paths: RunPaths,
    people: Sequence[str],
    unknown: list[str],
    removed: dict[str, list[Removed]],
    *,
    remove_bundles: bool,
) -> Told:
    from serving.bundles.folder import published, remove
    from twinspire.forget_everywhere import bundles_naming

    served, left, gone = published(paths.bundles), [], []
    for own in _all_runs(paths):
        naming = bundles_naming(own, people)
        if remove_bundles and naming:
            reason = "names somebody who is forgotten"
            removals = [removal.name for removal in remove(own.bundles, naming, reason=reason)]
            naming = [version for version in naming if version not in removals]
            gone += removals
        # Those of other folders with the folder's name.
        left += [version if own is paths else f"{_name(own, paths)}/{version}" for version in naming]
    return Told(unknown, removed, left, served if served in left else None, gone)


def _print(told: Told, people: Sequence[str]) -> None:
    from rich.table import Table

    from artefacts.console import console

    for user_id in told.unknown:
        console().print(f"{user_id}: not known here, nothing to do; remembered, should a source bring it", markup=False)
    rows = [(name, removed) for name, of_dataset in told.removed.items() for removed in of_dataset]
    if rows:
        table = Table(box=None, pad_edge=False)
        table.add_column("where")
        table.add_column("rows", justify="right")
        table.add_column("what was done")
        for name, removed in rows:
            where = removed.where if len(told.removed) == 1 else f"{name}: {removed.where}"
            table.add_row(where, f"{removed.num_rows:,}", removed.how)
        console().print(table)
    elif len(told.unknown) < len(people):
        console().print("everything but bundles had forgotten them already")
    for version in told.bundles_removed:
        console().print(f"bundle {version} removed", markup=False)
    for version in told.bundles:
        console().print(f"bundle {version} still names them: {_advice(told, version)}", markup=False)


def _advice(told: Told, version: str) -> str:
    if version == told.published:
        return "it is served; the next `twinspire daily`, or --rebuild, publishes another, then --bundles removes it"
    return "--bundles removes it"
