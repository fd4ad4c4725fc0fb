"""The codes of all users' tokens are counted once each, for any block and file boundaries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import BeamAssertException, assert_that
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.sweep_codes import CODES_SCHEMA, NUM_SHARES, AddUp, SweepBlock, SweepCodes, add_up, read_codes, run
from serving.retrieval.vectors import vector_schema
from serving.sparcode.codebook import Codebook

NUM_USERS, NUM_TOKENS, WIDTH = 90, 3, 6
Floats = npt.NDArray[np.float32]
USERS: Floats = np.random.default_rng(1).normal(size=(NUM_USERS, NUM_TOKENS * WIDTH)).astype(np.float32)
CODEBOOK = Codebook(np.random.default_rng(2).normal(size=(2, 9, WIDTH // 2)).astype(np.float32))


@pytest.fixture(scope="module")
def codebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "codebook.npy"
    CODEBOOK.save(path)
    return path


def write_users(folder: Path, users: Floats, *, num_files: int, block_rows: int) -> Path:
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(users)), num_files)):
        vectors = pa.FixedSizeListArray.from_arrays(users[rows].ravel(), users.shape[1])
        table = pa.table([pa.array(rows), vectors], schema=vector_schema(users.shape[1]))
        path = folder / f"vectors-{number:05d}-of-{num_files:05d}.parquet"
        pq.write_table(table, path, row_group_size=block_rows)
    return folder


@pytest.fixture
def sweep(codebook: Path, options: PipelineOptions, tmp_path: Path) -> Callable[..., tuple]:
    def sweep(users: Floats = USERS, *, num_files: int, block_rows: int) -> tuple:
        vectors = write_users(tmp_path / "users", users, num_files=num_files, block_rows=block_rows)
        run(SweepCodes(codebook), vectors, out=tmp_path / "codes", options=options)
        return read_codes(tmp_path / "codes")

    return sweep


@pytest.mark.parametrize(("num_files", "block_rows"), [(1, 1000), (1, 7), (4, 10), (3, 1)])
def test_every_code_is_counted_once_for_any_block_boundaries(sweep: Callable, num_files: int, block_rows: int) -> None:
    keys, counts = sweep(num_files=num_files, block_rows=block_rows)
    expected = np.unique(CODEBOOK.keys(USERS.reshape(-1, WIDTH)), return_counts=True)
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    assert (keys.dtype, counts.dtype) == (np.int64, np.int64)
    assert counts.sum() == NUM_USERS * NUM_TOKENS
    assert 30 < len(keys) < 81


def test_few_codes_leave_shares_empty_and_all_files_there(sweep: Callable, tmp_path: Path) -> None:
    token = CODEBOOK.decode(np.array([40]))
    keys, counts = sweep(np.tile(token, (NUM_USERS, 2)), num_files=1, block_rows=50)
    assert (keys.tolist(), counts.tolist()) == ([40], [2 * NUM_USERS])
    assert len(list((tmp_path / "codes").iterdir())) == NUM_SHARES


@given(st.lists(st.lists(st.integers(0, 12), max_size=20), max_size=5))
def test_sums_of_parts_are_the_count_of_the_whole(parts: list[list[int]]) -> None:
    blocks = [np.unique(np.array(part, np.int64), return_counts=True) for part in parts]
    expected = np.unique(np.array([key for part in parts for key in part], np.int64), return_counts=True)
    combine = AddUp()
    one_by_one = combine.create_accumulator()
    for block in blocks:
        one_by_one = combine.add_input(one_by_one, block)
    for found in (add_up(blocks), one_by_one, combine.merge_accumulators([one_by_one, combine.create_accumulator()])):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_the_transform_gives_a_table_a_share(codebook: Path, options: PipelineOptions, tmp_path: Path) -> None:
    vectors = write_users(tmp_path / "users", USERS, num_files=1, block_rows=45)
    path = str(next(vectors.iterdir()))

    def check(tables: list[tuple[int, pa.Table]]) -> None:
        if sorted(number for number, _ in tables) != list(range(NUM_SHARES)):
            raise BeamAssertException(f"tables of {[number for number, _ in tables]}")
        for number, table in tables:
            if table.schema != CODES_SCHEMA or any(key % NUM_SHARES != number for key in table["key"].to_pylist()):
                raise BeamAssertException(f"share {number} has {table}")

    with test_pipeline.TestPipeline(options=options) as pipeline:
        assert_that(pipeline | beam.Create([(path, 0), (path, 1)]) | SweepCodes(codebook), check)


def test_vectors_of_another_width_are_refused(codebook: Path, tmp_path: Path) -> None:
    vectors = write_users(tmp_path / "users", np.ones((4, 8), np.float32), num_files=1, block_rows=4)
    block = SweepBlock(codebook)
    block.setup()
    with pytest.raises(ValueError, match="vectors have width 8, expected a multiple of the codebook's 6"):
        next(block.process((str(next(vectors.iterdir())), 0)))


def write_codes(path: Path, keys: list[int]) -> None:
    pq.write_table(pa.table({"key": keys, "num_tokens": keys}, schema=CODES_SCHEMA), path)


def test_half_a_job_is_refused(codebook: Path, options: PipelineOptions, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes-00000-of-00002.parquet", [3, 1])
    with pytest.raises(ValueError, match="has 1 of 2 files; sweep the codes again"):
        read_codes(tmp_path)
    with pytest.raises(ValueError, match="has 0 of 1 files; run the embedding job again"):
        run(SweepCodes(codebook), tmp_path / "nothing", out=tmp_path, options=options)


def test_a_code_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_codes(tmp_path / "codes-00000-of-00002.parquet", [3, 1])
    write_codes(tmp_path / "codes-00001-of-00002.parquet", [4, 3])
    with pytest.raises(ValueError, match="1 codes occur twice, the first is 3"):
        read_codes(tmp_path)
