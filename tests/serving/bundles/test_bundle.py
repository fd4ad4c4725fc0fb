"""Opening a bundle: what its manifest describes loads, anything else is an error."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.bundles.bundle import Bundle
from serving.bundles.manifest import BundleError, Facts
from serving.bundles.publish import Parts, write
from serving.config import RankingConfig
from serving.recommender import Recommender
from serving.registry import retrievers_of
from serving.retrieval.distinct import build_index
from serving.retrieval.index import HnswIndex, read_shape

Sign = Callable[..., Path]


def test_a_bundle_returns_its_written_parts(written: Path, parts: Parts) -> None:
    bundle = Bundle.open(written)
    np.testing.assert_array_equal(bundle.item_vectors, parts.item_vectors)
    np.testing.assert_array_equal(bundle.popularity, parts.popularity)
    np.testing.assert_array_equal(bundle.purchases.counts, parts.purchases.counts)
    assert bundle.item_names == parts.items.column("item_name").to_pylist()
    assert bundle.categories == parts.items.column("category").to_pylist()
    assert bundle.encoder.schema == parts.encoder.schema
    assert bundle.manifest.metrics == parts.metrics
    assert bundle.version == written.name
    found, expected = (source.search(parts.item_vectors[:3], k=5, ef=50) for source in (bundle.index, parts.index))
    np.testing.assert_array_equal(found[0], expected[0])


def test_the_vectors_cannot_be_changed_by_accident(written: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Bundle.open(written).item_vectors[0] = 0


def test_a_weighted_bundle_ranks_by_the_cosine_times_the_weight(written_weighted: Path, parts: Parts) -> None:
    bundle = Bundle.open(written_weighted)
    np.testing.assert_array_equal(bundle.item_vectors, parts.item_vectors)
    weights = np.load(written_weighted / "item_weights.npy")
    np.testing.assert_array_equal(bundle.ranked, parts.item_vectors * weights[:, None])
    rows, scores = bundle.index.search(parts.item_vectors[:3], k=6, ef=50)
    expected = (parts.item_vectors[:3] @ parts.item_vectors.T) * weights
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :6])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :6], atol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        bundle.ranked[0] = 0


def test_a_bundle_without_weights_ranks_by_the_vectors_as_they_lie_in_the_file(written: Path) -> None:
    bundle = Bundle.open(written)
    assert bundle.ranked is bundle.item_vectors
    assert not (written / "item_weights.npy").exists()


def test_items_with_equal_vectors_are_served_as_by_exact_search(
    parts: Parts, facts: Facts, read_users: Callable[[list[str]], pa.Table], tmp_path: Path
) -> None:
    # Half of the 40 items have one vector, among them 5 of the 6 that are withdrawn.
    num_items = len(parts.item_vectors)
    vectors = np.where(np.arange(num_items)[:, None] % 2 == 0, parts.item_vectors[:1], parts.item_vectors)
    withdrawn = np.array([0, 1, 2, 4, 6, 8], np.int32)
    index = build_index("ip", vectors, m=8, ef_construction=50, seed=7, left_out=withdrawn)
    made = dataclasses.replace(parts, item_vectors=vectors, index=index, withdrawn=withdrawn)
    folder = tmp_path / write(tmp_path, made, facts)
    assert (len(np.load(folder / "equal_vectors.npy")), read_shape(folder / "index.hnsw")[0]) == (14, 20)
    bundle = Bundle.open(folder)
    # Without a width in the configuration, the beam is that of the bundle.
    retrievers = retrievers_of(bundle, RankingConfig(max_fetch=12), ef_search=None)
    assert (retrievers["two_tower"].ef, facts.index_report.ef) == (50, 50)  # type: ignore[attr-defined]
    recommender = Recommender(bundle, read_users, retrievers=retrievers, default_retriever="two_tower")
    for asked in (
        {"k": 10},
        {"k": 12, "exclude_known": True},
        {"k": 34},
        {"k": 9, "deny_categories": ("fish",)},
        {"k": 11, "allow_categories": ("fish",), "exclude_known": True},
    ):
        found, wanted = (
            recommender.recommend(["u1", "u4"], retriever=name, explain=True, **asked).answers  # type: ignore[arg-type]
            for name in ("two_tower", "exact")
        )
        for mine, exact in zip(found, wanted, strict=True):
            assert [item["item_id"] for item in mine.items] == [item["item_id"] for item in exact.items]
            scores = [[item["score"] for item in answer.items] for answer in (mine, exact)]
            np.testing.assert_allclose(*scores, atol=1e-6)
            assert not {f"i{row}" for row in withdrawn} & {item["item_id"] for item in mine.items}
    (folder / "equal_vectors.npy").unlink()
    assert "equal_vectors.npy: missing" in refusal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    return str(caught.value)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "index.hnsw"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    assert f"index.hnsw: has {size - 10} bytes, expected {size}; copy the bundle again" in refusal(folder)


def test_every_changed_byte_is_refused(written: Path, folder: Path) -> None:
    for path in sorted(written.rglob("*")):
        name = path.relative_to(written)
        if path.is_file() and path.name != "manifest.json":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            (folder / name).write_bytes(content)
            assert f"{name}: SHA-256 is " in refusal(folder)
            shutil.copyfile(path, folder / name)
    Bundle.open(folder)


def test_every_missing_file_is_refused(written: Path, folder: Path) -> None:
    for path in sorted(written.rglob("*")):
        name = path.relative_to(written)
        if path.is_file():
            (folder / name).unlink()
            assert f"{name}: missing" in refusal(folder)
            shutil.copyfile(path, folder / name)
    Bundle.open(folder)


def test_an_extra_file_is_refused(folder: Path) -> None:
    (folder / "encoder" / "notes.txt").write_text("")
    assert "notes.txt: not in the manifest" in refusal(folder)


def test_a_link_in_place_of_a_file_is_refused(written: Path, folder: Path) -> None:
    (folder / "index.hnsw").unlink()
    (folder / "index.hnsw").symlink_to(written / "index.hnsw")
    assert "index.hnsw: not a plain file" in refusal(folder)


def test_a_renamed_bundle_is_refused(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("mine"))
    assert f"folder name is mine, expected {folder.name}" in refusal(renamed)


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_format_version_is_refused(folder: Path) -> None:
    edit_manifest(folder, format_version=1)
    assert "manifest.json: format version 1, expected 5" in refusal(folder)


def test_a_manifest_that_is_not_valid_is_refused(folder: Path) -> None:
    edit_manifest(folder, num_items="many")
    assert "manifest.json: num_items: " in refusal(folder)
    edit_manifest(folder, num_items=40, colour="blue")
    assert "manifest.json: colour: " in refusal(folder)
    (folder / "manifest.json").write_text("{")
    assert "manifest.json: not valid JSON" in refusal(folder)


def test_a_manifest_that_claims_another_meaning_is_refused(folder: Path) -> None:
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    edit_manifest(folder, facts=facts | {"dataset": "other"})
    assert f"expected {folder.name}" in refusal(folder)


# From here on the checksums agree: the parts were exchanged by somebody who signed the manifest again.


def test_another_number_of_vectors_is_refused(folder: Path, sign: Sign) -> None:
    vectors = np.load(folder / "item_vectors.npy")
    np.save(folder / "item_vectors.npy", vectors[:-1])
    assert "item_vectors.npy: shape is [39, 8], expected [40, 8]" in refusal(sign(folder))


def test_an_index_over_other_vectors_is_refused(folder: Path, sign: Sign) -> None:
    vectors = np.load(folder / "item_vectors.npy")
    HnswIndex.build(vectors[:-1], m=8, ef_construction=50, seed=1).save(folder / "index.hnsw")
    folder = sign(folder)
    assert "index.hnsw: holds vectors of shape [39, 8], expected [40, 8]" in refusal(folder)
    HnswIndex.build(vectors[:, :4].copy(), m=8, ef_construction=50, seed=1).save(folder / "index.hnsw")
    assert "index.hnsw: holds vectors of shape [40, 4], expected [40, 8]" in refusal(sign(folder))


def test_a_tower_of_another_width_is_refused(folder: Path, sign: Sign, exported: Path) -> None:
    shutil.copyfile(exported / "narrow.tflite", folder / "user_tower.tflite")
    assert "user_tower.tflite: dimension is 4, expected 8" in refusal(sign(folder))


def test_another_catalogue_is_refused(folder: Path, sign: Sign) -> None:
    items = pq.read_table(folder / "items.parquet")
    pq.write_table(items.slice(1), folder / "items.parquet")
    folder = sign(folder)
    assert "items.parquet: number of items is 39, expected 40" in refusal(folder)
    pq.write_table(items.take(list(range(39, -1, -1))), folder / "items.parquet")
    assert "items.parquet: items are not those of the encoder" in refusal(sign(folder))


def test_another_dataset_schema_is_refused(folder: Path, sign: Sign) -> None:
    path = folder / "schema.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dataset_schema": {}}))
    folder = sign(folder)
    assert "schema.json: dataset_schema is {}, expected {'user_columns'" in refusal(folder)


def test_a_bundle_from_before_a_key_of_the_schema_was_added_opens(folder: Path, sign: Sign) -> None:
    path = folder / "schema.json"
    content = json.loads(path.read_text())
    del content["dataset_schema"]["computed_features"]
    path.write_text(json.dumps(content))
    assert Bundle.open(sign(folder)).manifest.dataset_schema.computed_features == ()


def test_another_feature_service_is_refused(folder: Path, sign: Sign) -> None:
    path = folder / "schema.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"feature_services": {"user": "other"}}))
    assert "schema.json: feature_services is {'user': 'other'}, expected {'user': 'user_tower'" in refusal(sign(folder))


def test_an_encoder_of_another_schema_is_refused(folder: Path, sign: Sign) -> None:
    path = folder / "encoder" / "encoder.json"
    content = json.loads(path.read_text())
    content["schema"]["value_meaning"] = "stars"
    path.write_text(json.dumps(content))
    assert "encoder: dataset schema is " in refusal(sign(folder))


def test_a_pickle_is_refused(folder: Path, sign: Sign) -> None:
    np.save(folder / "popularity.npy", np.array([{}] * 40, dtype=object), allow_pickle=True)
    assert "popularity.npy: cannot be read" in refusal(sign(folder))


def test_purchases_of_other_users_are_refused(folder: Path, sign: Sign) -> None:
    path = folder / "purchases" / "indptr.npy"
    np.save(path, np.load(path)[1:])
    assert "purchases: number of users is 6, expected 7" in refusal(sign(folder))


@pytest.fixture
def weighted_folder(written_weighted: Path, tmp_path: Path) -> Path:
    """A copy of the weighted bundle for a test to spoil."""
    return Path(shutil.copytree(written_weighted, tmp_path / written_weighted.name))


def test_weights_that_the_index_was_not_built_with_are_refused(weighted_folder: Path, sign: Sign) -> None:
    path = weighted_folder / "item_weights.npy"
    weights = np.load(path)
    weights[0] *= 1.1
    np.save(path, weights)
    assert "index.hnsw: cannot be read: " in (found := refusal(sign(weighted_folder)))
    assert "build it again after a change of vectors or weights" in found


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(39, np.float32), "holds float32 of shape [39], expected float32 of shape [40]"),
        (np.ones(40, np.float64), "holds float64 of shape [40], expected float32 of shape [40]"),
        (np.zeros(40, np.float32), "the weight of item 0 is 0.0, expected a positive number"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weighted_folder: Path, sign: Sign, weights: Any, message: str) -> None:
    np.save(weighted_folder / "item_weights.npy", weights)
    found = refusal(sign(weighted_folder))
    assert "item_weights.npy: " in found
    assert message in found


def test_weights_exist_exactly_where_the_manifest_declares_them(
    weighted_folder: Path, folder: Path, sign: Sign
) -> None:
    (weighted_folder / "item_weights.npy").unlink()
    assert "item_weights.npy: presence is False, expected True as in the manifest" in refusal(sign(weighted_folder))
    np.save(folder / "item_weights.npy", np.ones(40, np.float32))
    assert "item_weights.npy: presence is True, expected False as in the manifest" in refusal(sign(folder))


def test_parts_that_do_not_sum_to_the_width_are_refused(folder: Path, sign: Sign, facts: Facts) -> None:
    report = dataclasses.replace(facts.index_report, parts=(5, 4))
    folder = sign(folder, facts=facts.model_copy(update={"index_report": report}))
    assert "item_vectors.npy: width is 8, expected 9 as in the manifest" in refusal(folder)
