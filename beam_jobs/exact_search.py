"""Which k items have the largest inner product with each user's vector, exactly? A Beam job over blocks of users.

For more users than one machine has patience for. An element is one row group of what the embedding job wrote:
thousands of users, never one, and the more the better, as every block passes over all items once.

Shape letters: B users of a block, U users, N items of the catalogue, D vector width, k places of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.embed import WriteNumbered
from serving.retrieval.vectors import ROW, VECTOR, all_files

if TYPE_CHECKING:
    from serving.retrieval.purchases import Purchases

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]
ITEMS, SCORES = "items", "scores"


@dataclass(frozen=True)
class SearchFiles:
    """What is searched, and what is left out.

    Attributes:
        item_vectors: `.npy` file of the [N, D] item vectors.
        known: Folder of `Purchases.save` of what users must not get; None leaves nothing out. Its row 0 is the unknown
            user's, who has no vector, and row u + 1 is of the user of vector u.
    """

    item_vectors: Path
    known: Path | None = None


def list_schema(k: int) -> pa.Schema:
    """Arrow schema of the lists: `row` of the user's vector, `items` [k] and `scores` [k], best first."""
    return pa.schema([(ROW, pa.int64()), (ITEMS, pa.list_(pa.int32(), k)), (SCORES, pa.list_(pa.float32(), k))])


class SearchBlock(beam.DoFn):  # type: ignore[misc]
    """(number, file, number of its row group) -> (number, Arrow table of lists)."""

    def __init__(self, files: SearchFiles, *, k: int) -> None:
        """Takes paths; everything is loaded by the worker."""
        self._files = files
        self._k = k

    def setup(self) -> None:
        """Maps the items and what is known, once a worker."""
        from serving.retrieval.purchases import Purchases

        files = self._files
        self._items: Vectors = np.load(files.item_vectors, mmap_mode="r", allow_pickle=False)
        self._known: Purchases | None = None
        if files.known is not None:
            self._known = Purchases.load(files.known, num_items=len(self._items))

    def process(self, element: tuple[int, str, int]) -> Iterator[tuple[int, pa.Table]]:
        """Searches for one block.

        Raises:
            ValueError: Users and items do not fit together, or a vector holds nan or infinity.
        """
        from serving.retrieval import exact

        number, path, group = element
        table = pq.ParquetFile(path).read_row_group(group)
        users = table.column(ROW).to_numpy()
        queries = _matrix(table, VECTOR)
        try:
            items, scores = exact.search(queries, self._items, k=self._k, exclude=self._excluded(users))
        except ValueError as error:
            raise ValueError(f"{path}: its users cannot be searched in {self._files.item_vectors}: {error}") from None
        lists = (pa.FixedSizeListArray.from_arrays(values.ravel(), self._k) for values in (items, scores))
        yield number, pa.table([pa.array(users), *lists], schema=list_schema(self._k))

    def _excluded(self, users: npt.NDArray[np.int64]) -> sp.csr_array | None:
        known = self._known
        if known is None:
            return None
        if users.max(initial=-1) + 1 >= known.num_users:
            raise ValueError(
                f"{self._files.known} has {known.num_users - 1} users beside the unknown one, and there is a vector of "
                f"row {users.max()}; take both from one fit"
            )
        return known.of(users + 1).csr()


class ExactSearch(beam.PTransform):  # type: ignore[misc]
    """(number, file, number of its row group) -> (number, Arrow table of lists)."""

    def __init__(self, files: SearchFiles, *, k: int) -> None:
        """Takes what `SearchBlock` takes."""
        super().__init__()
        self._block = SearchBlock(files, k=k)

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return blocks | "spread" >> beam.Reshuffle() | "search" >> beam.ParDo(self._block)


def run(transform: ExactSearch, vectors: Path, *, out: Path, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/lists-*.parquet`, a file for each row group of vectors.

    Args:
        transform: The job.
        vectors: Folder of user vectors that the embedding job wrote.
        out: Folder to write, made where it is missing.
        options: Of the pipeline.

    Raises:
        ValueError: A file of vectors is missing.
    """
    files = all_files(vectors, advice="run the embedding job again")
    groups = [(str(file), group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    blocks = [(number, *group) for number, group in enumerate(groups)]
    out.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "row groups" >> beam.Create(blocks) | transform
        _ = tables | "write" >> beam.ParDo(WriteNumbered(out / "lists", total=len(blocks)))


def read_lists(folder: Path) -> tuple[Rows, Vectors]:
    """Lists in the order of the user vectors, as `serving.retrieval.exact.search` gives them.

    Returns:
        rows [U, k] int32 and scores [U, k] float32; -1 and -inf behind the last one.

    Raises:
        ValueError: A file is missing, or a user is missing or occurs twice.
    """
    table = pq.read_table(all_files(folder, advice="search again"))
    users = table.column(ROW).to_numpy()
    order = np.argsort(users, kind="stable")
    if not np.array_equal(users[order], np.arange(len(users))):
        raise ValueError(f"{folder}: users are not 0 to {len(users) - 1}, each once; search again into an empty folder")
    return _matrix(table, ITEMS)[order], _matrix(table, SCORES)[order]


def _matrix(table: pa.Table, name: str) -> npt.NDArray[Any]:
    column = table.column(name).combine_chunks()
    matrix: npt.NDArray[Any] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return matrix
