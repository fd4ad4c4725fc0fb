"""The commands that list, compare, publish and remove bundles; heavy imports wait until one runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from artefacts.console import console
from artefacts.files import json_text
from twinspire.job import DEFAULT_CONFIG, DEFAULT_RUNS, AsJson, ConfigPath, DryRun, Now, Overrides, Runs, errors, moment

if TYPE_CHECKING:
    from serving.bundles.bundle_diff import BundleDiff, Changes, Exchange
    from serving.bundles.folder import Entry, Reason
    from serving.bundles.manifest import Facts, Manifest
    from serving.bundles.retention import Removal
    from twinspire.config import Config

VERSION_HELP = "A version, or the beginning of just one, such as its day."
Version = Annotated[str, typer.Argument(metavar="VERSION", help=VERSION_HELP)]

bundles = typer.Typer(no_args_is_help=True, help="List, compare, publish and remove bundles.")


@bundles.command("list")
def list_(
    as_json: AsJson = False, config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = None, runs: Runs = DEFAULT_RUNS
) -> None:
    """List all bundles, the latest written first."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundles.folder import list_bundles, published, rollback_target
        from serving.bundles.manifest import BundleError

        entries, served = list_bundles(folder), published(folder)
        try:
            before = rollback_target(folder)
        except BundleError:
            before = None
        rows = [summary(entry, published=served, rollback=before) for entry in entries]
        if as_json:
            typer.echo(json_text(rows, indent=2))
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
    """Show what a bundle is and where it comes from, and verify its checksums."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundles.bundle import check_files
        from serving.bundles.folder import find_version, published, size_of
        from serving.bundles.manifest import read_manifest
        from serving.bundles.publish import current

        chosen = current(folder) if version is None else folder / find_version(folder, version)
        manifest = read_manifest(chosen)
        check_files(chosen, manifest)
        is_published, size_bytes = published(folder) == chosen.name, size_of(chosen)
        if as_json:
            more = {"published": is_published, "verified": True, "size_bytes": size_bytes}
            typer.echo(json_text(manifest.model_dump(mode="json") | more, indent=2))
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
    """Show what changed from bundle A to bundle B, after verifying both."""
    with errors():
        _, folder = _open(config, set_, runs)
        from serving.bundles.bundle_diff import compare
        from serving.bundles.folder import find_version

        found = compare(*(folder / find_version(folder, asked) for asked in (old, new)))
        if as_json:
            typer.echo(json_text(asdict(found), indent=2))
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
        from serving.bundles.folder import find_version

        _verify_and_publish(settings, folder, find_version(folder, version), moment(now), "promote")


@bundles.command()
def rollback(
    config: ConfigPath = DEFAULT_CONFIG, set_: Overrides = None, runs: Runs = DEFAULT_RUNS, now: Now = None
) -> None:
    """Publish what was published before the current bundle; again, and it goes further back."""
    with errors():
        settings, folder = _open(config, set_, runs)
        from serving.bundles.folder import rollback_target

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
    """Remove bundles beyond a number or an age, and online features that none names.

    What is published, what a rollback would publish, what an arm is pinned to and what a server has open stays.
    """
    with errors():
        settings, folder = _open(config, set_, runs)
        from artefacts.console import without_chatter
        from artefacts.paths import RunPaths
        from serving.config import BundlesConfig, PublishSections
        from serving.steps import prune_bundles

        limits = BundlesConfig(
            keep=settings.bundles.keep if keep is None else keep,
            max_age_days=settings.bundles.max_age_days if older_than is None else older_than,
        )
        paths = RunPaths(folder.parent, settings.as_of)
        with without_chatter():
            removals, problems = prune_bundles(
                PublishSections(limits, settings.serving.arms), paths, now=moment(now), dry_run=dry_run
            )
        print_removals(removals, dry_run=dry_run)
        for problem in problems:
            _print(Text(problem))


def _open(config: Path, overrides: list[str] | None, runs: Path) -> tuple[Config, Path]:
    """The configuration and the folder of its bundles."""
    from artefacts.paths import RunPaths
    from twinspire.load_config import load

    settings = load(config, overrides or [])
    return settings, RunPaths(runs / settings.name, settings.as_of).bundles


def _verify_and_publish(settings: Config, folder: Path, version: str, now: dt.datetime, reason: Reason) -> None:
    from serving.bundles.bundle import Bundle
    from serving.bundles.folder import published
    from serving.bundles.publish import publish
    from serving.registry import retrievers_of
    from serving.user_features import features_of

    # A server that is started next must be able to answer from it as configured.
    bundle = Bundle.open(folder / version)
    retrievers_of(bundle, settings.serving, ef_search=settings.index.ef_search)
    features_of(bundle, folder.parent / "features")
    before = published(folder)
    publish(folder, version, moment=now, reason=reason)
    outcome = "was published already" if before == version else f"verified and published; before: {before or 'none'}"
    console().print(f"{version} {outcome}", markup=False)


MEGABYTE = 1e6
WIDEST = 1000
PUBLISHED, BEFORE = "published", "before it"


def summary(entry: Entry, *, published: str | None, rollback: str | None) -> dict[str, Any]:
    """A bundle in the list, as JSON; null and empty where its manifest cannot be read.

    Args:
        entry: The bundle.
        published: Version of the published one.
        rollback: Version of the one that a rollback would publish.
    """
    from serving.bundles.bundle_diff import leaves

    manifest = entry.manifest
    figures = dict(leaves(manifest.metrics)) if manifest else {}
    return {
        "version": entry.version,
        "as_of": str(entry.as_of),
        "created": entry.created.isoformat(),
        "size_bytes": entry.size_bytes,
        "num_items": manifest.num_items if manifest else None,
        "recall": {name: value for name, value in figures.items() if name.rpartition(".")[2].startswith("recall_at_")},
        "published": entry.version == published,
        "rollback_target": entry.version == rollback,
        "problem": entry.problem,
    }


def print_bundles(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a line for each bundle, then why a manifest could not be read."""
    recalls = sorted({name for row in rows for name in row["recall"]}, key=_by_length_of_list)
    table = _table("version", "day", "created (UTC)")
    for name in ("size", "items", *(_recall_title(name, recalls) for name in recalls)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        state = PUBLISHED if row["published"] else BEFORE if row["rollback_target"] else ""
        created = f"{dt.datetime.fromisoformat(row['created']):%Y-%m-%d %H:%M}"
        items = "-" if row["num_items"] is None else f"{row['num_items']:,}"
        found = (f"{row['recall'][name]:.4f}" if name in row["recall"] else "-" for name in recalls)
        state = "not readable" if row["problem"] and not state else state
        table.add_row(row["version"], row["as_of"], created, _size(row["size_bytes"]), items, *found, state)
    _print(table if rows else Text("no bundles"))
    for row in rows:
        if row["problem"]:
            _print(Text(row["problem"]))


def print_manifest(manifest: Manifest, *, is_published: bool, size_bytes: int) -> None:
    """Prints a verified bundle's lineage, figures, reports and files."""
    from serving.bundles.bundle_diff import leaves

    _print(Text(f"{manifest.bundle_version}{', published' if is_published else ''}", style="bold"))
    checked = f"{len(manifest.files)} files, {_size(size_bytes)}, every checksum as in the manifest"
    _section("", [("verified", checked)])
    _section("Lineage", _lineage(manifest))
    _section("Metrics", ((name, _value(value)) for name, value in leaves(manifest.metrics)))
    _section("Index", _index(manifest.facts))
    served = manifest.facts.served
    tried = [(" tried" if place else "tried", ", ".join(row)) for place, row in enumerate(served.table)]
    _section("Served by default", [("lists", str(served)), ("why", served.why), *tried])
    report = manifest.facts.sparcode_report
    if report is not None:
        tables = f"{report.num_codes:,} codes, {report.num_postings:,} postings, {_size(report.size_bytes)}"
        found = f"{report.recall:.4f} at bias {report.bias:.3f}, over {report.num_queries:,} users"
        made = f"{report.build_seconds:.0f} s, from {report.num_tokens:,} tokens, lists of at most {report.cap:,} items"
        _section("SparCode", [("tables", tables), (f"recall@{report.k}", found), ("built in", made)])
    sparse = manifest.facts.sparse_report
    if sparse is not None:
        held = f"{sparse.num_terms:,} terms, {sparse.num_postings:,} postings, {_size(sparse.size_bytes)}"
        _section("Sparse index", [("holds", held), ("items without a term", f"{sparse.num_empty:,}")])
    _section("Files", ((name, f"{entry.size_bytes:,} bytes") for name, entry in sorted(manifest.files.items())))


def print_diff(diff: BundleDiff) -> None:
    """Prints what changed, a part after the other; parts without a change are named at the end."""
    _print(Text(f"{diff.old} -> {diff.new}", style="bold"))
    parts: dict[str, Iterable[tuple[str, str]]] = {
        "Configuration": _changed(diff.configuration),
        "Schema": _changed(diff.dataset_schema),
        "Facts": _changed(diff.facts),
        "Metrics": _changed(diff.metrics),
        "Items": _exchanged(diff.items),
        "Users": _exchanged(diff.users),
        "Bytes": _changed(diff.size_bytes),
    }
    same = []
    for title, lines in parts.items():
        if found := list(lines):
            _section(title, found)
        else:
            same.append(title.lower())
    if same:
        _print(Text(f"\nthe same: {', '.join(same)}"))


def print_removals(removals: Sequence[Removal], *, dry_run: bool) -> None:
    """Prints what went, or would, and its size."""
    does = "would remove" if dry_run else "removed"
    for removal in removals:
        _print(Text(f"{does} {removal.name}, {_size(removal.size_bytes)}: {removal.reason}"))
    total = sum(removal.size_bytes for removal in removals)
    folders = "1 folder" if len(removals) == 1 else f"{len(removals)} folders"
    _print(Text(f"{does} {folders}, {total:,} bytes" if removals else "nothing to remove"))


def _lineage(manifest: Manifest) -> list[tuple[str, str]]:
    facts = manifest.facts
    window = facts.data_window
    return [
        ("dataset", facts.dataset),
        ("known", f"everything before {facts.as_of} 00:00 UTC"),
        ("created", facts.created.isoformat(sep=" ", timespec="seconds")),
        ("data window", f"{window.num_events:,} events from {window.first} up to, not including, {window.end}"),
        ("holds", f"{manifest.num_items:,} items, {manifest.num_users - 1:,} users, vectors of {manifest.dimension}"),
        ("feature services", ", ".join(f"{tower}: {name}" for tower, name in sorted(facts.feature_services.items()))),
        ("online features", facts.features_version),
        ("code", f"{facts.code_version}, commit {facts.commit or 'unknown'}"),
        ("configuration", f"digest {facts.configuration_digest}, seed {facts.seed}"),
        ("parent", facts.parent or "none, fitted from scratch"),
        ("packages", ", ".join(f"{name} {found}" for name, found in facts.package_versions.items())),
    ]


def _index(facts: Facts) -> list[tuple[str, str]]:
    report, weight = facts.index_report, facts.business_weight
    ranked = "cosine" if weight is None else f"cosine times {weight.name}^{weight.power:g}"
    return [
        ("form", f"{report.form}, ranks by {ranked}, parts of width {' + '.join(map(str, report.parts))}"),
        (f"recall@{report.k}", f"{report.recall:.4f} of exact search at ef {report.ef}, over {report.asked()}"),
        ("built", report.built()),
    ]


def _changed(changes: Changes) -> Iterable[tuple[str, str]]:
    for key, sides in changes.items():
        old, new = (_value(sides[side]) if side in sides else "(absent)" for side in ("old", "new"))
        difference = sides.get("difference")
        more = "" if difference is None else f"  ({'+' if difference > 0 else ''}{_value(difference)})"
        yield key, f"{old} -> {new}{more}"


def _exchanged(exchange: Exchange) -> Iterable[tuple[str, str]]:
    from twinspire.show import shown_name

    for title, count, named in (
        ("added", exchange.num_added, exchange.added),
        ("removed", exchange.num_removed, exchange.removed),
    ):
        if count:
            shown = [name if text is None else f"{name} {shown_name(text, name)}" for name, text in named.items()]
            yield title, f"{count:,}: {', '.join(shown)}{', ...' if count > len(shown) else ''}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 0.001 or not value else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json_text(value)


def _by_length_of_list(name: str) -> tuple[str, int]:
    group, _, figure = name.rpartition(".")
    length = figure.removeprefix("recall_at_")
    return group, int(length) if length.isdecimal() else 0


def _recall_title(name: str, recalls: Sequence[str]) -> str:
    """The figure's name, with its group only where several groups have figures."""
    group, _, figure = name.rpartition(".")
    title = figure.replace("recall_at_", "recall@")
    return title if len({other.rpartition(".")[0] for other in recalls}) == 1 else f"{group} {title}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / MEGABYTE:,.2f} MB"


def _table(*titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def _section(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """A title and two columns under it; Text, because values may hold what rich takes for markup."""
    rows = list(lines)
    if title:
        _print(Text(f"\n{title}", style="bold"))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        _print(Text.assemble((f"  {name:<{width}}", "dim"), "  ", " ".join(value.split())))


def _print(content: Table | Text) -> None:
    """Prints at full width, beyond that of the terminal: a cut version or path cannot be copied."""
    out = console()
    needed = Measurement.get(out, out.options.update(max_width=WIDEST), content).maximum
    out.width = max(out.width, needed)
    out.print(content)
