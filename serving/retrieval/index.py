"""Index backends: nearest neighbours by inner product, approximate (HNSW) or exact.

B queries, N items of the catalogue, D vector width. Scores are inner products of the queries with the vectors given:
cosines where both have length one, weighted cosines where the items' lengths are their business weights. W items of
the catalogue may be left out: they are no part of the graph, and no search finds them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import hnswlib
import numpy as np

from serving.retrieval import exact
from serving.retrieval.eligible import NO_ITEMS, Items, eligible_rows, everything_but
from serving.retrieval.exact_index import ExactIndex
from serving.retrieval.ranking import Rows, Scores, fit
from serving.retrieval.weights import augmented, augmented_queries

EXACT = "exact"
INDEX_FILE, VECTORS_FILE, REPORT_FILE = "index.hnsw", "item_vectors.npy", "index_report.json"


# hnswlib's file begins with six 8-byte fields, among them the number of elements and two offsets around the vector.
_HEADER = struct.Struct("<6Q")
# Stored vectors that are compared with those given when an index is loaded, spread over the catalogue.
_NUM_PROBES, _PROBE_TOLERANCE = 64, 1e-5


class ItemIndex(Protocol):
    """What finds the nearest items by inner product."""

    @property
    def left_out(self) -> Items:
        """[W] catalogue rows, ascending, that no search finds."""
        ...

    def save(self, path: Path) -> None:
        """Writes a file."""
        ...

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        """The k nearest items of each query: rows [B, k] and scores [B, k], padded with -1 when k > N - W."""
        ...


class AnnIndex(ItemIndex, Protocol):
    """An index backend, kept in one file. Equal vectors are not its concern: see `serving.retrieval.distinct`."""

    @classmethod
    def build(cls, vectors: Scores, *, m: int, ef_construction: int, seed: int, left_out: Items = NO_ITEMS) -> Self:
        """Builds the index; the same arguments give the same one.

        Args:
            vectors: [N, D] float32; their lengths count.
            m: Links per node of a graph; how many an index spends on an item.
            ef_construction: Beam width while building; how much effort an index spends on an item.
            seed: Of everything random.
            left_out: [W] int32 rows, ascending, that are left out; the others keep their numbers.
        """
        ...

    @classmethod
    def load(cls, path: Path, vectors: Scores, left_out: Items = NO_ITEMS) -> Self:
        """Reads what `save` wrote.

        Raises:
            ValueError: The file is damaged, or not of these vectors without these rows.
        """
        ...

    @classmethod
    def num_vectors(cls, path: Path) -> int:
        """How many vectors a file is over, from its head."""
        ...


@dataclass(frozen=True)
class IndexReport:
    """How good an index is and what it costs."""

    recall: float
    """Share of the exact top k that the index finds, mean over queries."""
    k: int
    """Length of the compared lists."""
    ef: int
    """Beam width while searching."""
    num_queries: int
    """Queries behind the recall."""
    size_bytes: int
    """Size of the index file."""
    build_seconds: float
    """Wall-clock time of the build."""
    form: str
    """Backend of the index, a name in `INDEXES`."""
    weight_spread: float
    """Standard deviation of the log business weights; 0 where there are none."""
    parts: tuple[int, ...]
    """Widths of the parts of which the vectors are concatenated, one for each model of an ensemble."""
    m: int | None = None
    """Links per node of a graph; None in reports of earlier versions."""
    num_vectors: int | None = None
    """Distinct vectors that it is over; None in reports of earlier versions."""
    num_below_half: int | None = None
    """Queries of which less than half of the exact list is found; None in reports of earlier versions."""
    num_interests: int = 1
    """Vectors of a user that ask it (K)."""

    def __post_init__(self) -> None:
        """Takes the parts as JSON gives them, too."""
        object.__setattr__(self, "parts", tuple(self.parts))

    def asked(self) -> str:
        """Over whom the recall was measured, in words."""
        several = "" if self.num_interests == 1 else f" with {self.num_interests} vectors each"
        if self.num_below_half is None:
            return f"{self.num_queries:,} users{several}"
        few = f"{self.num_below_half:,} of whom get less than half of their exact list"
        return f"{self.num_queries:,} users{several}, {few}"

    def built(self) -> str:
        """What it holds and costs, in words."""
        held = "" if self.num_vectors is None else f"{self.num_vectors:,} distinct vectors, "
        links = "" if self.m is None or self.form == EXACT else f"{self.m} links a node, "
        return f"{held}{links}{self.size_bytes / 1e6:.1f} MB, built in {self.build_seconds:.1f} s"


class HnswIndex:
    """A navigable small-world graph over the catalogue by inner product, with exact search behind it.

    Args:
        graph: A filled hnswlib index whose label i is catalogue row i.
        vectors: [N, D] float32, the same vectors, for the searches that the graph cannot answer.
        left_out: [W] int32 catalogue rows, ascending, that the graph does not hold.
    """

    space: ClassVar[str] = "ip"

    def __init__(self, graph: Any, vectors: Scores, left_out: Items) -> None:
        """Takes a graph and the vectors it was built from."""
        self.left_out = left_out
        self._graph = graph
        self._vectors = vectors
        self._ef: int | None = None

    @classmethod
    def build(cls, vectors: Scores, *, m: int, ef_construction: int, seed: int, left_out: Items = NO_ITEMS) -> Self:
        """Inserts the vectors one by one on one thread: more threads would make the graph depend on their race.

        Args:
            vectors: [N, D] float32; their lengths count.
            m: Links per node.
            ef_construction: Beam width while building.
            seed: Draws the level of each node.
            left_out: [W] int32 rows, ascending, that stay out of the graph; the others keep their numbers.

        Returns:
            The same index for the same arguments.

        Raises:
            ValueError: There is no vector, one is not finite, or all are left out.
        """
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"vectors have shape {vectors.shape}, expected [N, D] with at least one row")
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise ValueError(f"vector {row} is not finite; look at the item tower before building an index")
        rows, stored = eligible_rows(left_out, num_items=len(vectors)), cls._stored(vectors)
        graph = hnswlib.Index(space=cls.space, dim=stored.shape[1])
        graph.init_index(max_elements=len(rows), M=m, ef_construction=ef_construction, random_seed=seed)
        graph.add_items(stored[rows] if len(left_out) else stored, rows, num_threads=1)
        return cls(graph, vectors, left_out)

    @classmethod
    def num_vectors(cls, path: Path) -> int:
        """See `AnnIndex`."""
        return read_shape(path)[0]

    def save(self, path: Path) -> None:
        """Writes the graph, vectors included, as one file."""
        self._graph.save_index(str(path))

    @classmethod
    def load(cls, path: Path, vectors: Scores, left_out: Items = NO_ITEMS) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The file.
            vectors: [N, D] float32 that it was built from.
            left_out: [W] int32 rows, ascending, that it was built without.

        Raises:
            ValueError: The file holds another number of items, other items, another dimension or other vectors than
                `vectors` without `left_out` in this form, or is damaged.
        """
        # hnswlib itself reads a file of any dimension and then answers nonsense.
        rows, stored = eligible_rows(left_out, num_items=len(vectors)), cls._stored(vectors)
        if (found := read_shape(path)) != (len(rows), stored.shape[1]):
            less = f": {len(vectors)} items, {len(left_out)} of them left out" if len(left_out) else ""
            raise ValueError(
                f"{path}: holds vectors of shape {list(found)}, expected {[len(rows), stored.shape[1]]}{less}; build "
                "it again after a change of the catalogue"
            )
        graph = hnswlib.Index(space=cls.space, dim=stored.shape[1])
        try:
            graph.load_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path}: not a readable hnswlib index: {error}") from None
        if len(missing := np.setdiff1d(rows, np.asarray(graph.get_ids_list(), np.int64))):
            raise ValueError(
                f"{path}: has no item {missing[0]}, expected all {len(rows)} that are offered; build it again after a "
                "change of the catalogue"
            )
        probes = rows[np.unique(np.linspace(0, len(rows) - 1, _NUM_PROBES).astype(np.int64))]
        # The added coordinate is a sum, which another machine may round otherwise.
        wrong = (np.abs(np.asarray(graph.get_items(probes)) - stored[probes]) > _PROBE_TOLERANCE).any(axis=1)
        if wrong.any():
            raise ValueError(
                f"{path}: holds another vector of item {probes[np.argmax(wrong)]} than the one given, expected those "
                "it was built from; build it again after a change of vectors or weights"
            )
        return cls(graph, vectors, left_out)

    def search(self, query_embeddings: Scores, *, k: int, ef: int) -> tuple[Rows, Scores]:
        """The k nearest items of each query.

        Args:
            query_embeddings: [B, D] float32.
            k: Length of the lists; beyond N - W they are padded.
            ef: Beam width, raised to k where it is smaller. Calls at the same time with another `ef` may see this one:
                that moves recall, never correctness.

        Returns:
            Rows [B, k] and scores [B, k], best first.
        """
        if self._ef != ef:
            self._graph.set_ef(ef)  # hnswlib itself takes max(ef, k)
            self._ef = ef
        num_items = len(self._vectors)
        reachable = min(k, num_items - len(self.left_out))
        try:
            labels, distances = self._graph.knn_query(self._asked(query_embeddings), k=reachable)
        except RuntimeError as error:
            # The graph can fall apart into parts; one short list then fails the whole batch.
            if "contiguous 2D array" not in str(error):
                raise
            if len(query_embeddings) > 1:
                # One by one, so that the list of a user does not depend on the others.
                lists = [self.search(query[None], k=k, ef=ef) for query in query_embeddings]
                return np.vstack([rows for rows, _ in lists]), np.vstack([scores for _, scores in lists])
            eligible = everything_but(self.left_out, num_items=num_items)
            return exact.search(
                query_embeddings, self._vectors, k=k, offered=None if eligible is None else eligible.mask
            )
        return fit(labels.astype(np.int32), self._scores(query_embeddings, distances), k=k)

    @staticmethod
    def _stored(vectors: Scores) -> Scores:
        """What the graph holds of the vectors."""
        return vectors

    def _asked(self, query_embeddings: Scores) -> Scores:
        """What the graph is asked."""
        return query_embeddings

    def _scores(self, query_embeddings: Scores, distances: Scores) -> Scores:
        """Inner products from hnswlib's distances: [B, k] float32."""
        return (1.0 - distances).astype(np.float32)


class AugmentedIndex(HnswIndex):
    """The same by Euclidean distance, over vectors that one more coordinate has brought to one length.

    The order is that of the inner products, and a graph by distance is no longer drawn to the longest vectors.

    Args:
        graph: A filled hnswlib index over `augmented(vectors)`, whose length is that of the longest of all N, whichever
            are left out.
        vectors: [N, D] float32, before the coordinate was added.
        left_out: [W] int32 catalogue rows, ascending, that the graph does not hold.
    """

    space: ClassVar[str] = "l2"

    def __init__(self, graph: Any, vectors: Scores, left_out: Items) -> None:
        """Takes a graph and the vectors it was built from."""
        super().__init__(graph, vectors, left_out)
        self._square_length = float(np.square(vectors, dtype=np.float64).sum(axis=1).max())

    @staticmethod
    def _stored(vectors: Scores) -> Scores:
        return augmented(vectors)

    def _asked(self, query_embeddings: Scores) -> Scores:
        return augmented_queries(query_embeddings)

    def _scores(self, query_embeddings: Scores, distances: Scores) -> Scores:
        squares = np.square(query_embeddings, dtype=np.float64).sum(axis=1, keepdims=True)
        products = (squares + self._square_length - distances) / 2
        return np.asarray(products, np.float32)


INDEXES: dict[str, type[AnnIndex]] = {"ip": HnswIndex, "augmented": AugmentedIndex, EXACT: ExactIndex}
"""Form, as in an `IndexReport` and in `index.form` -> index backend."""


def backend_of(form: str) -> type[AnnIndex]:
    """The index backend of a form.

    Raises:
        ValueError: There is none; the message names those there are.
    """
    if form not in INDEXES:
        raise ValueError(f"the form of the index is {form!r}, expected one of: {', '.join(INDEXES)}")
    return INDEXES[form]


def read_shape(path: Path) -> tuple[int, int]:
    """Number of items and dimension from the head of an index file.

    Raises:
        ValueError: The file is too short.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise ValueError(f"{path}: has {len(head)} bytes, too few for an hnswlib index; build it again")
    _, _, num_items, _, label_offset, vector_offset = _HEADER.unpack(head)
    return num_items, (label_offset - vector_offset) // np.dtype(np.float32).itemsize
