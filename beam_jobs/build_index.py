"""Builds the index over the item vectors and measures its recall, as a Beam job with one element.

Items that were withdrawn have a vector and are no part of the graph.

With business weights the graph is over the weighted vectors. Which of its two forms finds more depends on the spread of
the weights and on how the vectors lie, so that the form that the spread suggests is measured, and the other one too
where it finds too little. An index that misses too much of exact search is not written.

Shape letters: N items, U users, D vector width.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.options.pipeline_options import PipelineOptions

from artefacts.files import json_text
from serving.retrieval.index import INDEX_FILE, REPORT_FILE, VECTORS_FILE, AnnIndex
from serving.retrieval.vectors import read_vectors

if TYPE_CHECKING:
    from serving.retrieval.eligible import Items


class IndexRefusedError(ValueError):
    """An index finds less of exact search than it must."""


@dataclass(frozen=True)
class IndexSettings:
    """Shape of the graph and how it is measured.

    Attributes:
        m: Links per node; a weighted graph has at least `serving.retrieval.weights.MIN_LINKS`.
        ef_construction: Beam width while building; a weighted graph takes at least `MIN_EF_CONSTRUCTION`.
        ef_search: Beam width of the searches that are measured.
        k: Length of the lists that are compared with exact search.
        num_queries: User vectors that they are compared on, at most.
        seed: Draws the level of each node and the users that are asked.
        min_recall: Recall against exact search, with the weights on, below which the index is refused.
        parts: Widths of the parts of which the vectors are concatenated, for the report; (D,) for a single model.
        form: Backend of the index; None takes the one that finds enough.
    """

    m: int
    ef_construction: int
    ef_search: int
    k: int
    num_queries: int
    seed: int
    min_recall: float
    parts: tuple[int, ...]
    form: str | None = None


class IndexJob(NamedTuple):
    """One index to build.

    Attributes:
        items: Folder of item vectors.
        users: Folder of user vectors.
        out: Folder to write.
        weights: File of [N] float32 business weights by row of the item vectors; None has none.
        withdrawn: File of [W] int32 rows of the item vectors, ascending, that stay out of the graph; None has none.
    """

    items: str
    users: str
    out: str
    weights: str | None
    withdrawn: str | None


@dataclass(frozen=True)
class Candidate:
    """A graph that was built and measured.

    Attributes:
        index: The graph.
        form: How the vectors lie in it.
        recall: Against exact search, with the weights on.
        seconds: Wall-clock time of the build.
    """

    index: AnnIndex
    form: str
    recall: float
    seconds: float


class BuildIndex(beam.DoFn):  # type: ignore[misc]
    """`IndexJob` -> path of the report."""

    def __init__(self, settings: IndexSettings) -> None:
        """Takes the settings."""
        self._settings = settings

    def process(self, element: IndexJob) -> Iterator[str]:
        """Builds, measures and writes one index.

        Raises:
            IndexRefusedError: Its recall is too low.
            ValueError: The vectors, weights and rows do not fit each other, or no item is offered.
        """
        from serving.retrieval.eligible import NO_ITEMS, WITHDRAWN_FILE, load_withdrawn
        from serving.retrieval.index import IndexReport
        from serving.retrieval.weights import WEIGHTS_FILE, load_weights, log_weight_spread, weighted

        items, users, out = (Path(path) for path in element[:3])
        settings = self._settings
        vectors = ranked = read_vectors(items)
        if sum(settings.parts) != vectors.shape[1]:
            raise ValueError(
                f"{items}: vectors have width {vectors.shape[1]}, expected the sum of the parts {settings.parts}; "
                "embed with the towers that the parts are of"
            )
        weights, spread = None, 0.0
        if element.weights is not None:
            weights = load_weights(Path(element.weights), num_items=len(vectors))
            ranked, spread = weighted(vectors, weights), log_weight_spread(weights)
        left_out = NO_ITEMS
        if element.withdrawn is not None:
            left_out = load_withdrawn(Path(element.withdrawn), num_items=len(vectors))
        asked = self._asked(read_vectors(users))
        best = self._best(ranked, left_out, asked, spread, has_weights=weights is not None)
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / VECTORS_FILE, vectors, allow_pickle=False)
        if weights is not None:
            np.save(out / WEIGHTS_FILE, weights, allow_pickle=False)
        if len(left_out):
            np.save(out / WITHDRAWN_FILE, left_out, allow_pickle=False)
        best.index.save(out / INDEX_FILE)
        report = IndexReport(
            recall=best.recall,
            k=settings.k,
            ef=settings.ef_search,
            num_queries=len(asked),
            size_bytes=(out / INDEX_FILE).stat().st_size,
            build_seconds=best.seconds,
            form=best.form,
            weight_spread=spread,
            parts=settings.parts,
        )
        (out / REPORT_FILE).write_text(json_text(dataclasses.asdict(report), indent=2))
        yield str(out / REPORT_FILE)

    def _asked(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(self._settings.seed)
        return queries[rng.choice(len(queries), min(len(queries), self._settings.num_queries), replace=False)]

    def _best(
        self,
        ranked: npt.NDArray[np.float32],
        left_out: Items,
        asked: npt.NDArray[np.float32],
        spread: float,
        *,
        has_weights: bool,
    ) -> Candidate:
        """The first form whose recall is enough."""
        from serving.retrieval.weights import FORMS, choose_form

        settings = self._settings
        first = settings.form or choose_form(spread)
        others = [form for form in FORMS if form != first] if has_weights and settings.form is None else []
        tried: list[Candidate] = []
        for form in (first, *others):
            tried.append(self._build(form, ranked, left_out, asked, has_weights=has_weights))
            if tried[-1].recall >= settings.min_recall:
                return tried[-1]
        found = ", ".join(f"{candidate.recall:.3f} in the form {candidate.form}" for candidate in tried)
        advice = (
            f"raise ef_search ({settings.ef_search}), m ({settings.m}) or ef_construction ({settings.ef_construction})"
        )
        raise IndexRefusedError(
            f"the index over {len(ranked) - len(left_out):,} items has recall@{settings.k} {found}, expected at least "
            f"{settings.min_recall}; the spread of the log weights is {spread:.2f}; "
            f"{'lower weight_power, ' if has_weights else ''}{advice}, or lower min_recall"
        )

    def _build(
        self,
        form: str,
        ranked: npt.NDArray[np.float32],
        left_out: Items,
        asked: npt.NDArray[np.float32],
        *,
        has_weights: bool,
    ) -> Candidate:
        from serving.retrieval.index import backend_of, measure_recall
        from serving.retrieval.weights import MIN_EF_CONSTRUCTION, MIN_LINKS

        settings = self._settings
        links, width = (MIN_LINKS, MIN_EF_CONSTRUCTION) if has_weights else (0, 0)
        started = time.perf_counter()
        index = backend_of(form).build(
            ranked,
            m=max(settings.m, links),
            ef_construction=max(settings.ef_construction, width),
            seed=settings.seed,
            left_out=left_out,
        )
        seconds = time.perf_counter() - started
        recall = measure_recall(index, ranked, query_embeddings=asked, k=settings.k, ef=settings.ef_search)
        return Candidate(index, form, recall, seconds)


class BuildIndexes(beam.PTransform):  # type: ignore[misc]
    """`IndexJob`s -> paths of reports."""

    def __init__(self, settings: IndexSettings) -> None:
        """Takes the settings."""
        super().__init__()
        self._settings = settings

    def expand(self, jobs: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return jobs | "build" >> beam.ParDo(BuildIndex(self._settings))


def run(
    settings: IndexSettings,
    *,
    items: Path,
    users: Path,
    weights: Path | None,
    withdrawn: Path | None,
    out: Path,
    options: PipelineOptions,
) -> None:
    """Runs the job for one pair of vector folders; writes graph, vectors, weights, withdrawn rows and report to `out`.

    Raises:
        IndexRefusedError: The index finds less of exact search than it must; nothing is written.
    """
    given = (None if path is None else str(path) for path in (weights, withdrawn))
    job = IndexJob(str(items), str(users), str(out), *given)
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | "jobs" >> beam.Create([job]) | BuildIndexes(settings)
