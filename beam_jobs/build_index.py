"""How does a set of item vectors become an index that serving can search? One element, one graph.

Shape letters: N items, U users, D vector width.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.embed import read_vectors

INDEX_FILE, VECTORS_FILE, REPORT_FILE = "index.hnsw", "item_vectors.npy", "index_report.json"


@dataclass(frozen=True)
class IndexSettings:
    """Shape of the graph and how it is measured.

    Attributes:
        m: Links per node.
        ef_construction: Beam width while building.
        ef_search: Beam width of the searches that are measured.
        k: Length of the lists that are compared with exact search.
        num_queries: User vectors that they are compared on, at most.
        seed: Draws the level of each node and the users that are asked.
    """

    m: int
    ef_construction: int
    ef_search: int
    k: int
    num_queries: int
    seed: int


class BuildIndex(beam.DoFn):  # type: ignore[misc]
    """(folder of item vectors, folder of user vectors, folder to write) -> path of the report."""

    def __init__(self, settings: IndexSettings) -> None:
        """Takes the settings."""
        self._settings = settings

    def process(self, element: tuple[str, str, str]) -> Iterator[str]:
        """Builds, measures and writes one index."""
        from serving.index import HnswIndex, IndexReport, measure_recall

        items, users, out = (Path(path) for path in element)
        settings = self._settings
        vectors = read_vectors(items)
        started = time.perf_counter()
        index = HnswIndex.build(vectors, m=settings.m, ef_construction=settings.ef_construction, seed=settings.seed)
        seconds = time.perf_counter() - started
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / VECTORS_FILE, vectors, allow_pickle=False)
        index.save(out / INDEX_FILE)
        queries = read_vectors(users)
        rng = np.random.default_rng(settings.seed)
        asked = queries[rng.choice(len(queries), min(len(queries), settings.num_queries), replace=False)]
        recall = measure_recall(index, vectors, query_embeddings=asked, k=settings.k, ef=settings.ef_search)
        size = (out / INDEX_FILE).stat().st_size
        report = IndexReport(
            recall=recall,
            k=settings.k,
            ef=settings.ef_search,
            num_queries=len(asked),
            size_bytes=size,
            build_seconds=seconds,
        )
        (out / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=2))
        yield str(out / REPORT_FILE)


class BuildIndexes(beam.PTransform):  # type: ignore[misc]
    """Triples of folders -> paths of reports."""

    def __init__(self, settings: IndexSettings) -> None:
        """Takes the settings."""
        super().__init__()
        self._settings = settings

    def expand(self, folders: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return folders | "build" >> beam.ParDo(BuildIndex(self._settings))


def run(settings: IndexSettings, *, items: Path, users: Path, out: Path, options: PipelineOptions) -> None:
    """Runs the job for one pair of vector folders; writes graph, vectors and report to `out`."""
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | "folders" >> beam.Create([(str(items), str(users), str(out))]) | BuildIndexes(settings)
