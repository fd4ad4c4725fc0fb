"""Builds the sparse index: Beam jobs over blocks of items, for their terms, and over users, for the terms they have.

An element is a range of rows, thousands of items or hundreds of users. Shape letters: U users, N items, T terms.
"""

from __future__ import annotations

import functools
import operator
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from apache_beam.options.pipeline_options import PipelineOptions

from artefacts.files import all_files, json_text
from beam_jobs.embed import WriteNumbered
from features.encoding import Encoder
from serving.retrieval.purchases import Purchases
from serving.sparcode.postings import catalogue_digest
from serving.sparse.bm25 import BuyerCounts, Scoring, count_buyers
from serving.sparse.fields import Field
from serving.sparse.index import About, SparseIndex, SparseReport
from serving.sparse.terms import count_terms, terms_of

ITEM_BLOCK, USER_BLOCK = 8192, 256


class TermsOfBlock(beam.DoFn):  # type: ignore[misc]
    """Number of a block of items -> that number and an Arrow table of their terms."""

    def __init__(self, items: Path, fields: tuple[Field, ...]) -> None:
        """Takes the path; the table is loaded by the worker."""
        self._items, self._fields = str(items), fields

    def setup(self) -> None:
        """Reads the columns of the fields, once a worker."""
        columns = list(dict.fromkeys(field.column for field in self._fields))
        self._table = pq.read_table(self._items, columns=columns)

    def process(self, number: int) -> Iterator[tuple[int, pa.Table]]:
        """Takes the terms of one block."""
        begin = number * ITEM_BLOCK
        yield number, terms_of(self._table.slice(begin, ITEM_BLOCK), self._fields, first_row=begin)


class CountBlock(beam.DoFn):  # type: ignore[misc]
    """Number of a block of users -> how they have terms."""

    def __init__(
        self, pairs: Path, encoder: Path, counts: Path, scoring: Scoring, expands: npt.NDArray[np.bool_]
    ) -> None:
        """Takes paths; everything is loaded by the worker."""
        self._pairs, self._encoder, self._counts = str(pairs), str(encoder), str(counts)
        self._scoring, self._expands = scoring, expands

    def setup(self) -> None:
        """Loads the pairs and the terms of items, once a worker."""
        encoder = Encoder.load(Path(self._encoder))
        self._met = Purchases.from_pairs(Path(self._pairs), user_ids=encoder.user_ids, item_ids=encoder.item_ids)
        self._terms = sp.csr_array(sp.load_npz(self._counts))

    def process(self, number: int) -> Iterator[BuyerCounts]:
        """Counts for one block; user row 0, the unknown user, is in none."""
        begin = 1 + number * USER_BLOCK
        users = np.arange(begin, min(begin + USER_BLOCK, self._met.num_users))
        yield count_buyers(self._met.of(users).csr(), self._terms, self._scoring, expands=self._expands)


def add_counts(parts: Iterable[BuyerCounts | None]) -> BuyerCounts | None:
    """The counts of several groups of users together; None of no group."""
    found = [part for part in parts if part is not None]
    return functools.reduce(operator.add, found) if found else None


class WriteCounts(beam.DoFn):  # type: ignore[misc]
    """Counts of all users -> path of the file."""

    def __init__(self, path: Path) -> None:
        """Takes the path."""
        self._path = str(path)

    def process(self, counts: BuyerCounts | None) -> Iterator[str]:
        """Writes them; users of a block, without a file, there are none."""
        if counts is not None:
            together = counts.together.tocsr()
            plain = {name: value for name, value in vars(counts).items() if name != "together"}
            parts = {"data": together.data, "indices": together.indices, "indptr": together.indptr}
            with open(self._path, "wb") as file:
                np.savez(file, allow_pickle=False, **plain, **parts)
            yield self._path


def read_counts(path: Path) -> BuyerCounts:
    """Reads what the job has counted."""
    with np.load(path, allow_pickle=False) as kept:
        num_terms = len(kept["having"])
        together = sp.csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=(num_terms, num_terms))
        num_users = int(kept["num_users"])
        return BuyerCounts(num_users, kept["bought"], kept["bought_again"], kept["having"], together)


def run(
    *,
    items: Path,
    pairs: Path,
    encoder: Path,
    fields: tuple[Field, ...],
    scoring: Scoring,
    half_life_days: float | None,
    saturation: float,
    out: Path,
    options: PipelineOptions,
) -> SparseReport:
    """Runs the job; writes the index into `out`, which is made, and its report next to it.

    Args:
        items: The canonical table of items, by row of the catalogue.
        pairs: Pairs of users and items that met before the cut; read where weights or expansion are learned.
        encoder: Folder of the encoder, whose items these are.
        fields: What gives terms.
        scoring: How terms are weighed.
        half_life_days: Of the items of a history.
        saturation: Of the query of a history.
        out: Folder of the index.
        options: Of the pipeline.

    Raises:
        ValueError: The items are not those of the encoder.
    """
    ids = Encoder.load(encoder)
    item_ids = ids.item_ids.ids(np.arange(1, len(ids.item_ids)))
    if pq.read_table(items, columns=["item_id"]).column(0).to_pylist() != list(item_ids):
        raise ValueError(f"{items}: items are not those of {encoder} in its order; run the train step again")
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    blocks = -(-len(item_ids) // ITEM_BLOCK)
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "blocks" >> beam.Create(range(blocks)) | "spread" >> beam.Reshuffle()
        tables = tables | "terms" >> beam.ParDo(TermsOfBlock(items, fields))
        _ = tables | "write" >> beam.ParDo(WriteNumbered(work / "terms", total=blocks))
    found = pq.read_table(all_files(work, advice="run the index step again"))
    vocabulary, counts = count_terms(found, fields, num_items=len(item_ids))
    buyers = None
    if scoring.needs_buyers:
        sp.save_npz(work / "counts.npz", counts, compressed=False)
        count = CountBlock(pairs, encoder, work / "counts.npz", scoring, vocabulary.weights > 0)
        blocks = -(-(len(ids.user_ids) - 1) // USER_BLOCK)
        with beam.Pipeline(options=options) as pipeline:
            users = pipeline | "users" >> beam.Create(range(blocks)) | "spread" >> beam.Reshuffle()
            total = users | "count" >> beam.ParDo(count) | "add" >> beam.CombineGlobally(add_counts)
            _ = total | "write" >> beam.ParDo(WriteCounts(work / "buyers.npz"))
        buyers = read_counts(work / "buyers.npz")
    about = About(catalogue_digest(item_ids), fields, scoring, half_life_days, saturation)
    index = SparseIndex.build(about, vocabulary, counts, buyers)
    index.save(out)
    report = index.report(out)
    out.with_suffix(".json").write_text(json_text(asdict(report), indent=2), encoding="utf-8")
    shutil.rmtree(work)
    return report
