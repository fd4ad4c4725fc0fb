"""Has every user the list that exact search gives, wherever the job's blocks begin and whichever runner runs it?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import BeamAssertException, assert_that

from beam_jobs.exact_search import ExactSearch, SearchFiles, list_schema, read_lists, run
from serving.retrieval import exact
from serving.retrieval.purchases import Purchases
from serving.retrieval.vectors import vector_schema

NUM_USERS, NUM_ITEMS, WIDTH, K = 23, 60, 4, 7
# Small integers: products are exact in float32, so that ties are ties whatever else is in the block.
VECTORS = np.random.default_rng(1).integers(-2, 3, (NUM_USERS + NUM_ITEMS, WIDTH)).astype(np.float32)
USERS, ITEMS = VECTORS[:NUM_USERS], VECTORS[NUM_USERS:]
RUNNERS = {
    "PortableRunner": ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
    "DaskRunner": ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner", "--dask_npartitions=3"],
}


def known_items() -> Purchases:
    """User 0 has met nothing, user 1 all but three items, the others some."""
    rng = np.random.default_rng(2)
    counts = [0, NUM_ITEMS - 3, *[5, 11] * NUM_USERS][:NUM_USERS]
    items = np.concatenate([rng.permutation(NUM_ITEMS)[:count] for count in counts])
    # Row 0 is the unknown user's.
    users = np.repeat(np.arange(1, NUM_USERS + 1), counts)
    seconds = np.zeros(len(users), np.int64)
    return Purchases.from_events(users, items, seconds=seconds, num_users=NUM_USERS + 1, num_items=NUM_ITEMS)


def write_inputs(folder: Path) -> None:
    """Vectors as the embedding job writes them, in two files with more row groups, and what is known."""
    (folder / "users").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(NUM_USERS), 2)):
        listed = pa.FixedSizeListArray.from_arrays(USERS[rows].ravel(), WIDTH)
        table = pa.table([pa.array(rows), listed], schema=vector_schema(WIDTH))
        pq.write_table(table, folder / "users" / f"vectors-0000{number}-of-00002.parquet", row_group_size=5)
    np.save(folder / "items.npy", ITEMS)
    known_items().save(folder / "known")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_inputs(folder)
    return folder


def search(inputs: Path, out: Path, options: PipelineOptions, *, known: bool) -> None:
    files = SearchFiles(inputs / "items.npy", inputs / "known" if known else None)
    run(ExactSearch(files, k=K), inputs / "users", out=out, options=options)


def assert_exact(out: Path, *, known: bool) -> None:
    rows, scores = read_lists(out)
    expected = exact.search(USERS, ITEMS, k=K, exclude=known_items().csr()[1:] if known else None)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("known", [False, True])
def test_lists_are_those_of_exact_search(known: bool, inputs: Path, options: PipelineOptions, tmp_path: Path) -> None:
    search(inputs, tmp_path / "lists", options, known=known)
    assert_exact(tmp_path / "lists", known=known)
    # 12 users in groups of 5, 5 and 2, 11 in groups of 5, 5 and 1.
    names = [f"lists-0000{number}-of-00006.parquet" for number in range(6)]
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == names


def test_a_user_with_three_items_left_has_a_list_of_three(
    inputs: Path, options: PipelineOptions, tmp_path: Path
) -> None:
    search(inputs, tmp_path, options, known=True)
    rows, scores = read_lists(tmp_path)
    assert (rows[1] >= 0).tolist() == [True] * 3 + [False] * 4
    assert np.isneginf(scores[1]).tolist() == [False] * 3 + [True] * 4


def test_the_transform_gives_a_numbered_table_a_block(inputs: Path, options: PipelineOptions) -> None:
    def check(numbered: list[tuple[int, pa.Table]]) -> None:
        found = {number: table.column("row").to_pylist() for number, table in numbered}
        if found != {4: [0, 1, 2, 3, 4], 2: [17, 18, 19, 20, 21]}:
            raise BeamAssertException(f"blocks are {found}")
        if not all(table.schema.equals(list_schema(K)) for _, table in numbered):
            raise BeamAssertException(f"blocks have the schemas {[table.schema for _, table in numbered]}")

    files = [str(inputs / "users" / f"vectors-0000{number}-of-00002.parquet") for number in range(2)]
    with test_pipeline.TestPipeline(options=options) as pipeline:
        blocks = pipeline | beam.Create([(4, files[0], 0), (2, files[1], 1)])
        assert_that(blocks | ExactSearch(SearchFiles(inputs / "items.npy"), k=K), check)


def test_vectors_of_another_model_are_refused(inputs: Path, options: PipelineOptions, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, WIDTH + 1), np.float32))
    transform = ExactSearch(SearchFiles(tmp_path / "wide.npy"), k=K)
    with pytest.raises(ValueError, match=r"cannot be searched in .*wide\.npy: query_embeddings are \(\d, 4\)"):
        run(transform, inputs / "users", out=tmp_path, options=options)


def test_known_items_of_fewer_users_are_refused(inputs: Path, options: PipelineOptions, tmp_path: Path) -> None:
    known_items().of(np.arange(9)).save(tmp_path / "known")
    transform = ExactSearch(SearchFiles(inputs / "items.npy", tmp_path / "known"), k=K)
    with pytest.raises(ValueError, match=r"has 8 users beside the unknown one, .* a vector of row \d+; take both"):
        run(transform, inputs / "users", out=tmp_path / "lists", options=options)


def write_lists(path: Path, users: list[int]) -> None:
    columns = {"row": users, "items": [[1]] * len(users), "scores": [[0.5]] * len(users)}
    pq.write_table(pa.table(columns, schema=list_schema(1)), path)


@pytest.mark.parametrize("users", [[0, 2], [0, 1, 1]])
def test_a_missing_or_doubled_user_is_refused(users: list[int], tmp_path: Path) -> None:
    write_lists(tmp_path / "lists-00000-of-00001.parquet", users)
    with pytest.raises(ValueError, match=rf"users are not 0 to {len(users) - 1}, each once; search again"):
        read_lists(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists-00000-of-00002.parquet", [0, 1])
    with pytest.raises(ValueError, match="has 1 of 2 files; search again"):
        read_lists(tmp_path)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_lists_are_the_same_from_every_runner(runner: str, inputs: Path, tmp_path: Path) -> None:
    # Workers of Dask are processes that import the program anew, which only a program with a guard bears.
    command = [sys.executable, __file__, str(inputs), str(tmp_path / "lists"), *RUNNERS[runner]]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert_exact(tmp_path / "lists", known=True)


def main(inputs: Path, out: Path, arguments: list[str]) -> None:
    """Searches; on Dask with one worker of two threads, as each takes seconds to import Beam."""
    if "Dask" not in arguments[0]:
        return search(inputs, out, PipelineOptions(arguments), known=True)
    from distributed import LocalCluster, default_client

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        arguments = [*arguments, f"--dask_client_address={cluster.scheduler_address}"]
        search(inputs, out, PipelineOptions(arguments), known=True)
        # The runner leaves a client open; it would wait for the cluster to come back.
        default_client().close()
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
