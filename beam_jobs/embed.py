"""Embeds every item, or every user, at one moment: a Beam job over blocks of the catalogue.

An element is one row group of the features file: thousands of rows, never one. The exported tower runs without
TensorFlow. Shape letters: B rows of a block, D vector width.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from features.encoding import Encoder, moments_of
from features.schema import Tower
from serving.retrieval.vectors import vector_schema

if TYPE_CHECKING:
    from serving.retrieval.exported_tower import ExportedTower


class WriteNumbered(beam.DoFn):  # type: ignore[misc]
    """(number, Arrow table) -> path of `<prefix>-<number>-of-<total>.parquet`, one row group.

    Args:
        prefix: Folder, which exists, and beginning of the names.
        total: Number of tables of the whole job: names promise them, so that a reader notices what is missing.
    """

    def __init__(self, prefix: Path, *, total: int) -> None:
        """Takes what the names are made of."""
        self._prefix, self._total = str(prefix), total

    def process(self, element: tuple[int, pa.Table]) -> Iterator[str]:
        """Writes one table; a name appears only with the whole file behind it."""
        number, table = element
        path = f"{self._prefix}-{number:05d}-of-{self._total:05d}.parquet"
        unfinished = f"{path}.{uuid.uuid4().hex}"
        pq.write_table(table, unfinished, compression="zstd", row_group_size=max(table.num_rows, 1))
        os.replace(unfinished, path)
        yield path


class EmbedBlock(beam.DoFn):  # type: ignore[misc]
    """Number of a row group -> that number and an Arrow table of vectors."""

    def __init__(self, features: Path, encoder: Path, tower_file: Path, *, tower: Tower) -> None:
        """Takes paths; everything is loaded by the worker."""
        self._features = str(features)
        self._encoder_path = str(encoder)
        self._tower_file = str(tower_file)
        self._tower: Tower = tower

    def setup(self) -> None:
        """Loads encoder and tower, once a worker."""
        from serving.retrieval.exported_tower import ExportedTower

        self._encoder = Encoder.load(Path(self._encoder_path))
        self._model: ExportedTower = ExportedTower(Path(self._tower_file))
        self._file = pq.ParquetFile(self._features)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def process(self, group: int) -> Iterator[tuple[int, pa.Table]]:
        """Encodes and embeds one block."""
        raw = self._file.read_row_group(group)
        encode = self._encoder.encode_users if self._tower == "user" else self._encoder.encode_items
        vectors = self._model.embed(encode(raw, as_of_seconds=moments_of(raw)))
        rows = np.arange(self._starts[group], self._starts[group] + raw.num_rows)
        schema = vector_schema(vectors.shape[1])
        table = pa.table(
            [pa.array(rows), pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])], schema=schema
        )
        yield group, table


class Embed(beam.PTransform):  # type: ignore[misc]
    """Numbers of row groups -> the same with Arrow tables of vectors."""

    def __init__(self, features: Path, encoder: Path, tower_file: Path, *, tower: Tower) -> None:
        """Takes what `EmbedBlock` takes."""
        super().__init__()
        self._block = EmbedBlock(features, encoder, tower_file, tower=tower)

    def expand(self, groups: beam.PCollection) -> beam.PCollection:
        """Builds the graph."""
        return groups | "spread" >> beam.Reshuffle() | "embed" >> beam.ParDo(self._block)


def run(transform: Embed, features: Path, *, out: Path, options: PipelineOptions) -> None:
    """Runs the job; writes `<out>/vectors-*.parquet`, a file for each row group; `out` is made where it is missing."""
    groups = list(range(pq.ParquetFile(features).num_row_groups))
    out.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=options) as pipeline:
        tables = pipeline | "row groups" >> beam.Create(groups) | transform
        _ = tables | "write" >> beam.ParDo(WriteNumbered(out / "vectors", total=len(groups)))
