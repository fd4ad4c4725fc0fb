"""A bundle: everything that serving needs in one folder, verified when it is opened.

    bundles/
      current -> 2017-12-01-0f3c9a71   the published one
      published.jsonl                  which one was published when; see `serving.bundles.folder`
      2017-12-01-0f3c9a71/
        manifest.json                  what it is, with a checksum of every other file
        config.yaml  schema.json       resolved configuration; columns and feature services
        encoder/                       raw values -> model inputs, with the user and item ids
        user_tower.tflite  item_tower.tflite
        item_vectors.npy               [N, D] float32
        item_weights.npy               [N] float32 business weights; only where the index ranks by them
        index.hnsw                     over these vectors, times the weights, without withdrawn items
        equal_vectors.npy              [E, 2] int32 items with the vector of an earlier one, and that one; only where
                                       there are any
        items.parquet                  item_id, item_name, category of the catalogue rows
        sparcode/                      tokenizer, codebook and posting lists; only where SparCode is configured
        sparse/                        index over the terms of items; only where it is configured
        second_look/                   net that ranks candidates; only where it is configured
        purchases/*.npy                who bought what: [U, N] in compressed rows
        popularity.npy                 [N] float32, recent events of each item
        withdrawn.npy                  [W] int32 catalogue rows that are never answered with; only where there are any
        metrics.json  MODEL_CARD.md    how good it is, for programs and for people

N items, D vector width, U user rows. Two numberings of items meet here: catalogue rows run from 0 to N - 1 and number
vectors, index, purchases and retrievers; the encoder's item rows run from 1 to N because row 0 is its unknown
item. Item row = catalogue row + 1. Users have the encoder's rows, 0 to U - 1, with the unknown user first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from artefacts.locks import Hold
from features import columns, encoding, ids, lists, schema
from serving.bundles.manifest import BundleError, Manifest, describe_files, files_of, read_manifest, version_of
from serving.retrieval import distinct, eligible, exported_tower, ranking
from serving.retrieval.added import AddedItems
from serving.retrieval.index import ItemIndex
from serving.retrieval.purchases import Purchases
from serving.retrieval.weights import WEIGHTS_FILE, load_weights, weighted
from serving.second_look.files import SecondLookParts
from serving.sparcode import files, postings
from serving.sparse.index import SparseIndex

CURRENT = "current"
CATEGORY, FAMILY = "category", "family"
CONFIG, SCHEMA, ENCODER = "config.yaml", "schema.json", "encoder"
USER_TOWER, ITEM_TOWER = "user_tower.tflite", "item_tower.tflite"
ITEM_VECTORS, INDEX, ITEMS = "item_vectors.npy", "index.hnsw", "items.parquet"
ITEM_WEIGHTS = WEIGHTS_FILE
SPARCODE, SPARSE, SECOND_LOOK = "sparcode", "sparse", "second_look"
PURCHASES, POPULARITY, WITHDRAWN = "purchases", "popularity.npy", eligible.WITHDRAWN_FILE
METRICS, MODEL_CARD = "metrics.json", "MODEL_CARD.md"
ITEM_COLUMNS = (columns.ITEM_ID, columns.ITEM_NAME, CATEGORY)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, loaded."""

    folder: Path
    """Where it was read from, the pointer resolved."""
    manifest: Manifest
    """Its description and checksums."""
    encoder: encoding.Encoder
    """Raw values -> inputs of the user tower; also the ids of users and items."""
    user_tower: exported_tower.ExportedTower
    """Inputs -> [B, D]."""
    item_vectors: npt.NDArray[np.float32]
    """[N, D], read-only."""
    ranked: ranking.Scores
    """[N, D], read-only: the item vectors times the items' business weights, or the item vectors where there are none.
    What the index is over and exact search scores."""
    index: ItemIndex
    """Over the ranked vectors of what is not withdrawn."""
    item_names: list[str | None]
    """[N] by catalogue row."""
    categories: list[eligible.Categories]
    """[N] by catalogue row."""
    purchases: Purchases
    """[U, N]."""
    popularity: npt.NDArray[np.float32]
    """[N] recent events of each item."""
    item_weights: ranking.Scores | None
    """[N] float32 business weights; None where the index ranks by the vectors alone."""
    sparcode: files.SparCodeParts | None
    """The second retriever; None where the bundle has none."""
    withdrawn: eligible.Items = field(default_factory=eligible.NO_ITEMS.copy)
    """Catalogue rows, ascending, of what left the catalogue: part of histories, and never answered with."""
    sparse: SparseIndex | None = None
    """Over the terms of items; None where the bundle has none."""
    second_look: SecondLookParts | None = None
    """What ranks candidates again; None where the bundle has nothing of the kind."""
    families: npt.NDArray[np.int32] | None = None
    """[N] number of each item's family, -1 for none; None where the data set has no families."""
    added: AddedItems | None = None
    """Items that it answers with beyond its catalogue: their names, categories and families are behind the others."""
    sparse_with_added: SparseIndex | None = None
    """The sparse index with the terms of added items, for typed words; None where nothing was added."""
    hold: Hold | None = None
    """Keeps retention from removing the folder as long as the bundle is in use."""

    @property
    def version(self) -> str:
        """Name of the bundle."""
        return self.manifest.bundle_version

    @cached_property
    def num_events(self) -> npt.NDArray[np.float64]:
        """[N] events of each item so far."""
        own = self.purchases
        return np.asarray(np.bincount(own.indices, weights=own.counts, minlength=own.num_items), np.float64)

    @property
    def item_ids(self) -> ids.IdMap:
        """Of what it answers with, added items too; the towers know those of the encoder."""
        return self.encoder.item_ids if self.added is None else self.added.item_ids

    def vectors_of(self, rows: ranking.Rows) -> npt.NDArray[np.float32]:
        """[n, D] item vectors of rows, added items too."""
        if self.added is None:
            return self.item_vectors[rows]
        is_added = rows >= len(self.item_vectors)
        vectors = self.item_vectors[np.where(is_added, 0, rows)]
        vectors[is_added] = self.added.vectors[rows[is_added] - len(self.item_vectors)]
        return vectors

    @property
    def typed_index(self) -> SparseIndex | None:
        """What typed words are looked up in, added items too; None where the bundle has no sparse index."""
        return self.sparse if self.sparse_with_added is None else self.sparse_with_added

    def category_of(self, row: int) -> str | None:
        """The category of a catalogue row, or its categories in one text, for people."""
        found = self.categories[row]
        return ", ".join(found) if isinstance(found, tuple) else found

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Reads a bundle after checking everything that can be checked.

        Args:
            folder: A bundle, or the pointer to one.

        Returns:
            The loaded bundle.

        Raises:
            BundleError: A file is missing, left over or changed, or two parts do not fit each other.
        """
        folder = folder.resolve()
        if not folder.is_dir():
            raise BundleError(f"{folder}: no such folder; expected a bundle made by `twinspire bundle`")
        hold = Hold(folder)
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        _check_schema(folder, manifest)
        num_items, num_users, dimension = manifest.num_items, manifest.num_users, manifest.dimension
        report = manifest.facts.index_report

        encoder = _load(folder / ENCODER, encoding.Encoder.load)
        _expect(folder / ENCODER, "dataset schema", encoder.schema, manifest.dataset_schema)
        _expect(folder / ENCODER, "number of items", len(encoder.item_ids) - 1, num_items)
        _expect(folder / ENCODER, "number of users", len(encoder.user_ids), num_users)
        user_tower = _load(folder / USER_TOWER, exported_tower.ExportedTower)
        _expect(folder / USER_TOWER, "dimension", user_tower.dimension, dimension * report.num_interests)
        inputs = sorted(spec.name for spec in encoder.input_specs("user"))
        _expect(folder / USER_TOWER, "inputs", sorted(user_tower.input_names), inputs)
        vectors = _load_array(folder / ITEM_VECTORS, (num_items, dimension))
        _expect(folder / ITEM_VECTORS, "width", dimension, sum(report.parts))
        weights = _item_weights(folder, num_items, has_weights=manifest.facts.business_weight is not None)
        ranked = vectors if weights is None else _ranked(folder, vectors, weights)
        withdrawn = _load(folder / WITHDRAWN, lambda path: eligible.withdrawn_in(path.parent, num_items=num_items))
        index = _load(folder / INDEX, lambda path: distinct.load_index(report.form, path, ranked, withdrawn))
        names = [*ITEM_COLUMNS, *([FAMILY] if manifest.dataset_schema.item_family else [])]
        items = _load(folder / ITEMS, lambda path: pq.read_table(path, columns=names))
        item_ids = encoder.item_ids.ids(np.arange(1, num_items + 1))
        _expect(folder / ITEMS, "number of items", items.num_rows, num_items)
        if not items.column(columns.ITEM_ID).combine_chunks().equals(pa.array(item_ids, pa.string())):
            raise BundleError(
                f"{folder / ITEMS}: items are not those of the encoder in its order; make the bundle again from one run"
            )
        purchases = _load(folder / PURCHASES, lambda path: Purchases.load(path, num_items=num_items))
        _expect(folder / PURCHASES, "number of users", purchases.num_users, num_users)
        sparcode, sparse, second_look = None, None, None
        if manifest.facts.sparse_report is not None:
            sparse = _load(folder / SPARSE, lambda path: SparseIndex.load(path, item_ids))
        if manifest.facts.second_look_report is not None:
            second_look = _load(folder / SECOND_LOOK, lambda path: SecondLookParts.load(path, num_items=num_items))
        if manifest.facts.sparcode_report is not None:
            digest = postings.catalogue_digest(item_ids)
            sparcode = _load(folder / SPARCODE, lambda path: files.SparCodeParts.open(path, catalogue=digest))
            _expect(folder / SPARCODE, "inputs", sorted(sparcode.tokenizer.input_names), inputs)
        item_names, categories = items.column(columns.ITEM_NAME).to_pylist(), _shared(items.column(CATEGORY))
        families = lists.codes_of(items.column(FAMILY).combine_chunks()) if FAMILY in names else None
        del items
        # What Parquet's readers took, Arrow would keep.
        pa.default_memory_pool().release_unused()
        return cls(
            folder=folder,
            manifest=manifest,
            encoder=encoder,
            user_tower=user_tower,
            item_vectors=vectors,
            ranked=ranked,
            index=index,
            item_names=item_names,
            categories=categories,
            purchases=purchases,
            popularity=_load_array(folder / POPULARITY, (num_items,)),
            item_weights=weights,
            sparcode=sparcode,
            withdrawn=withdrawn,
            sparse=sparse,
            second_look=second_look,
            hold=hold,
            families=families,
        )


def schema_document(manifest: Manifest) -> dict[str, Any]:
    """Content of `schema.json`: what a feature store must offer to serve this bundle."""
    return {
        "dataset_schema": manifest.dataset_schema.model_dump(mode="json"),
        "feature_services": manifest.facts.feature_services,
    }


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares every file with its checksum in the manifest, and the version with both.

    Raises:
        BundleError: A file is missing, left over or changed, or the folder has another name than its version.
    """
    # What is still being copied is found out before anything is read.
    there = files_of(folder)
    if missing := sorted(manifest.files.keys() - there.keys()):
        raise BundleError(f"{folder / missing[0]}: missing, expected by the manifest; copy the bundle again")
    if extra := sorted(there.keys() - manifest.files.keys()):
        raise BundleError(
            f"{folder / extra[0]}: not in the manifest; a bundle is never changed after it was written, remove the file"
        )
    for name, expected in manifest.files.items():
        if (size := there[name].stat().st_size) != expected.size_bytes:
            raise BundleError(f"{there[name]}: has {size} bytes, expected {expected.size_bytes}; copy the bundle again")
    found = describe_files(folder)
    for name, expected in manifest.files.items():
        if (digest := found[name].sha256) != expected.sha256:
            raise BundleError(
                f"{folder / name}: SHA-256 is {digest[:12]}..., expected {expected.sha256[:12]}...; copy the bundle "
                "again"
            )
    _expect(folder, "contents of version", version_of(manifest.facts, found), manifest.bundle_version)
    _expect(folder, "folder name", folder.name, manifest.bundle_version)


def _check_schema(folder: Path, manifest: Manifest) -> None:
    found = _load(folder / SCHEMA, lambda path: dict(json.loads(path.read_text(encoding="utf-8"))))
    # A key that a later version has added has its default in a bundle of an earlier one.
    declared = _load(folder / SCHEMA, lambda path: schema.Schema.model_validate(found.get("dataset_schema")))
    for key, expected in schema_document(manifest).items():
        if key != "dataset_schema" or declared != manifest.dataset_schema:
            _expect(folder / SCHEMA, key, found.get(key), expected)


def _expect(path: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise BundleError(
            f"{path}: {what} is {found}, expected {expected} as in the manifest; make the bundle again from one run"
        )


def _shared(column: pa.ChunkedArray) -> list[eligible.Categories]:
    """Texts, or lists of texts, of a column; equal ones are one object, as items are many and categories are few."""
    values: Iterable[eligible.Categories] = column.to_pylist()
    if pa.types.is_list(column.type):
        values = (None if value is None else tuple(value) for value in column.to_pylist())
    found: dict[eligible.Categories, eligible.Categories] = {}
    return [found.setdefault(value, value) for value in values]


def _load_array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    # Not mapped: a file that is cut short, or written over, in place would kill whoever touches its pages.
    array: npt.NDArray[np.float32] = _load(path, lambda file: np.load(file, allow_pickle=False))
    array.flags.writeable = False
    _expect(path, "shape", list(array.shape), list(shape))
    _expect(path, "dtype", str(array.dtype), "float32")
    return array


def _item_weights(folder: Path, num_items: int, *, has_weights: bool) -> ranking.Scores | None:
    path = folder / ITEM_WEIGHTS
    _expect(path, "presence", path.exists(), has_weights)
    return _load(path, lambda file: load_weights(file, num_items=num_items)) if has_weights else None


def _ranked(folder: Path, vectors: ranking.Scores, weights: ranking.Scores) -> ranking.Scores:
    ranked = _load(folder / ITEM_WEIGHTS, lambda _: weighted(vectors, weights))
    ranked.flags.writeable = False
    return ranked


def _load(path: Path, reader: Callable[[Path], Loaded]) -> Loaded:
    try:
        return reader(path)
    except BundleError:
        raise
    # Whatever a reader makes of a file that is not what it expects.
    except Exception as error:
        raise BundleError(
            f"{path}: cannot be read: {str(error) or type(error).__name__}; make the bundle again"
        ) from error
