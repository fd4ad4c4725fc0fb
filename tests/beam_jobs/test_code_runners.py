"""Every Beam runner makes a table of the same bytes. Run as a program, makes one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import score_codes, sweep_codes
from beam_jobs.score_codes import ScoreCodes, ScoringFiles, ScoringSettings
from beam_jobs.sweep_codes import SweepCodes, read_codes
from serving.retrieval.vectors import vector_schema
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import load_interaction, save_interaction
from serving.sparcode.postings import PostingsWriter

NUM_USERS, NUM_ITEMS, NUM_TOKENS, NUM_ITEM_TOKENS, WIDTH, HIDDEN = 300, 1500, 2, 2, 8, 4
RUNNERS = {
    "PortableRunner": ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
    "DaskRunner": ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner", "--dask_npartitions=3"],
}
TABLE_FILES = ("keys.npy", "starts.npy", "items.npy", "scores.npy", "postings.json")


def write_model(folder: Path) -> None:
    """Codebook, net, tokens of items, and of users as the embedding job writes them, in two files."""
    rng = np.random.default_rng(4)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    Codebook(normal(2, 6, WIDTH // 2)).save(folder / "codebook.npy")
    arrays = {
        "products": normal(NUM_ITEM_TOKENS, WIDTH),
        "hidden": normal(NUM_ITEM_TOKENS, HIDDEN, WIDTH),
        "hidden_bias": normal(HIDDEN),
        "output": normal(HIDDEN),
    }
    save_interaction(folder / "interaction.npz", "mlp", arrays)
    np.save(folder / "items.npy", normal(NUM_ITEMS, NUM_ITEM_TOKENS * WIDTH))
    (folder / "users").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(NUM_USERS), 2)):
        vectors = pa.FixedSizeListArray.from_arrays(normal(len(rows) * NUM_TOKENS * WIDTH), NUM_TOKENS * WIDTH)
        table = pa.table([pa.array(rows), vectors], schema=vector_schema(NUM_TOKENS * WIDTH))
        pq.write_table(table, folder / "users" / f"vectors-0000{number}-of-00002.parquet", row_group_size=40)


def make_table(model: Path, out: Path, arguments: list[str]) -> None:
    """Sweeps, scores and collects."""
    options = PipelineOptions(arguments)
    sweep_codes.run(SweepCodes(model / "codebook.npy"), model / "users", out=out / "codes", options=options)
    keys, _ = read_codes(out / "codes")
    settings = ScoringSettings(bias=-1.0, cap=200)
    files = ScoringFiles(model / "codebook.npy", model / "interaction.npz", model / "items.npy")
    score_codes.run(ScoreCodes(files, settings), keys, block_size=5, out=out / "scored", options=options)
    writer = PostingsWriter(
        out / "table",
        num_items=NUM_ITEMS,
        bias=settings.bias,
        cap=settings.cap,
        codebook=Codebook.load(files.codebook).digest,
        catalogue="0" * 64,
        interaction=load_interaction(files.interaction).digest,
    )
    score_codes.collect(out / "scored", keys, writer)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("in_process")
    make_table(model, out, ["--runner=FnApiRunner"])
    return out


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_table_has_the_same_bytes_from_every_runner(runner: str, model: Path, expected: Path, tmp_path: Path) -> None:
    # Dask's workers are processes that import the program again, which needs a guard in it.
    command = [sys.executable, __file__, str(model), str(tmp_path), *RUNNERS[runner]]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_array_equal(read_codes(tmp_path / "codes"), read_codes(expected / "codes"))
    for name in TABLE_FILES:
        assert (tmp_path / "table" / name).read_bytes() == (expected / "table" / name).read_bytes(), name


def main(model: Path, out: Path, arguments: list[str]) -> None:
    """Makes a table; on Dask with one cluster for both jobs, of one process, as each takes seconds to import Beam."""
    if "Dask" not in arguments[0]:
        return make_table(model, out, arguments)
    from distributed import LocalCluster, default_client

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        make_table(model, out, [*arguments, f"--dask_client_address={cluster.scheduler_address}"])
        # The runner leaves a client open after each job; they would wait for the cluster to come back.
        for _ in ("sweep", "score"):
            default_client().close()
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
