"""Scores all items for each SparCode code in use, as a Beam job over blocks of codes.

    S(code, item) = interaction(decode(code), item tokens),   kept: S + bias > 0, the best `cap` of them

An element is about a thousand codes, never one and never a pair: a pair costs then what its matrix products cost. What
depends on an item alone is computed again for every element. That is the work of some forty pairs; kept for a
whole catalogue it would take H / K_c times the memory of the items' tokens.

Shape letters: Q codes of a block, N items, D width of a token, K_c tokens of an item, H hidden units, P postings.

Source: Su et al. (SparCode), SIGIR 2023, section 3.5 (the inverted index). Departs from it: at most `cap` items a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from artefacts.files import all_files
from beam_jobs.embed import WriteNumbered

if TYPE_CHECKING:
    from serving.sparcode.postings import PostingsWriter

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_Keys = npt.NDArray[np.uint64]

# What is above zero stays above zero.
_SMALLEST = np.float32(np.finfo(np.float16).smallest_subnormal)
# What rounds to infinity.
_OVERFLOW = np.float32(65_520)
_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(0xFFFF)
_NOTHING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Lists(NamedTuple):
    """Postings of Q codes, one code after another."""

    starts: Ints
    """[Q + 1]: where a code's postings begin."""
    items: npt.NDArray[np.int32]
    """[P], ascending within a code."""
    scores: Floats
    """[P], above zero, each a half precision number."""


class RunningLists:
    """The `cap` best items of each code.

    A posting is one integer: the bits of its score above, which order as positive halves do, and its item, inverted,
    below. So the larger integer is the better posting, ties included.

    Args:
        num_codes: Q.
        cap: Items kept for a code.
        block: Items added at a time, at most.
    """

    def __init__(self, num_codes: int, *, cap: int, block: int) -> None:
        """Starts with no item; takes 8 Q (cap + max(cap, block)) bytes."""
        self._cap = cap
        # Twice the cap, so that lists are cut when they have grown by as much and not at every block.
        self._held: _Keys = np.empty((num_codes, cap + max(cap, block)), np.uint64)
        self._filled = np.zeros(num_codes, np.int64)
        self._threshold = np.zeros(num_codes, np.float32)

    def add(self, scores: Floats, items: npt.NDArray[np.int32]) -> None:
        """Adds a block; items ascend within it and from block to block.

        Args:
            scores: [Q, C] float32; zero and below is never kept.
            items: [C] int32.

        Raises:
            ValueError: A score is not a number that half precision can hold.
        """
        # Strictly above: an equal score has a higher item and loses.
        is_better = scores > self._threshold[:, None]
        # Flat: NumPy walks a sparse one-dimensional mask many times faster than a two-dimensional one.
        place = np.flatnonzero(is_better)
        begins = np.arange(len(scores)) * len(items)
        starts = np.searchsorted(place, begins)
        counts = np.diff(starts, append=len(place))
        width = self._held.shape[1]
        self._cut(np.flatnonzero(self._filled + counts > width))
        slots = np.arange(len(scores)) * width + self._filled - starts
        held = self._held.reshape(-1)
        found = _encode(scores.reshape(-1)[place], items[place - np.repeat(begins, counts)])
        held[np.arange(len(place)) + np.repeat(slots, counts)] = found
        self._filled += counts

    def _cut(self, rows: Ints) -> None:
        """Leaves the best `cap` of some lists, all of them longer, in any order."""
        if not len(rows):
            return
        width = self._held.shape[1]
        held = np.where(np.arange(width) < self._filled[rows, None], self._held[rows], np.uint64(0))
        held.partition(width - self._cap, axis=1)
        self._held[rows, : self._cap] = held[:, width - self._cap :]
        self._filled[rows] = self._cap
        self._threshold[rows] = _scores(held[:, width - self._cap])

    def result(self) -> Lists:
        """The lists so far."""
        self._cut(np.flatnonzero(self._filled > self._cap))
        held = self._held[:, : int(self._filled.max(initial=0))]
        here = np.arange(held.shape[1]) < self._filled[:, None]
        # By item now, with what is empty behind everything.
        by_item = np.where(here, ((_LOW - (held & _LOW)) << np.uint64(16)) | (held >> np.uint64(32)), _NOTHING)
        by_item.sort(axis=1)
        found = by_item[here]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._filled)])
        scores = (found & _HALF).astype(np.uint16).view(np.float16).astype(np.float32)
        return Lists(starts, (found >> np.uint64(16)).astype(np.int32), scores)


def _encode(scores: Floats, items: npt.NDArray[np.int32]) -> _Keys:
    if len(scores) and scores.max() >= _OVERFLOW:
        worst = int(np.argmax(scores))
        raise ValueError(
            f"item {items[worst]} has the score {scores[worst]}, expected below {_OVERFLOW}, which half precision can "
            "hold; look at the training of the scorer"
        )
    halves = np.maximum(scores, _SMALLEST).astype(np.float16)
    return (halves.view(np.uint16).astype(np.uint64) << np.uint64(32)) | (_LOW - items.astype(np.uint64))


def _scores(keys: _Keys) -> Floats:
    return (keys >> np.uint64(32)).astype(np.uint16).view(np.float16).astype(np.float32)


KEY, ITEMS, SCORES = "key", "items", "scores"
POSTINGS_SCHEMA = pa.schema([(KEY, pa.int64()), (ITEMS, pa.list_(pa.int32())), (SCORES, pa.list_(pa.float32()))])
ITEM_BLOCK = 1024
"""Items scored at a time; with 1,024 codes, 4 MiB of scores."""


@dataclass(frozen=True)
class ScoringFiles:
    """What a model left behind.

    Attributes:
        codebook: Of `Codebook.save`.
        interaction: Of `save_interaction`.
        items: `.npy` file of the [N, K_c D] tokens of items.
        rows: `.npy` file of the rows of items to score, int64, ascending, at least one; None scores all. A table has no
            posting of the others, and they take no place under a cap.
    """

    codebook: Path
    interaction: Path
    items: Path
    rows: Path | None = None


@dataclass(frozen=True)
class ScoringSettings:
    """What is kept of the scores.

    Attributes:
        bias: Added to a score; what is above zero then is kept.
        cap: Most items of a code.

    Raises:
        ValueError: The cap is below 1, or the bias not finite.
    """

    bias: float
    cap: int

    def __post_init__(self) -> None:
        """Checks both."""
        if self.cap < 1 or not np.isfinite(self.bias):
            raise ValueError(f"cap is {self.cap} and bias {self.bias}, expected a cap from 1 on and a finite bias")


class ScoreBlock(beam.DoFn):  # type: ignore[misc]
    """(number, codes [Q] int64, ascending) -> (number, Arrow table of their lists)."""

    def __init__(self, files: ScoringFiles, settings: ScoringSettings) -> None:
        """Takes paths; everything is loaded by the worker."""
        self._files = files
        self._settings = settings

    def setup(self) -> None:
        """Loads codebook and interaction and maps the items, once a worker.

        Raises:
            ValueError: The three do not fit together.
        """
        from serving.sparcode.codebook import Codebook
        from serving.sparcode.interactions import load_interaction

        files = self._files
        self._codebook, self._interaction = Codebook.load(files.codebook), load_interaction(files.interaction)
        self._items: Floats = np.load(files.items, mmap_mode="r", allow_pickle=False)
        self._rows: Ints | None = None if files.rows is None else np.load(files.rows, allow_pickle=False)
        width, num_tokens = self._interaction.width, self._interaction.num_item_tokens
        if self._codebook.width != width or self._items.ndim != 2 or self._items.shape[1] != num_tokens * width:
            raise ValueError(
                f"{files.items}: items are {list(self._items.shape)} and codes have width {self._codebook.width}, but "
                f"{files.interaction} scores {num_tokens} tokens of width {width}; take all three from one model"
            )

    def process(self, element: tuple[int, Ints]) -> Iterator[tuple[int, pa.Table]]:
        """Scores all items for one block.

        Raises:
            ValueError: A score is not a number that a table can hold.
        """
        number, keys = element
        num_items = len(self._items if self._rows is None else self._rows)
        lists = RunningLists(len(keys), cap=min(self._settings.cap, num_items), block=ITEM_BLOCK)
        tokens = self._codebook.decode(keys)
        for begin in range(0, num_items, ITEM_BLOCK):
            columns = slice(begin, min(begin + ITEM_BLOCK, num_items))
            rows = np.arange(columns.start, columns.stop) if self._rows is None else self._rows[columns]
            items = self._items[columns if self._rows is None else rows]
            lists.add(self._scores(tokens, items, rows), rows.astype(np.int32))
        yield number, table_of(keys, lists.result())

    def _scores(self, tokens: Floats, items: Floats, rows: Ints) -> Floats:
        interaction = self._interaction
        shape = (len(rows), interaction.num_item_tokens, interaction.width)
        scores = interaction.scores(tokens, interaction.prepare(np.asarray(items).reshape(shape)))
        # One nan or infinity makes the sum one too, at a fraction of the cost of looking at each number.
        if not np.isfinite(scores.sum()):
            bad = rows[int(np.argmin(np.isfinite(scores).all(axis=0)))]
            raise ValueError(f"{self._files.items}: a score of item {bad} is not finite; look at the item's tokens")
        scores += np.float32(self._settings.bias)
        return scores


class ScoreCodes(beam.PTransform):  # type: ignore[misc]
    """(number, codes) of blocks -> (number, Arrow table of their lists)."""

    def __init__(self, files: ScoringFiles, settings: ScoringSettings) -> None:
        """Takes what `ScoreBlock` takes."""
        super().__init__()
        self._block = ScoreBlock(files, settings)

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return blocks | "spread" >> beam.Reshuffle() | "score" >> beam.ParDo(self._block)


def run(transform: ScoreCodes, keys: Ints, *, block_size: int, out: Path, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/postings-*.parquet` with key, items and scores, a file a block in the order of codes.

    Args:
        transform: The job.
        keys: [K] int64, ascending.
        block_size: Codes of an element (Q).
        out: Folder to write, made where it is missing.
        options: Of the pipeline.
    """
    blocks = [keys[begin : begin + block_size] for begin in range(0, len(keys), block_size)]
    out.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "codes" >> beam.Create(list(enumerate(blocks))) | transform
        _ = tables | "write" >> beam.ParDo(WriteNumbered(out / "postings", total=len(blocks)))


class ScoredBlock(NamedTuple):
    """What the job has written of some codes."""

    keys: Ints
    """[Q], ascending."""
    lists: Lists


def read_blocks(folder: Path, keys: Ints) -> Iterator[ScoredBlock]:
    """What the job has written, in the order of codes, a block at a time.

    Args:
        folder: Of the job.
        keys: [K] int64, ascending: the codes that it was run for.

    Raises:
        ValueError: A file or a code is missing, or a code is there that was not asked for.
    """
    place = 0
    for path in all_files(folder, advice="score the codes again"):
        block = _read_block(pq.read_table(path))
        expected = keys[place : place + len(block.keys)]
        if not np.array_equal(block.keys, expected):
            raise ValueError(
                f"{path}: holds {len(block.keys)} codes from {block.keys[:1]} on, expected those from {expected[:1]} "
                "on; it is of another job: score the codes again into an empty folder"
            )
        place += len(block.keys)
        yield block
    if place != len(keys):
        raise ValueError(f"{folder}: has {place} codes, expected {len(keys)}; score the codes again")


def collect(folder: Path, keys: Ints, writer: PostingsWriter) -> None:
    """Writes what the job has scored as one table, and finishes it.

    Args:
        folder: Of the job.
        keys: [K] int64, ascending: the codes that it was run for.
        writer: Of the table.

    Raises:
        ValueError: What the job has written is not whole; the table is not finished then.
    """
    with writer:
        for block in read_blocks(folder, keys):
            writer.add(block.keys, *block.lists)


def table_of(keys: Ints, lists: Lists) -> pa.Table:
    """Lists as the job writes them."""
    offsets = pa.array(lists.starts.astype(np.int32))
    values = (pa.array(lists.items), pa.array(lists.scores))
    return pa.table(
        [pa.array(keys), *(pa.ListArray.from_arrays(offsets, column) for column in values)], schema=POSTINGS_SCHEMA
    )


def _read_block(table: pa.Table) -> ScoredBlock:
    items, scores = (table.column(name).combine_chunks() for name in (ITEMS, SCORES))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(items.value_lengths().to_numpy().astype(np.int64))])
    return ScoredBlock(
        table.column(KEY).to_numpy(), Lists(starts, items.flatten().to_numpy(), scores.flatten().to_numpy())
    )
