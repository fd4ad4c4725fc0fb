"""The gates keep a faulty bundle unpublished, whichever part is at fault, on the run of a real night."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from evaluation.config import CHECK_NAMES, GatesSections
from evaluation.gates import gates
from evaluation.gates import index as size
from evaluation.gates.candidate import Candidate
from evaluation.gates.gates import check_gates
from evaluation.gates.report import Check, GateError, GateReport
from evaluation.gates.smoke import wrong
from features.columns import midnight
from features.store import Store
from serving.answers import Answer, Recommendations
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import describe_files, read_manifest, version_of, write_manifest
from serving.retrieval.distinct import build_index
from serving.retrieval.index import HnswIndex
from serving.retrieval.purchases import Purchases
from twinspire.load_config import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Night:
    """A copy of a run for a test to spoil, with a previous night of the same outcome."""

    candidate: Candidate

    @property
    def folder(self) -> Path:
        return self.candidate.folder

    def check(self, name: str, **limits: Any) -> Check:
        sections = self.candidate.sections
        changed = replace(sections, gates=sections.gates.model_copy(update=limits))
        # A new one, which has read nothing yet; what it finds is the version that `sign` left.
        paths = self.candidate.paths
        return gates.check(replace(self.candidate, sections=changed, version=paths.bundle_name.read_text()), name)

    def sign(self, **facts: Any) -> None:
        """Makes the manifest agree with what was changed: a bundle that was made wrong, not damaged later."""
        folder = self.candidate.paths.bundles / self.candidate.paths.bundle_name.read_text()
        manifest, files = read_manifest(folder), describe_files(folder)
        spoiled = manifest.facts.model_copy(update=facts)
        version = version_of(spoiled, files)
        changed = manifest.model_copy(update={"facts": spoiled, "files": files, "bundle_version": version})
        write_manifest(folder, changed)
        folder.rename(folder.with_name(version))
        self.candidate.paths.bundle_name.write_text(version)


@pytest.fixture
def night(first_day: Any, tmp_path: Path) -> Night:
    paths = RunPaths(first_day.copy(tmp_path / "runs").root, first_day.day)
    before = RunPaths(paths.root, first_day.day - dt.timedelta(days=1))
    version = paths.bundle_name.read_text()
    parent = f"{before.as_of}-{version[-8:]}"
    for folder, copy in (
        (paths.model, before.model),
        (paths.vectors, before.vectors),
        (paths.bundles / version, paths.bundles / parent),
    ):
        shutil.copytree(folder, copy)
    return Night(Candidate(pick(GatesSections, load(first_day.config)), paths, version, parent))


def test_a_healthy_night_passes_every_check(night: Night) -> None:
    candidate = night.candidate
    # Nothing was fitted since the copy that serves as the previous night, which is only a warning.
    outcome = check_gates(candidate.sections, candidate.paths, parent=candidate.parent)
    counts, unchecked = outcome.split("; NOT CHECKED: ")
    # Every item has events, and neither SparCode nor a sparse index is configured.
    assert counts == "16 checks passed, 1 warned, 7 not applicable"
    # No day is new: the copy is of the same one.
    assert unchecked == "nulls, numeric_drift, category_drift, held_out_recall"
    report = GateReport.from_json(candidate.paths.gates.read_text())
    assert tuple(check.name for check in report.checks) == CHECK_NAMES
    assert [check.name for check in report.checks if check.outcome == "warned"] == ["changed_lists"]


def test_a_faulty_night_is_not_published_and_has_a_report(night: Night) -> None:
    candidate = night.candidate
    candidate.paths.features_version.unlink()
    with pytest.raises(GateError, match=r"freshness: .* the online store holds none of 2024-02-04; .*; run the feat"):
        check_gates(candidate.sections, candidate.paths, parent=candidate.parent)
    report = GateReport.from_json(candidate.paths.gates.read_text())
    assert [check.name for check in report.failed] == ["freshness", "parity"]


def test_a_stale_online_store_fails(night: Night) -> None:
    assert night.check("parity").outcome == "passed"
    end = midnight(night.candidate.paths.as_of) - dt.timedelta(days=7)
    paths = night.candidate.paths
    store = Store.open(paths.features, paths.features_version.read_text())
    # Feast keeps the newer of two rows in Redis; SQLite takes what comes last.
    store.materialize(end - dt.timedelta(days=8), end)
    found = night.check("parity")
    assert found.outcome == "failed"
    assert "of 60 users have another user_as_of_seconds in the online store" in found.sentence


def test_an_index_that_misses_an_item_fails(night: Night) -> None:
    vectors = np.load(night.folder / "item_vectors.npy")
    HnswIndex.build(vectors[:-1], m=16, ef_construction=200, seed=1).save(night.folder / "index.hnsw")
    night.sign()
    found = night.check("index_items")
    assert found.outcome == "failed"
    assert "there are 119 in the index, 120 in the vectors, 120 in the manifest; expected 120 each" in found.sentence
    assert "holds vectors of shape [119, 13]" in night.check("opens").sentence


def test_an_index_with_withdrawn_items_fails_and_one_without_them_passes(night: Night) -> None:
    left = pa.table({"item_id": ["a003", "a011"]})
    pq.write_table(left, night.candidate.paths.tables / "withdrawn_items.parquet")
    found = night.check("index_items")
    assert found.outcome == "failed"
    assert (
        "there are 120 in the index, 120 in the vectors, 120 in the manifest; expected 120 each, the items of the "
        "catalogue, but 118 in the index, as 2 of them were withdrawn"
    ) in found.sentence
    rows, vectors = np.array([3, 11], np.int32), np.load(night.folder / "item_vectors.npy")
    index = HnswIndex.build(vectors, m=16, ef_construction=200, seed=1, left_out=rows)
    index.save(night.folder / "index.hnsw")
    np.save(night.folder / "withdrawn.npy", rows)
    night.sign()
    assert night.check("index_items").outcome == "passed"
    assert night.check("opens").outcome == "passed"


def test_an_index_that_finds_too_little_fails(night: Night) -> None:
    report = night.candidate.manifest.facts.index_report
    night.sign(index_report=replace(report, recall=0.9, num_below_half=3))
    found = night.check("index_recall")
    assert found.outcome == "failed"
    assert (
        "finds 0.9000 of the exact top 20 at ef 60, over 50 users, 3 of whom get less than half of their exact list; "
        "expected at least 0.95"
    ) in found.sentence
    assert found.found == {"recall": 0.9, "num_below_half": 3}


def test_items_with_equal_vectors_count_as_items_of_the_index(night: Night) -> None:
    vectors = np.load(night.folder / "item_vectors.npy")
    vectors[100:] = vectors[3]
    np.save(night.folder / "item_vectors.npy", vectors)
    build_index("ip", vectors, m=16, ef_construction=200, seed=1).save(night.folder / "index.hnsw")
    night.sign()
    assert night.check("index_items").outcome == "passed"
    assert night.check("opens").outcome == "passed"
    renamed = night.candidate.paths.bundles / night.candidate.paths.bundle_name.read_text()
    build_index("exact", vectors, m=16, ef_construction=200, seed=1).save(renamed / "index.hnsw")
    night.sign(index_report=replace(read_manifest(renamed).facts.index_report, form="exact"))
    assert night.check("index_items").outcome == "passed"
    assert night.check("opens").outcome == "passed"


def test_a_bundle_of_another_size_fails(night: Night) -> None:
    assert night.check("bundle_size").outcome == "passed"
    total = size.size_of(night.candidate.manifest)
    assert "(gates.max_bundle_bytes)" in night.check("bundle_size", max_bundle_bytes=total - 1).sentence
    (night.folder / "item_tower.tflite").write_bytes(bytes(2 * total))
    night.sign()
    found = night.check("bundle_size")
    assert found.outcome == "failed"
    assert found.found["ratio"] > 2  # type: ignore[operator]


def test_an_unreadable_previous_night_does_not_fail_the_bundle(night: Night) -> None:
    (night.candidate.paths.bundles / str(night.candidate.parent) / "manifest.json").write_text("{}")
    assert night.check("bundle_size").outcome == "not applicable"


def test_a_full_disk_fails(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    total = size.size_of(night.candidate.manifest)
    free = shutil.disk_usage(night.folder)._replace(free=2 * total)
    monkeypatch.setattr(size.shutil, "disk_usage", lambda path: free)
    found = night.check("disk_space")
    assert found.outcome == "failed"
    assert "room for 2.0 more bundles; expected at least 3" in found.sentence


def test_a_damaged_bundle_fails(night: Night) -> None:
    (night.folder / "popularity.npy").unlink()
    found = night.check("opens")
    assert found.outcome == "failed"
    assert "popularity.npy: missing, expected by the manifest" in found.sentence


def test_scores_that_are_not_finite_fail(night: Night) -> None:
    popularity = np.load(night.folder / "popularity.npy")
    popularity[7] = np.inf
    np.save(night.folder / "popularity.npy", popularity)
    night.sign()
    found = night.check("answers")
    assert found.outcome == "failed"
    assert "gets a score that is not finite" in found.sentence


def test_a_bundle_without_the_purchases_fails(night: Night) -> None:
    bundle = Bundle.open(night.folder)
    nothing = np.zeros(0, np.int64)
    forgotten = Purchases.from_events(
        nothing, nothing, seconds=nothing, num_users=bundle.manifest.num_users, num_items=bundle.manifest.num_items
    )
    shutil.rmtree(night.folder / "purchases")
    forgotten.save(night.folder / "purchases")
    night.sign()
    found = night.check("exclude_bought")
    assert found.outcome == "failed"
    assert "items of earlier purchases" in found.sentence


@pytest.mark.parametrize(
    ("ids", "scores", "expected"),
    [
        (["a000"], [1.0], "c00 gets 1 items, expected 2"),
        (["a000", "a000"], [1.0, 0.5], "c00 gets 1 items twice"),
        (["a000", "gone"], [1.0, 0.5], "c00 gets 'gone', which is not in the catalogue"),
        (["a000", "a001"], [1.0, float("nan")], "c00 gets a score that is not finite"),
    ],
)
def test_each_kind_of_wrong_list_is_detected(night: Night, ids: list[str], scores: list[float], expected: str) -> None:
    items = [
        {"item_id": name, "item_name": None, "category": None, "score": score}
        for name, score in zip(ids, scores, strict=True)
    ]
    found = Recommendations("", "fused", [Answer("c00", items, False, None)], {})  # type: ignore[arg-type]
    assert wrong(found, Bundle.open(night.folder), num_items=2) == [expected]


def test_half_of_the_examples_of_a_day_fail(night: Night) -> None:
    [newest] = sorted((night.candidate.paths.examples).iterdir())[-1:]
    table = pq.read_table(newest / "events.parquet")
    pq.write_table(table.slice(0, table.num_rows // 2), newest / "events.parquet")
    found = night.check("examples")
    assert found.outcome == "failed"
    assert f"such as {newest.name}: {table.num_rows // 2} examples of {table.num_rows} events" in found.sentence


def test_a_catalogue_without_an_item_fails(night: Night) -> None:
    path = night.candidate.paths.catalogue(night.candidate.paths.as_of) / "items.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert "it has 119 ids, and the tables have 120" in night.check("catalogue").sentence


def test_vectors_that_are_not_finite_fail(night: Night) -> None:
    [file] = (night.candidate.paths.vectors / "items").glob("*.parquet")
    table = pq.read_table(file)
    values = table.column("vector").combine_chunks().flatten().to_numpy().copy()
    values[:3] = np.nan
    vectors = pa.FixedSizeListArray.from_arrays(values, 13)
    pq.write_table(pa.table([table.column("row"), vectors], schema=table.schema), file)
    assert "1 of 120 items' vectors are not finite" in night.check("vectors").sentence


def test_rows_set_aside_fail(night: Night) -> None:
    path = night.candidate.paths.tables / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "quarantined": {"events": {"null_id": 200}, "users": {}, "items": {}}}))
    assert "11.98% of the new rows of events were set aside" in night.check("quarantine").sentence
