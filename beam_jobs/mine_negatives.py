"""Hard-negative mining: items that a model ranks high for users who have not met them, as a Beam job.

An element is a range of user rows, hundreds of users, never a pair. Ranks are counted after the items that a user is
known to have met were taken out: counted before, a user with a long past would have few items left in the band.

Shape letters: B users of a block, U users, N items of the catalogue, D vector width, K places of a list, P known pairs.

Source: Huang et al. (EBR), KDD 2020, section 6.1 (offline hard negatives, ranks 101 to 500). Departs from it: items
nearly equal to one that the user has met are dropped too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import WriteToParquetBatched
from apache_beam.options.pipeline_options import PipelineOptions

from features import columns, examples
from features.ids import IdMap
from serving.retrieval.vectors import read_vectors

if TYPE_CHECKING:
    from serving.retrieval.purchases import Purchases

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MiningSettings:
    """What is taken of the lists.

    Attributes:
        band: First and last rank, counted from 1 without the items that the user is known to have met.
        per_user: Items kept of the band for each user.
        near_duplicate: Cosine with one of the user's known items from which an item is dropped.
        ef: Beam width of the index.
        max_fetch: Largest number of items to ask the index for; beyond it exact search is cheaper.
        seed: Draws which items of the band are kept.
    """

    band: tuple[int, int]
    per_user: int
    near_duplicate: float
    ef: int
    max_fetch: int
    seed: int

    def __post_init__(self) -> None:
        """Checks the band.

        Raises:
            ValueError: It does not begin at 1 or later, or ends before it begins.
        """
        first, last = self.band
        if not 1 <= first <= last:
            raise ValueError(f"band is {first} to {last}, expected ranks from 1 on, the first not after the last")


@dataclass(frozen=True)
class MiningFiles:
    """What a model left behind, and what its users have met.

    Attributes:
        user_vectors: Folder of user vectors.
        item_vectors: `.npy` file of the [N, D] item vectors.
        index: Index over these vectors as they are; None searches exactly, as where the index is over weighted ones.
        users: Parquet whose row i has the user_id of user vector i, or the file of their id map.
        items: Parquet whose row i has the item_id of item vector i, or the file of their id map.
        pairs: Parquet with user_id and item_id of what each user is known to have met, by any moment.
        withdrawn: File of the rows of item vectors that the index leaves out, which are no negatives either; None where
            there are none.
        form: Backend of the index.
    """

    user_vectors: Path
    item_vectors: Path
    index: Path | None
    users: Path
    items: Path
    pairs: Path
    withdrawn: Path | None = None
    form: str = "ip"


class MineBlock(beam.DoFn):  # type: ignore[misc]
    """(first user row, row after the last) -> Arrow table of negatives."""

    def __init__(self, files: MiningFiles, settings: MiningSettings) -> None:
        """Takes paths; everything is loaded by the worker."""
        self._files = files
        self._settings = settings

    def setup(self) -> None:
        """Loads vectors, index, ids and known items, once a worker."""
        from serving.retrieval.distinct import load_index
        from serving.retrieval.eligible import NO_ITEMS, everything_but, load_withdrawn

        files = self._files
        self._queries = read_vectors(files.user_vectors)
        self._vectors: Vectors = np.load(files.item_vectors, mmap_mode="r", allow_pickle=False)
        num_items, left_out = len(self._vectors), NO_ITEMS
        if files.withdrawn is not None:
            left_out = load_withdrawn(files.withdrawn, num_items=num_items)
        self._index = None if files.index is None else load_index(files.form, files.index, self._vectors, left_out)
        self._eligible = everything_but(left_out, num_items=num_items)
        self._user_ids, self._item_ids = _ids(files.users, columns.USER_ID), _ids(files.items, columns.ITEM_ID)
        for path, ids, vectors in (
            (files.users, self._user_ids, self._queries),
            (files.items, self._item_ids, self._vectors),
        ):
            if len(ids) != len(vectors):
                raise ValueError(
                    f"{path}: has {len(ids)} rows and the model {len(vectors)} vectors, expected one vector for each "
                    "row; embed the catalogue again"
                )
        self._known = _known(files.pairs, self._user_ids, self._item_ids)

    def process(self, element: tuple[int, int]) -> Iterator[pa.Table]:
        """Searches, filters and samples for one block."""
        begin, end = element
        users = np.arange(begin, end)
        known = self._known.of(users)
        rows, scores = self._lists(users, known)
        first, last = self._settings.band
        rows, scores = rows[:, first - 1 : last], scores[:, first - 1 : last]
        kept = [self._choose(int(user), own, met) for user, own, met in zip(users, rows, _split(known), strict=True)]
        owner = np.repeat(np.arange(len(users)), [len(places) for places in kept])
        place = np.concatenate([*kept, np.zeros(0, np.int64)])
        yield pa.table(
            [
                pa.array(self._user_ids[users[owner]], pa.string()),
                pa.array(self._item_ids[rows[owner, place]], pa.string()),
                pa.array((place + first).astype(np.int32)),
                pa.array(scores[owner, place]),
            ],
            schema=examples.NEGATIVES_SCHEMA,
        )

    def _lists(self, users: examples.Ints, known: Purchases) -> tuple[npt.NDArray[np.int32], Vectors]:
        from serving.retrieval import exact
        from serving.retrieval.vector_search import search_eligible

        queries, last = self._queries[users], self._settings.band[1]
        if self._index is None:
            offered = None if self._eligible is None else self._eligible.mask
            return exact.search(queries, self._vectors, k=last, exclude=known.csr(), offered=offered)
        return search_eligible(
            self._index,
            self._vectors,
            query_embeddings=queries,
            known=known,
            eligible=self._eligible,
            k=last,
            ef=self._settings.ef,
            max_fetch=self._settings.max_fetch,
        )

    def _choose(self, user: int, band: npt.NDArray[np.int32], met: npt.NDArray[np.int32]) -> examples.Ints:
        """Places of the band that one user keeps, ascending: one matrix product a user, however long the history."""
        places = np.flatnonzero(band >= 0)
        if len(met):
            closest = (_unit(self._vectors[band[places]]) @ _unit(self._vectors[met]).T).max(axis=1, initial=-1.0)
            places = places[closest < self._settings.near_duplicate]
        # A seed for each user: who else is in the block leaves no trace.
        rng = np.random.default_rng([self._settings.seed, user])
        return np.sort(rng.choice(places, min(len(places), self._settings.per_user), replace=False))


class MineNegatives(beam.PTransform):  # type: ignore[misc]
    """Ranges of user rows -> Arrow tables of negatives."""

    def __init__(self, files: MiningFiles, settings: MiningSettings) -> None:
        """Takes what `MineBlock` takes."""
        super().__init__()
        self._block = MineBlock(files, settings)

    def expand(self, ranges: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return ranges | "spread" >> beam.Reshuffle() | "mine" >> beam.ParDo(self._block)


def run(transform: MineNegatives, *, num_users: int, block_size: int, out: Path, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/negatives-*.parquet` with user_id, item_id, rank and score.

    Args:
        transform: The job.
        num_users: U.
        block_size: Users of an element (B).
        out: Folder to write.
        options: Of the pipeline.
    """
    ranges = [(begin, min(begin + block_size, num_users)) for begin in range(0, num_users, block_size)]
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "user rows" >> beam.Create(ranges) | transform
        tables | "write" >> WriteToParquetBatched(
            str(out / "negatives"), schema=examples.NEGATIVES_SCHEMA, codec="zstd", file_name_suffix=".parquet"
        )


def _ids(path: Path, name: str) -> npt.NDArray[np.object_]:
    """Ids by row, of a table with such a column or of the file of an id map."""
    held = name if name in pq.read_schema(path).names else "id"
    ids: npt.NDArray[np.object_] = pq.read_table(path, columns=[held]).column(held).to_numpy()
    return ids


def _known(pairs: Path, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_]) -> Purchases:
    """What each user is known to have met, by vector row; pairs of others' ids are left out."""
    from serving.retrieval.purchases import Purchases

    table = pq.read_table(pairs, columns=[columns.USER_ID, columns.ITEM_ID])
    users = IdMap(user_ids).rows(table.column(columns.USER_ID).to_numpy()).astype(np.int64)
    items = IdMap(item_ids).rows(table.column(columns.ITEM_ID).to_numpy()).astype(np.int64)
    found = Purchases.from_events(
        users,
        items - 1,
        seconds=np.zeros(len(users), np.int64),
        num_users=len(user_ids) + 1,
        num_items=len(item_ids),
    )
    # Without the row of the unknown user: vectors begin with the first known one.
    return found.of(np.arange(1, len(user_ids) + 1))


def _split(known: Purchases) -> list[npt.NDArray[np.int32]]:
    """Items of each user."""
    return np.split(known.indices, known.indptr[1:-1])


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return unit
