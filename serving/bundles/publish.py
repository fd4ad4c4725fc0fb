"""Writing a bundle and its model card, whole or not at all, and moving the pointer to the published one."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts import files, locks
from features.encoding import Encoder
from features.schema import SIDES, Schema, Side, plural
from serving.bundles import bundle as layout
from serving.bundles import folder as history
from serving.bundles.folder import no_folder, published
from serving.bundles.manifest import (
    FORMAT_VERSION,
    BundleError,
    Facts,
    Manifest,
    describe_files,
    read_manifest,
    version_of,
    write_manifest,
)
from serving.retrieval.eligible import NO_ITEMS, Items
from serving.retrieval.index import ItemIndex
from serving.retrieval.purchases import Purchases


class BundleExistsError(BundleError):
    """The same bundle was written before; `version` is its name."""

    def __init__(self, message: str, version: str) -> None:
        """Takes the message and the name."""
        super().__init__(message)
        self.version = version


@dataclass(frozen=True)
class Parts:
    """What goes into a bundle. N items, D vector width, U user rows."""

    config_yaml: str
    """The resolved configuration."""
    encoder: Encoder
    """Its schema becomes the bundle's."""
    user_tower: Path
    """The exported `.tflite` file."""
    item_tower: Path
    """The exported `.tflite` file."""
    item_vectors: npt.NDArray[np.float32]
    """[N, D] by catalogue row."""
    item_weights: npt.NDArray[np.float32] | None
    """[N] business weights; None where the index ranks by the vectors alone."""
    index: ItemIndex
    """Over the item vectors times the weights, without what is withdrawn."""
    sparcode: Path | None
    """Folder with the files of `serving.sparcode.files`; None where there is no such retriever."""
    items: pa.Table
    """[N] item_id, item_name, category by catalogue row; names and categories may be null, and categories be lists. A
    column family, where the schema has one."""
    purchases: Purchases
    """[U, N]."""
    popularity: npt.NDArray[np.float32]
    """[N] recent events of each item."""
    metrics: Mapping[str, Any]
    """Quality figures, as JSON takes them."""
    withdrawn: Items = field(default_factory=NO_ITEMS.copy)
    """Catalogue rows, ascending, that are never answered with."""
    sparse: Path | None = None
    """Folder of a `serving.sparse.index.SparseIndex`; None where there is none."""
    second_look: Path | None = None
    """Folder of `serving.second_look.files.SecondLookParts`; None where there is none."""


def write(bundles: Path, parts: Parts, facts: Facts) -> str:
    """Writes a bundle into a temporary folder, synced to disk, then renames it.

    Args:
        bundles: Folder of all bundles, made if it is not there.
        parts: Its contents.
        facts: What the contents do not show.

    Returns:
        The version, which is the name of the new folder.

    Raises:
        BundleExistsError: The same bundle is there already.
    """
    bundles.mkdir(parents=True, exist_ok=True)
    with _folder_to_fill(bundles) as folder:
        manifest = _fill(folder, parts, facts)
        _sync(folder)
        target = bundles / manifest.bundle_version
        if target.exists():
            raise BundleExistsError(
                f"{target}: exists already with the same contents; publish it, or remove it to write it again",
                manifest.bundle_version,
            )
        folder.chmod(0o755)
        folder.rename(target)
        files.sync_folder(bundles)
    return manifest.bundle_version


def publish(bundles: Path, version: str, *, moment: dt.datetime, reason: history.Reason) -> None:
    """Makes a bundle the current one; a reader sees the old or the new pointer, never none.

    Args:
        bundles: Folder of all bundles.
        version: Name of the one to serve.
        moment: When, for the history.
        reason: Why, for the history; what is current already gets no line in it.

    Raises:
        BundleError: There is no such bundle, or the pointer is no pointer.
    """
    if not bundles.is_dir():
        raise no_folder(bundles)
    # Against a retention that would remove this very bundle meanwhile.
    with locks.locked(bundles):
        _move_pointer(bundles, version, moment, reason)


def current(bundles: Path) -> Path:
    """Folder of the published bundle.

    Raises:
        BundleError: None was published, or the published one is gone.
    """
    pointer = bundles / layout.CURRENT
    if not pointer.is_dir():
        raise BundleError(f"{pointer}: points to no bundle; make one with `twinspire bundle`")
    return pointer.resolve()


def _move_pointer(bundles: Path, version: str, moment: dt.datetime, reason: history.Reason) -> None:
    found = read_manifest(bundles / version).bundle_version
    if found != version:
        raise BundleError(f"{bundles / version}: manifest names version {found}, expected {version}; use its real name")
    pointer = bundles / layout.CURRENT
    if pointer.exists() and not pointer.is_symlink():
        raise BundleError(f"{pointer}: is not a symbolic link, expected one to a bundle; remove it")
    before = published(bundles)
    if before != version:
        history.append(bundles, history.Publication(version=version, before=before, moment=moment, reason=reason))
    new = Path(tempfile.mkdtemp(prefix=".publishing-", dir=bundles))
    try:
        (new / layout.CURRENT).symlink_to(version)
        (new / layout.CURRENT).replace(pointer)
        files.sync_folder(bundles)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _folder_to_fill(bundles: Path) -> Iterator[Path]:
    """A folder that is locked while its writer lives, so that retention does not remove it as a killed writer's."""
    with ExitStack() as held:
        with locks.locked(bundles):
            folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=bundles))
            held.enter_context(locks.locked(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, parts: Parts, facts: Facts) -> Manifest:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_version=f"{facts.as_of}-00000000",
        facts=facts,
        dataset_schema=parts.encoder.schema,
        num_items=parts.item_vectors.shape[0],
        num_users=len(parts.encoder.user_ids),
        dimension=parts.item_vectors.shape[1],
        metrics=dict(parts.metrics),
        files={},
    )
    (folder / layout.CONFIG).write_text(parts.config_yaml, encoding="utf-8")
    _write_json(folder / layout.SCHEMA, layout.schema_document(manifest))
    parts.encoder.save(folder / layout.ENCODER)
    shutil.copyfile(parts.user_tower, folder / layout.USER_TOWER)
    shutil.copyfile(parts.item_tower, folder / layout.ITEM_TOWER)
    np.save(folder / layout.ITEM_VECTORS, np.ascontiguousarray(parts.item_vectors), allow_pickle=False)
    if parts.item_weights is not None:
        np.save(folder / layout.ITEM_WEIGHTS, parts.item_weights, allow_pickle=False)
    parts.index.save(folder / layout.INDEX)
    if parts.sparcode is not None:
        shutil.copytree(parts.sparcode, folder / layout.SPARCODE)
    if parts.sparse is not None:
        shutil.copytree(parts.sparse, folder / layout.SPARSE)
    if parts.second_look is not None:
        shutil.copytree(parts.second_look, folder / layout.SECOND_LOOK)
    pq.write_table(parts.items, folder / layout.ITEMS)
    parts.purchases.save(folder / layout.PURCHASES)
    np.save(folder / layout.POPULARITY, parts.popularity, allow_pickle=False)
    if len(parts.withdrawn):
        np.save(folder / layout.WITHDRAWN, parts.withdrawn, allow_pickle=False)
    _write_json(folder / layout.METRICS, dict(parts.metrics))
    # The card names the version, so that it is written after the hash; as a report it is not part of it.
    version = version_of(facts, describe_files(folder))
    manifest = manifest.model_copy(update={"bundle_version": version})
    (folder / layout.MODEL_CARD).write_text(model_card(manifest), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": describe_files(folder)})
    write_manifest(folder, manifest)
    return manifest


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(files.json_text(content, indent=2, sort_keys=True), encoding="utf-8")


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        files.sync_folder(path)


def model_card(manifest: Manifest) -> str:
    """The model card of a bundle as Markdown."""
    facts, window, report = manifest.facts, manifest.facts.data_window, manifest.facts.index_report
    lines = [
        f"# {facts.dataset}, bundle {manifest.bundle_version}",
        "",
        "Proposes items for users: a two-tower model finds items near the user's vector; the user's own repeated "
        f"{plural(manifest.dataset_schema.event_name)} and popular items may complete the list.",
        "",
        "## Data",
        "",
        f"- {window.num_events:,} events from {window.first} up to, not including, {window.end}.",
        f"- Everything before {facts.as_of} 00:00 UTC is known, nothing from then on.",
        f"- {manifest.num_users - 1:,} users and {manifest.num_items:,} items; value of an event: "
        f"{manifest.dataset_schema.value_meaning}.",
        *_columns(manifest.dataset_schema),
        "",
        "## Model",
        "",
        f"- Vectors of {manifest.dimension} numbers{_parts(report.parts)}, L2-normalised; the score is their inner "
        f"product{_interests(report.num_interests)}{_weight(facts)}.",
        f"- Index of the form `{report.form}`: recall@{report.k} {report.recall:.3f} against exact search at ef "
        f"{report.ef} over {report.asked()}; {report.built()}.",
        f"- Served by default: {facts.served}. Why: {facts.served.why}.",
        f"- Feature services: {', '.join(sorted(facts.feature_services.values()))}.",
        f"- Seed {facts.seed}, configuration {facts.configuration_digest}, code {facts.code_version}.",
        "",
        "## Quality",
        "",
        *(_figures(manifest.metrics) if manifest.metrics else ["Not measured when the bundle was made."]),
        "",
        "## Limits",
        "",
        "- Users without events before the cut get popular items; the answer gives the reason.",
        "- Items first seen after the cut are not proposed before the next bundle.",
        "- Offline recall rewards what people found by themselves; it does not measure the effect of a recommendation.",
        "",
    ]
    return "\n".join(lines)


def _interests(num: int) -> str:
    return "" if num == 1 else f", the best of {num} vectors of a user"


def _parts(widths: Sequence[int]) -> str:
    return f", {' + '.join(map(str, widths))} side by side" if len(widths) > 1 else ""


def _weight(facts: Facts) -> str:
    weight = facts.business_weight
    if weight is None:
        return ""
    return (
        f" times the item's business weight w = {weight.name}^{weight.power:g}, at most 1; the standard deviation of "
        f"log w is {facts.index_report.weight_spread:.3f}"
    )


COLUMNS_OF: dict[Side, str] = {
    "user": "Columns of the user tower besides ids and statistics",
    "item": "Columns of the item tower besides ids and statistics",
    "event": "Columns of events, which the user tower knows where a request gives them",
    "dated": "Dated facts, which the item tower knows on their days",
}


def _columns(schema: Schema) -> Iterator[str]:
    for side in SIDES:
        if used := schema.columns_of(side):
            described = ", ".join(f"{name} ({', '.join(kinds)})" for name, kinds in used.items())
            yield f"- {COLUMNS_OF[side]}: {described}."


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "| figure | value |"
    yield "|---|---|"
    for name, value in _flatten(metrics, ""):
        yield f"| {name} | {f'{value:.4f}' if isinstance(value, float) else value} |"


def _flatten(metrics: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
