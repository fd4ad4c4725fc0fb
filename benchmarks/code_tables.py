"""CPU time per pair of code and item in the Beam job that builds tables, compared with plain NumPy."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import score_codes
from beam_jobs.score_codes import ScoreCodes, ScoringFiles, ScoringSettings
from serving.sparcode.codebook import Codebook
from serving.sparcode.interactions import save_interaction

WIDTH, NUM_ITEM_TOKENS, HIDDEN, NUM_PARTS, NUM_ROWS = 32, 2, 16, 2, 64
# The fastest of a dozen for these sizes.
YARDSTICK_TOKENS, YARDSTICK_ITEMS, YARDSTICK_BLOCK = 256, 32, 1024
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
Floats = npt.NDArray[np.float32]
Arrays = dict[str, Floats]


def main() -> None:
    """Runs both in turn and prints CPU time a pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--items", type=int, default=90_000)
    parser.add_argument("--block-size", type=int, default=512, help="codes of an element of the job")
    parser.add_argument("--cap", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.02, help="pairs whose score is above zero")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # Read once, when NumPy is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        files, arrays = write_model(Path(name), rng, num_items=arguments.items)
        codebook, items = Codebook.load(files.codebook), np.load(files.items)
        keys = np.sort(rng.choice(NUM_ROWS**NUM_PARTS, arguments.codes, replace=False)).astype(np.int64)
        tokens = codebook.decode(keys)
        sample = plain_numpy(tokens[:64], items[:4096], arrays)
        settings = ScoringSettings(bias=-float(np.quantile(sample, 1 - arguments.share)), cap=arguments.cap)
        pairs = arguments.codes * arguments.items
        print(
            f"{arguments.codes} codes x {arguments.items} items, cap {arguments.cap}, {arguments.share:.1%} above zero"
        )
        print("round  plain NumPy  DoFn.process  whole job  (CPU ns a pair, one thread)  process/NumPy  job/NumPy")
        ratios = []
        for number in range(arguments.rounds):
            plain = cpu_seconds(lambda: plain_numpy(tokens, items, arrays))
            out = Path(name) / f"round{number}"
            process, job = job_seconds(ScoreCodes(files, settings), keys, block_size=arguments.block_size, out=out)
            ratios.append(process / plain)
            figures = [1e9 * seconds / pairs for seconds in (plain, process, job)]
            print("{:5d}  {:11.1f}  {:12.1f}  {:9.1f}".format(number, *figures), end="")
            print(f"{ratios[-1]:46.2f}  {job / plain:9.2f}", flush=True)
    print(f"process/NumPy: median {statistics.median(ratios):.2f}, goal at most 1.30")


def write_model(folder: Path, rng: np.random.Generator, *, num_items: int) -> tuple[ScoringFiles, Arrays]:
    """A model of random numbers."""

    def normal(*shape: int) -> Floats:
        return rng.normal(size=shape).astype(np.float32)

    files = ScoringFiles(folder / "codebook.npy", folder / "interaction.npz", folder / "items.npy")
    Codebook(normal(NUM_PARTS, NUM_ROWS, WIDTH // NUM_PARTS)).save(files.codebook)
    arrays = {
        "products": normal(NUM_ITEM_TOKENS, WIDTH),
        "hidden": normal(NUM_ITEM_TOKENS, HIDDEN, WIDTH),
        "hidden_bias": normal(HIDDEN),
        "output": normal(HIDDEN),
    }
    save_interaction(files.interaction, "mlp", arrays)
    np.save(files.items, normal(num_items, NUM_ITEM_TOKENS * WIDTH))
    return files, arrays


def plain_numpy(tokens: Floats, items: Floats, arrays: Arrays) -> Floats:
    """The products of all pairs and nothing else: no threshold, no list. Returns the last block's scores."""
    longer = np.hstack([tokens, np.ones((len(tokens), 1), np.float32)])
    scratch = np.empty(YARDSTICK_TOKENS * YARDSTICK_ITEMS * HIDDEN, np.float32)
    scores = np.zeros((0, 0), np.float32)
    for first in range(0, len(items), YARDSTICK_BLOCK):
        block = items[first : first + YARDSTICK_BLOCK].reshape(-1, NUM_ITEM_TOKENS, WIDTH)
        of_items = np.empty((len(block), HIDDEN, WIDTH + 1), np.float32)
        np.einsum("nkd,khd->nhd", block, arrays["hidden"], out=of_items[..., :-1])
        of_items[..., -1] = arrays["hidden_bias"]
        scores = tokens @ np.einsum("nkd,kd->nd", block, arrays["products"]).T
        for item in range(0, len(block), YARDSTICK_ITEMS):
            factors = of_items[item : item + YARDSTICK_ITEMS].reshape(-1, WIDTH + 1).T
            for token in range(0, len(tokens), YARDSTICK_TOKENS):
                rows = longer[token : token + YARDSTICK_TOKENS]
                hidden = scratch[: len(rows) * factors.shape[1]].reshape(len(rows), -1)
                np.matmul(rows, factors, out=hidden)
                np.maximum(hidden, 0, out=hidden)
                part = scores[token : token + YARDSTICK_TOKENS, item : item + YARDSTICK_ITEMS]
                part += (hidden.reshape(-1, HIDDEN) @ arrays["output"]).reshape(part.shape)
    return scores


def cpu_seconds(work: Any) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def job_seconds(
    transform: ScoreCodes, keys: npt.NDArray[np.int64], *, block_size: int, out: Path
) -> tuple[float, float]:
    """CPU seconds of the process method, and of the whole job: graph, start of the worker and files as well."""
    options = PipelineOptions(["--runner=FnApiRunner"])
    with timed_process() as times:
        whole = cpu_seconds(lambda: score_codes.run(transform, keys, block_size=block_size, out=out, options=options))
    return sum(times), whole


@contextmanager
def timed_process() -> Iterator[list[float]]:
    """Collects the CPU seconds of each call; the runner's worker is a thread of this process."""
    times: list[float] = []
    original = score_codes.ScoreBlock.process

    def process(self: score_codes.ScoreBlock, element: Any) -> Iterator[Any]:
        started = time.process_time()
        found = list(original(self, element))
        times.append(time.process_time() - started)
        yield from found

    score_codes.ScoreBlock.process = process
    try:
        yield times
    finally:
        score_codes.ScoreBlock.process = original


if __name__ == "__main__":
    main()
