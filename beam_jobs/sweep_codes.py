"""Counts the user tokens that fall on each SparCode code, as a Beam job over blocks of vectors.

An element is one row group of what the embedding job wrote. A block leaves as a few arrays of codes and counts, one for
each share of the codes, never as one pair a code: sums of arrays cost a sort, sums of pairs a call each.

Shape letters: B users of a block, K tokens of a user, D width of a token, n codes.

Source: Su et al. (SparCode), SIGIR 2023, section 3.5 (an index over codes). Departs from it: only codes that occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from artefacts.files import all_files
from beam_jobs.embed import WriteNumbered
from serving.retrieval.vectors import VECTOR

if TYPE_CHECKING:
    from serving.sparcode.codebook import Codebook

Ints = npt.NDArray[np.int64]
# Codes, ascending and each once, and how many tokens fall on each.
Counts = tuple[Ints, Ints]
KEY, NUM_TOKENS = "key", "num_tokens"
CODES_SCHEMA = pa.schema([(KEY, pa.int64()), (NUM_TOKENS, pa.int64())])
NUM_SHARES = 16
"""Parts into which the codes are divided, by their remainder: what of the counting can run side by side."""


def add_up(counts: Iterable[Counts]) -> Counts:
    """Sums counts by code.

    Args:
        counts: Pairs of codes [n] int64 and counts [n] int64.

    Returns:
        Codes [n] int64, ascending and each once, and their counts [n] int64.
    """
    found = list(counts)
    keys, owner = np.unique(np.concatenate([np.zeros(0, np.int64), *(pair[0] for pair in found)]), return_inverse=True)
    totals = np.zeros(len(keys), np.int64)
    np.add.at(totals, owner, np.concatenate([np.zeros(0, np.int64), *(pair[1] for pair in found)]))
    return keys, totals


class SweepBlock(beam.DoFn):  # type: ignore[misc]
    """(file, number of a row group) -> (share of the codes, its codes and counts in the block)."""

    def __init__(self, codebook: Path) -> None:
        """Takes a path; the codebook is loaded by the worker."""
        self._codebook_path = str(codebook)

    def setup(self) -> None:
        """Loads the codebook, once a worker."""
        from serving.sparcode.codebook import Codebook

        self._codebook: Codebook = Codebook.load(Path(self._codebook_path))

    def process(self, element: tuple[str, int]) -> Iterator[tuple[int, Counts]]:
        """Quantises one block.

        Raises:
            ValueError: A user's vector is not a whole number of tokens.
        """
        path, group = element
        column = pq.ParquetFile(path).read_row_group(group, columns=[VECTOR]).column(VECTOR).combine_chunks()
        width = column.type.list_size
        if width % self._codebook.width:
            raise ValueError(
                f"{path}: vectors have width {width}, expected a multiple of the codebook's {self._codebook.width}, "
                "as many tokens as a user has; embed the users with the tower that the codebook is of"
            )
        tokens = column.flatten().to_numpy().reshape(-1, self._codebook.width)
        keys, counts = np.unique(self._codebook.keys(tokens), return_counts=True)
        shares = keys % NUM_SHARES
        # Those without a code too: every share has a file.
        for share in range(NUM_SHARES):
            yield share, (keys[shares == share], counts[shares == share].astype(np.int64))


class AddUp(beam.CombineFn):  # type: ignore[misc]
    """Codes and counts of blocks -> codes and counts of all of them."""

    def create_accumulator(self) -> Counts:
        """Nothing met yet."""
        return add_up([])

    def add_input(self, accumulator: Counts, element: Counts) -> Counts:
        """Adds a block."""
        return add_up([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[Counts]) -> Counts:
        """Adds what workers have met."""
        return add_up(accumulators)

    def extract_output(self, accumulator: Counts) -> Counts:
        """Codes and counts as they are."""
        return accumulator


class SweepCodes(beam.PTransform):  # type: ignore[misc]
    """(file, number of a row group) -> (number of a share, Arrow table of its codes and counts), each code once."""

    def __init__(self, codebook: Path) -> None:
        """Takes what `SweepBlock` takes."""
        super().__init__()
        self._block = SweepBlock(codebook)

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return (
            blocks
            | "spread" >> beam.Reshuffle()
            | "quantise" >> beam.ParDo(self._block)
            | "add up" >> beam.CombinePerKey(AddUp())
            | "tables" >> beam.Map(_table)
        )


def run(transform: SweepCodes, vectors: Path, *, out: Path, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/codes-*.parquet` with key and num_tokens.

    Args:
        transform: The job.
        vectors: Folder of vectors that the embedding job wrote; one is a user's K tokens, one after another.
        out: Folder to write, made where it is missing.
        options: Of the pipeline.

    Raises:
        ValueError: A file of vectors is missing.
    """
    files = all_files(vectors, advice="run the embedding job again")
    blocks = [(str(file), group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    out.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "row groups" >> beam.Create(blocks) | transform
        _ = tables | "write" >> beam.ParDo(WriteNumbered(out / "codes", total=NUM_SHARES))


def read_codes(folder: Path) -> Counts:
    """Codes that users have, ascending, and how many of their tokens each has.

    Returns:
        keys [n] int64 and counts [n] int64.

    Raises:
        ValueError: A file is missing, or a code occurs twice.
    """
    table = pq.read_table(all_files(folder, advice="sweep the codes again"))
    keys = table.column(KEY).to_numpy()
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], table.column(NUM_TOKENS).to_numpy()[order]
    again = np.flatnonzero(keys[1:] == keys[:-1])
    if len(again):
        raise ValueError(
            f"{folder}: {len(again)} codes occur twice, the first is {keys[again[0]]}, expected each once; "
            "sweep the codes again into an empty folder"
        )
    return keys, counts


def _table(share: tuple[int, Counts]) -> tuple[int, pa.Table]:
    number, (keys, counts) = share
    return number, pa.table([pa.array(keys), pa.array(counts)], schema=CODES_SCHEMA)
