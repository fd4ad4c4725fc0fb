"""Builds the index over the item vectors and measures its recall, as a Beam job with one element.

Items that were withdrawn have a vector and are no part of the graph.

With business weights the graph is over the weighted vectors. Which of its two forms finds more depends on the spread of
the weights and on how the vectors lie, so that what is built is measured, and more is tried as long as it finds too
little of exact search: wider beams, the other form, twice the links, and exact search where that is cheap. An index
that still misses too much is not written.

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
from serving.retrieval.index import EXACT, INDEX_FILE, REPORT_FILE, VECTORS_FILE, ItemIndex
from serving.retrieval.vectors import read_vectors

if TYPE_CHECKING:
    from serving.retrieval.eligible import Items
    from serving.retrieval.index_recall import ExactLists
    from serving.retrieval.ranking import Rows

BEAMS = (16, 32, 64, 100, 150, 200, 300, 400, 600, 800, 1200, 1600)
"""Beam widths that are tried, the narrowest first; a beam is never narrower than a list."""
EXACT_NUMBERS = 2**23
"""Numbers in all vectors up to which exact search is cheap: some 2 ms of one core a request."""

MAX_LOST_SHARE = 0.005
"""Users who may get less than half of their exact list, as a share of those asked, where a beam is chosen."""


class IndexRefusedError(ValueError):
    """An index finds less of exact search than it must."""


@dataclass(frozen=True)
class IndexSettings:
    """Shape of the graph and how it is measured.

    Attributes:
        m: Links per node, doubled where no beam finds enough; a weighted graph has at least
            `serving.retrieval.weights.MIN_LINKS`.
        ef_construction: Beam width while building; a weighted graph takes at least `MIN_EF_CONSTRUCTION`.
        ef_search: Beam width of the searches; None takes the narrowest of `BEAMS` that finds enough.
        k: Length of the lists that are compared with exact search.
        num_queries: User vectors that they are compared on, at most.
        seed: Draws the level of each node and the users that are asked.
        min_recall: Recall against exact search, with the weights on, below which the index is refused.
        parts: Widths of the parts of which the vectors are concatenated, for the report; (D,) for a single model.
        target_recall: What is enough where the beam is chosen; without such a choice, and where nothing finds that
            much, `min_recall` is.
        form: Backend of the index; None takes the one that finds enough.
    """

    m: int
    ef_construction: int
    ef_search: int | None
    k: int
    num_queries: int
    seed: int
    min_recall: float
    parts: tuple[int, ...]
    target_recall: float = 0.98
    form: str | None = None

    @property
    def beams(self) -> tuple[int, ...]:
        """Beam widths to try, ascending."""
        if self.ef_search is not None:
            return (self.ef_search,)
        return tuple(ef for ef in BEAMS if ef >= self.k) or (self.k,)

    def is_enough(self, shares: npt.NDArray[np.float64]) -> bool:
        """Whether nothing further is tried.

        A mean hides users whose lists are lost altogether, so that a beam is chosen with next to none of them.

        Args:
            shares: [B] what each user gets of the exact list.
        """
        if self.ef_search is not None:
            return bool(shares.mean() >= self.min_recall)
        few_are_lost = num_below_half(shares) <= MAX_LOST_SHARE * len(shares)
        return few_are_lost and bool(shares.mean() >= max(self.target_recall, self.min_recall))


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
    """An index that was built and measured.

    Attributes:
        index: The index.
        form: Its backend.
        m: Links per node.
        ef: Beam width.
        shares: [B] float64, what each user gets of the exact list, with the weights on.
        seconds: Wall-clock time of the build.
    """

    index: ItemIndex
    form: str
    m: int
    ef: int
    shares: npt.NDArray[np.float64]
    seconds: float

    @property
    def recall(self) -> float:
        """Mean over users."""
        return float(self.shares.mean())

    def __str__(self) -> str:
        """For messages."""
        return f"{self.recall:.3f} in the form {self.form} with {self.m} links at ef {self.ef}"


def num_below_half(shares: npt.NDArray[np.float64]) -> int:
    """Users who get less than half of their exact list, by what each gets: [B]."""
    return int(np.count_nonzero(shares < 0.5))


class Catalogue(NamedTuple):
    """What an index is built over."""

    ranked: npt.NDArray[np.float32]
    """[N, D] item vectors times the weights."""
    left_out: Items
    """[W] rows that are withdrawn."""
    equals: Rows
    """[E, 2] items with the vector of an earlier one, see `serving.retrieval.distinct`."""
    spread: float
    """Standard deviation of the log weights."""
    is_weighted: bool
    """Whether there are weights."""

    @property
    def num_items(self) -> int:
        """Items that are offered."""
        return len(self.ranked) - len(self.left_out)


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
        from serving.retrieval.distinct import equal_items
        from serving.retrieval.eligible import NO_ITEMS, WITHDRAWN_FILE, load_withdrawn
        from serving.retrieval.index import IndexReport
        from serving.retrieval.index_recall import ExactLists
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
        equals = equal_items(ranked, left_out)
        catalogue = Catalogue(ranked, left_out, equals, spread, weights is not None)
        asked = self._asked(read_vectors(users))
        lists = ExactLists.of(ranked, query_embeddings=asked, k=settings.k, left_out=left_out)
        best = self._best(catalogue, lists)
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
            ef=best.ef,
            num_queries=len(asked),
            size_bytes=(out / INDEX_FILE).stat().st_size,
            build_seconds=best.seconds,
            form=best.form,
            weight_spread=spread,
            parts=settings.parts,
            m=best.m,
            num_vectors=catalogue.num_items - len(equals),
            num_below_half=num_below_half(best.shares),
            num_interests=asked.shape[1] // vectors.shape[1],
        )
        (out / REPORT_FILE).write_text(json_text(dataclasses.asdict(report), indent=2))
        yield str(out / REPORT_FILE)

    def _asked(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(self._settings.seed)
        return queries[rng.choice(len(queries), min(len(queries), self._settings.num_queries), replace=False)]

    def _best(self, catalogue: Catalogue, lists: ExactLists) -> Candidate:
        """The first index that finds enough, or the best of all that were tried if it may be used.

        Raises:
            IndexRefusedError: None may be used.
        """
        from serving.retrieval.weights import FORMS, MIN_LINKS, choose_form

        settings = self._settings
        first = settings.form or choose_form(catalogue.spread)
        forms = [first]
        if settings.form is None and catalogue.is_weighted:
            forms += [form for form in FORMS if form != first]
        m = max(settings.m, MIN_LINKS if catalogue.is_weighted else 0)
        tried: list[Candidate] = []
        for links in (m, 2 * m):
            for form in forms:
                tried.append(self._build(form, links, catalogue, lists))
                if settings.is_enough(tried[-1].shares):
                    return tried[-1]
            forms = [max(tried, key=lambda candidate: candidate.recall).form]
        if settings.form is None and catalogue.ranked.size <= EXACT_NUMBERS:
            return self._build(EXACT, m, catalogue, lists)
        best = max(tried, key=lambda candidate: candidate.recall)
        if best.recall < settings.min_recall:
            raise IndexRefusedError(_refusal(settings, catalogue, tried, best))
        return best

    def _build(self, form: str, m: int, catalogue: Catalogue, lists: ExactLists) -> Candidate:
        """Builds an index and measures it with one beam after the other until it finds enough."""
        from serving.retrieval.distinct import build_index
        from serving.retrieval.weights import MIN_EF_CONSTRUCTION

        settings = self._settings
        started = time.perf_counter()
        index = build_index(
            form,
            catalogue.ranked,
            m=m,
            ef_construction=max(settings.ef_construction, MIN_EF_CONSTRUCTION if catalogue.is_weighted else 0),
            seed=settings.seed,
            left_out=catalogue.left_out,
            equals=catalogue.equals,
        )
        seconds = time.perf_counter() - started
        ef, *wider = settings.beams
        shares = lists.shares(index, ef=ef)
        while wider and not settings.is_enough(shares):
            ef, *wider = wider
            shares = lists.shares(index, ef=ef)
        return Candidate(index, form, m, ef, shares, seconds)


def _refusal(settings: IndexSettings, catalogue: Catalogue, tried: list[Candidate], best: Candidate) -> str:
    """What was tried, and what has not been."""
    advice = []
    if settings.ef_search is not None:
        advice.append(f"set index.ef_search ({settings.ef_search}) to null, which tries beams up to {BEAMS[-1]}")
    if settings.form is not None:
        advice.append(f"set index.form ({settings.form}) to null, which tries others, or to {EXACT}")
    else:
        advice.append(f"set index.form to {EXACT}, which finds everything and takes longer with each item")
    if catalogue.is_weighted:
        advice.append("lower index.weight_power")
    advice.append(f"raise index.ef_construction ({settings.ef_construction}) or index.m ({settings.m})")
    advice.append("or lower index.min_recall")
    num_vectors = catalogue.num_items - len(catalogue.equals)
    return (
        f"the index over {catalogue.num_items:,} items with {num_vectors:,} distinct vectors has recall@{settings.k} "
        f"{', '.join(map(str, tried))}, expected at least {settings.min_recall}; {num_below_half(best.shares):,} of "
        f"{len(best.shares):,} users get less than half of their exact list; the spread of the log weights is "
        f"{catalogue.spread:.2f}; {', '.join(advice)}"
    )


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
