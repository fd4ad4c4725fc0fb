"""The index is the same for the same seed, and its report matches the written graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import apache_beam as beam
import hnswlib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs import build_index
from beam_jobs.build_index import BuildIndex, BuildIndexes, IndexJob, IndexRefusedError, IndexSettings, run
from serving.retrieval.distinct import load_index
from serving.retrieval.index import INDEXES, AugmentedIndex, IndexReport, ItemIndex, read_shape
from serving.retrieval.index_recall import ExactLists, measure_recall
from serving.retrieval.vectors import vector_schema
from serving.retrieval.weights import item_weights, weighted

NUM_ITEMS, NUM_USERS, DIMENSION = 600, 40, 16
# So few links and so narrow a search that the index misses some: a recall of 1 would prove little.
SETTINGS = IndexSettings(
    m=3, ef_construction=6, ef_search=10, k=10, num_queries=25, seed=4, min_recall=0.1, parts=(DIMENSION,)
)
Vectors = npt.NDArray[np.float32]


def unit(num_rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, DIMENSION))
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of vectors whose rows are out of order, as parallel workers leave them."""
    made = {}
    for name, values in (("items", unit(NUM_ITEMS, 1)), ("users", unit(NUM_USERS, 2))):
        made[name] = tmp_path_factory.mktemp(name)
        rows = np.random.default_rng(3).permutation(len(values))
        listed = pa.FixedSizeListArray.from_arrays(values[rows].ravel(), DIMENSION)
        table = pa.table([pa.array(rows), listed], schema=vector_schema(DIMENSION))
        pq.write_table(table, made[name] / "vectors-00000-of-00001.parquet")
    return made


@pytest.fixture(scope="module")
def build(vectors: dict[str, Path], options: PipelineOptions) -> Callable[..., dict[str, Any]]:
    def build(
        out: Path, settings: IndexSettings = SETTINGS, weights: Path | None = None, withdrawn: Path | None = None
    ) -> dict[str, Any]:
        users = vectors["users"]
        run(
            settings,
            items=vectors["items"],
            users=users,
            weights=weights,
            withdrawn=withdrawn,
            out=out,
            options=options,
        )
        report: dict[str, Any] = json.loads((out / "index_report.json").read_text())
        return report

    return build


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_graph(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path / "one")
    build(tmp_path / "two")
    build(tmp_path / "other", replace(SETTINGS, seed=5))
    graphs = {name: (tmp_path / name / "index.hnsw").read_bytes() for name in ("one", "two", "other")}
    assert graphs["one"] == graphs["two"] != graphs["other"]
    saved = {name: (tmp_path / name / "item_vectors.npy").read_bytes() for name in graphs}
    assert saved["one"] == saved["two"] == saved["other"]


def test_item_vectors_are_saved_in_the_order_of_their_rows(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "item_vectors.npy"), unit(NUM_ITEMS, 1))


def test_the_reported_recall_is_that_of_the_written_graph_against_all_products(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = build(tmp_path)
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.load_index(str(tmp_path / "index.hnsw"))
    graph.set_ef(10)
    asked = unit(NUM_USERS, 2)[np.random.default_rng(4).choice(NUM_USERS, 25, replace=False)]
    found, _ = graph.knn_query(asked, k=10, num_threads=1)
    exact = np.argsort(-asked @ unit(NUM_ITEMS, 1).T, axis=1)[:, :10]
    hits = sum(len(set(mine) & set(right)) for mine, right in zip(found.tolist(), exact.tolist(), strict=True))
    assert report["recall"] == pytest.approx(hits / 250)
    assert 0.3 < report["recall"] < 1


def test_the_report_has_recall_and_cost(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = build(tmp_path)
    assert {name: report[name] for name in ("k", "ef", "num_queries")} == {"k": 10, "ef": 10, "num_queries": 25}
    assert report["size_bytes"] == (tmp_path / "index.hnsw").stat().st_size
    assert report["build_seconds"] > 0


def test_fewer_users_than_requested_are_all_queried_and_a_wide_search_finds_everything(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    wide = replace(SETTINGS, m=16, ef_construction=100, ef_search=NUM_ITEMS, num_queries=1000)
    report = build(tmp_path, wide)
    assert (report["num_queries"], report["recall"]) == (NUM_USERS, 1.0)


def test_the_transform_gives_the_path_of_each_report(
    vectors: dict[str, Path], options: PipelineOptions, tmp_path: Path
) -> None:
    given = (str(vectors["items"]), str(vectors["users"]))
    jobs = [IndexJob(*given, str(tmp_path / name), None, None) for name in ("a", "b")]
    with test_pipeline.TestPipeline(options=options) as pipeline:
        reports = pipeline | beam.Create(jobs) | BuildIndexes(SETTINGS)
        assert_that(reports, equal_to([str(tmp_path / name / "index_report.json") for name in ("a", "b")]))
    assert (tmp_path / "a" / "index.hnsw").read_bytes() == (tmp_path / "b" / "index.hnsw").read_bytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose logarithms spread by .5."""
    path: Path = tmp_path_factory.mktemp("weights") / "weights.npy"
    values = np.exp(np.random.default_rng(8).normal(0, 0.5, NUM_ITEMS))
    np.save(path, item_weights(values, power=1.0))
    return path


def test_weights_put_the_items_in_the_order_of_the_weighted_cosines(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    report = build(tmp_path, replace(SETTINGS, ef_search=NUM_ITEMS, min_recall=0.99), weights)
    kept = np.load(tmp_path / "item_weights.npy")
    np.testing.assert_array_equal(kept, np.load(weights))
    plain = unit(NUM_ITEMS, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "item_vectors.npy"), plain)
    index = AugmentedIndex.load(tmp_path / "index.hnsw", weighted(plain, kept))
    rows, _ = index.search(unit(NUM_USERS, 2), k=10, ef=NUM_ITEMS)
    products = (unit(NUM_USERS, 2) @ plain.T) * kept
    np.testing.assert_array_equal(rows, np.argsort(-products, axis=1, kind="stable")[:, :10])
    assert (report["form"], report["recall"]) == ("augmented", 1.0)
    assert report["weight_spread"] == pytest.approx(np.log(kept).std())


def test_withdrawn_items_keep_their_vectors_but_are_neither_in_the_graph_nor_in_its_recall(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    # Whom the users are nearest to, so that a recall over everything could not be 1.
    plain, asked = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)
    withdrawn = np.unique(np.argmax(asked @ plain.T, axis=1)).astype(np.int32)
    file = tmp_path / "rows.npy"
    np.save(file, withdrawn)
    settings = replace(SETTINGS, m=16, ef_construction=100, ef_search=NUM_ITEMS, min_recall=0.99)
    for name, given in (("plain", None), ("weighted", weights)):
        report = build(tmp_path / name, settings, given, file)
        assert report["recall"] == 1.0
        assert read_shape(tmp_path / name / "index.hnsw")[0] == NUM_ITEMS - len(withdrawn)
        np.testing.assert_array_equal(np.load(tmp_path / name / "item_vectors.npy"), plain)
        np.testing.assert_array_equal(np.load(tmp_path / name / "withdrawn.npy"), withdrawn)
        ranked = plain if given is None else weighted(plain, np.load(given))
        index = INDEXES[report["form"]].load(tmp_path / name / "index.hnsw", ranked, withdrawn)
        rows, _ = index.search(asked, k=NUM_ITEMS, ef=5000)
        assert not np.isin(rows, withdrawn).any()


def test_without_withdrawn_items_there_is_no_file_of_them_and_the_graph_is_complete(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    build(tmp_path)
    assert read_shape(tmp_path / "index.hnsw")[0] == NUM_ITEMS
    assert not (tmp_path / "withdrawn.npy").exists()


def test_an_index_without_any_offered_item_is_refused(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(NUM_ITEMS, dtype=np.int32))
    with pytest.raises(ValueError, match="all 600 items of the catalogue are withdrawn, expected at least one"):
        build(tmp_path / "out", withdrawn=tmp_path / "rows.npy")
    assert not (tmp_path / "out").exists()


def test_the_report_names_missing_weights(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = build(tmp_path, replace(SETTINGS, parts=(6, 10)))
    assert (report["form"], report["weight_spread"], report["parts"]) == ("ip", 0.0, [6, 10])
    assert not (tmp_path / "item_weights.npy").exists()


def test_an_index_that_misses_too_much_is_refused_and_not_written(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    expected = (
        r"600 items with 600 distinct vectors has recall@10 0\.\d+ in the form ip with 3 links at ef 10, 0\.\d+ in the "
        r"form ip with 6 links at ef 10, expected at least 0\.999; \d+ of 25 users get less than half of their exact "
        r"list; .* 0\.00; set index\.ef_search \(10\) to null, which tries beams up to 1600, set index\.form \(ip\) to "
        r"null, which tries others, or to exact, raise index\.ef_construction \(6\) or index\.m \(3\), or lower "
        r"index\.min_recall"
    )
    with pytest.raises(IndexRefusedError, match=expected):
        build(tmp_path / "out", replace(SETTINGS, form="ip", min_recall=0.999))
    assert not (tmp_path / "out").exists()


def test_a_weighted_index_is_tried_in_both_forms_before_anything_else(
    build: Callable[..., dict[str, Any]], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the narrowest beam augmented vectors miss 15 of the 25 first items, vectors as they are 12.
    narrow = replace(SETTINGS, ef_search=1, k=1, min_recall=0.45)
    report = build(tmp_path / "taken", narrow, weights)
    assert (report["form"], report["m"], report["num_below_half"]) == ("ip", 32, 12)
    monkeypatch.setattr(build_index, "EXACT_NUMBERS", NUM_ITEMS * DIMENSION - 1)
    expected = (
        r"0\.400 in the form augmented with 32 .*, 0\.520 in the form ip with 32 .*, 0\.\d+ in the form ip with 64 "
        r"links at ef 1, expected at least 0\.9; .* 0\.50; .* set index\.form to exact, which .*, lower "
        r"index\.weight_power"
    )
    with pytest.raises(IndexRefusedError, match=expected):
        build(tmp_path / "out", replace(narrow, min_recall=0.9), weights)


def write_vectors(folder: Path, vectors: Vectors) -> str:
    folder.mkdir()
    listed = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    table = pa.table([pa.array(np.arange(len(vectors))), listed], schema=vector_schema(vectors.shape[1]))
    pq.write_table(table, folder / "vectors-00000-of-00001.parquet")
    return str(folder)


def built(folder: Path, items: Vectors, users: Vectors, settings: IndexSettings) -> tuple[IndexReport, ItemIndex]:
    """Builds without a pipeline; returns the report, and the index as it is read from its files."""
    folder.mkdir(exist_ok=True)
    job = IndexJob(
        write_vectors(folder / "items", items), write_vectors(folder / "users", users), str(folder / "out"), None, None
    )
    [path] = BuildIndex(settings).process(job)
    report = IndexReport(**json.loads(Path(path).read_text()))
    return report, load_index(report.form, folder / "out" / "index.hnsw", items)


CHOSEN = IndexSettings(
    m=4, ef_construction=20, ef_search=None, k=10, num_queries=40, seed=4, min_recall=0.5, parts=(DIMENSION,)
)


@pytest.mark.parametrize(("target", "ef"), [(0.9, 32), (0.93, 64), (0.99, 100)])
def test_the_narrowest_beam_that_reaches_the_target_is_taken(target: float, ef: int, tmp_path: Path) -> None:
    items, users = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)
    report, index = built(tmp_path, items, users, replace(CHOSEN, target_recall=target))
    recalls = {beam: measure_recall(index, items, query_embeddings=users, k=10, ef=beam) for beam in (16, 32, 64, 100)}
    assert min(beam for beam, recall in recalls.items() if recall >= target) == ef
    assert (report.ef, report.m, report.form) == (ef, 4, "ip")
    assert report.recall == pytest.approx(recalls[ef])
    # A limit above the target counts as the target.
    limited = replace(CHOSEN, target_recall=0.1, min_recall=target)
    assert built(tmp_path / "limited", items, users, limited)[0] == replace(report, build_seconds=ANY)


def test_a_beam_with_which_some_users_get_next_to_nothing_is_not_taken(tmp_path: Path) -> None:
    items, users = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)
    report, index = built(tmp_path, items, users, replace(CHOSEN, target_recall=0.7))
    narrower = ExactLists.of(items, query_embeddings=users, k=10).shares(index, ef=16)
    assert (report.ef, report.num_below_half) == (32, 0)
    assert narrower.mean() >= 0.7
    assert (narrower < 0.5).any()


def test_more_links_and_then_exact_search_are_tried_where_no_beam_finds_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 4 links the one beam finds .675, with 8 links .845.
    monkeypatch.setattr(build_index, "BEAMS", (10,))
    monkeypatch.setattr(build_index, "EXACT_NUMBERS", NUM_ITEMS * DIMENSION)
    items, users = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)

    def chosen(name: str, **changes: Any) -> tuple[str, int | None, float]:
        report, index = built(tmp_path / name, items, users, replace(CHOSEN, **changes))
        assert report.recall == pytest.approx(measure_recall(index, items, query_embeddings=users, k=10, ef=report.ef))
        return report.form, report.m, round(report.recall, 3)

    assert chosen("enough", target_recall=0.3, m=8) == ("ip", 8, 0.845)
    assert chosen("links", target_recall=0.8) == ("ip", 8, 0.845)
    assert chosen("links by a given beam", ef_search=10, min_recall=0.8) == ("ip", 8, 0.845)
    assert chosen("exact", target_recall=0.9) == ("exact", 4, 1.0)
    assert chosen("named", form="exact") == ("exact", 4, 1.0)
    # Without exact search the best one is taken if it may be, though it misses the target.
    assert chosen("no other form", form="ip", target_recall=0.9) == ("ip", 8, 0.845)
    monkeypatch.setattr(build_index, "EXACT_NUMBERS", NUM_ITEMS * DIMENSION - 1)
    assert chosen("too large", target_recall=0.9) == ("ip", 8, 0.845)


def test_thousands_of_equal_and_of_nearly_equal_vectors_pass_with_any_seed(tmp_path: Path) -> None:
    different, users = unit(NUM_ITEMS, 1), unit(NUM_USERS, 2)
    rng = np.random.default_rng(3)
    for noise in (0, 1e-7, 1e-6, 1e-4):
        same = (different[:1] + noise * rng.normal(size=(1500, DIMENSION))).astype(np.float32)
        for place, items in (("first", [same, different]), ("last", [different, same])):
            for seed in range(2):
                settings = replace(CHOSEN, m=16, ef_construction=100, k=50, seed=seed, min_recall=0.95)
                folder = tmp_path / f"{noise}-{place}-{seed}"
                report, _ = built(folder, np.concatenate(items), users, settings)
                assert report.recall >= 0.98
                assert report.num_below_half == 0
                if not noise:
                    assert (report.num_vectors, report.form, report.m) == (NUM_ITEMS, "ip", 16)
                    assert read_shape(folder / "out" / "index.hnsw")[0] == NUM_ITEMS


def test_parts_that_are_not_of_these_vectors_are_refused(build: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"have width 16, expected the sum of the parts \(6, 9\)"):
        build(tmp_path, replace(SETTINGS, parts=(6, 9)))
