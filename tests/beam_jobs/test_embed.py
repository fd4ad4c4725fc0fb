"""Every row of a catalogue has the vector of its tower, for any block boundaries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tf_keras
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import BeamAssertException, assert_that

from beam_jobs.embed import Embed, run
from features.encoding import Encoder, Inputs
from features.ids import IdMap
from features.numbers import numeric_names
from features.schema import ENTITY_KEY, TOWERS, Schema, Tower, view_schema
from serving.retrieval.vectors import read_vectors, vector_schema
from training.export import export_tower

NOW = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
NUM_ROWS, DIMENSION, DAY = 23, 6, 86_400
Vectors = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def encoder(schema: Schema) -> Encoder:
    return Encoder(
        schema=schema,
        user_ids=IdMap([f"user{number}" for number in range(NUM_ROWS - 3)]),
        item_ids=IdMap([f"item{number}" for number in range(NUM_ROWS - 3)]),
        vocabularies={"age": IdMap(["old", "young"]), "aisle": IdMap(["ice cream", "tea"])},
        scaling={name: (1.5, 2.5) for tower in TOWERS for name in numeric_names(schema, tower)},
        history_length=4,
        text_length=5,
        text_buckets=50,
    )


@pytest.fixture(scope="module")
def catalogues(schema: Schema) -> dict[Tower, pa.Table]:
    """Rows with numbers, lists and nulls drawn at random; three of each side are newer than the encoder."""
    rng = np.random.default_rng(9)

    def column(kind: pa.DataType) -> list[object]:
        if pa.types.is_list(kind):
            values: list[object] = [f"item{place}" for place in range(7)]
            if not pa.types.is_string(kind.value_type):
                values = [int(NOW.timestamp()) - place * DAY for place in range(7)]
            return [values[: row % 7] for row in range(NUM_ROWS)]
        if pa.types.is_string(kind):
            return rng.choice(np.array(["tea", "ice cream", "old", None, "new"], dtype=object), NUM_ROWS).tolist()
        if pa.types.is_floating(kind):
            return rng.gamma(1.0, size=NUM_ROWS).tolist()
        return rng.integers(0, 50, NUM_ROWS).tolist()

    made: dict[Tower, pa.Table] = {}
    for tower in TOWERS:
        fields = view_schema(schema, tower)
        ids = pa.array([f"{tower}{number}" for number in range(NUM_ROWS)])
        moments = pa.array([NOW] * NUM_ROWS, pa.timestamp("us", tz="UTC"))
        made[tower] = pa.table(
            [ids, moments, *(pa.array(column(field.type), field.type) for field in fields)],
            names=[ENTITY_KEY[tower], "event_timestamp", *fields.names],
        )
    return made


def encoded(encoder: Encoder, tower: Tower, raw: pa.Table) -> Inputs:
    as_of = np.full(raw.num_rows, int(NOW.timestamp()))
    encode = encoder.encode_users if tower == "user" else encoder.encode_items
    return encode(raw, as_of_seconds=as_of)


def keras_tower(encoder: Encoder, tower: Tower) -> tf_keras.Model:
    """Every input moves the vector: embeddings averaged over their axis, numbers as they are, one dense layer."""
    tf_keras.utils.set_random_seed(11)
    specs = encoder.input_specs(tower)
    inputs = {
        spec.name: tf_keras.Input(() if spec.length is None else (spec.length,), dtype=spec.dtype, name=spec.name)
        for spec in specs
    }
    parts = []
    for spec in specs:
        part = inputs[spec.name]
        if spec.num_rows:
            part = tf_keras.layers.Embedding(spec.num_rows, 4, embeddings_initializer="normal")(part)
        parts.append(tf.reduce_mean(part, axis=1) if len(part.shape) == 3 else part)
    joined = tf_keras.layers.Dense(DIMENSION)(tf.concat(parts, axis=1))
    return tf_keras.Model(inputs, tf.math.l2_normalize(joined, axis=-1))


@pytest.fixture(scope="module")
def models(encoder: Encoder) -> dict[Tower, tf_keras.Model]:
    return {tower: keras_tower(encoder, tower) for tower in TOWERS}


@pytest.fixture(scope="module")
def exported(encoder: Encoder, models: dict[Tower, tf_keras.Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    encoder.save(folder / "encoder")
    for tower, model in models.items():
        export_tower(model, folder / f"{tower}_tower.tflite")
    return folder


@pytest.fixture(scope="module")
def embed(
    exported: Path, catalogues: dict[Tower, pa.Table], options: PipelineOptions
) -> Callable[[Tower, Path, int], Vectors]:
    def embed(tower: Tower, folder: Path, block_rows: int) -> Vectors:
        features, out = folder / f"{tower}s.parquet", folder / "vectors"
        pq.write_table(catalogues[tower], features, row_group_size=block_rows)
        transform = Embed(features, exported / "encoder", exported / f"{tower}_tower.tflite", tower=tower)
        run(transform, features, out=out, options=options)
        return read_vectors(out)

    return embed


@pytest.mark.parametrize("tower", TOWERS)
def test_every_row_has_the_vector_of_the_keras_tower_in_order(
    tower: Tower,
    encoder: Encoder,
    models: dict[Tower, tf_keras.Model],
    catalogues: dict[Tower, pa.Table],
    embed: Callable[..., Vectors],
    tmp_path: Path,
) -> None:
    vectors = embed(tower, tmp_path, 5)
    expected = models[tower](encoded(encoder, tower, catalogues[tower])).numpy()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert len(np.unique(expected.round(4), axis=0)) == NUM_ROWS


@pytest.mark.parametrize("block_rows", [1, 8, NUM_ROWS])
def test_vectors_do_not_depend_on_where_blocks_begin(
    block_rows: int, embed: Callable[..., Vectors], tmp_path: Path
) -> None:
    (tmp_path / "fives").mkdir()
    (tmp_path / "other").mkdir()
    np.testing.assert_allclose(
        embed("user", tmp_path / "other", block_rows), embed("user", tmp_path / "fives", 5), atol=1e-6
    )


def test_the_transform_gives_a_table_for_each_block(
    exported: Path, catalogues: dict[Tower, pa.Table], options: PipelineOptions, tmp_path: Path
) -> None:
    features = tmp_path / "items.parquet"
    pq.write_table(catalogues["item"], features, row_group_size=8)
    transform = Embed(features, exported / "encoder", exported / "item_tower.tflite", tower="item")

    def are_blocks(numbered: list[tuple[int, pa.Table]]) -> None:
        tables = [table for _, table in sorted(numbered, key=lambda pair: pair[0])]
        rows = [table.column("row").to_pylist() for table in tables]
        if rows != [list(range(8)), list(range(8, 16)), list(range(16, NUM_ROWS))]:
            raise BeamAssertException(f"blocks have the rows {rows}")
        if not all(table.schema.equals(vector_schema(DIMENSION)) for table in tables):
            raise BeamAssertException(f"blocks have the schemas {[table.schema for table in tables]}")

    with test_pipeline.TestPipeline(options=options) as pipeline:
        assert_that(pipeline | beam.Create([0, 1, 2]) | transform, are_blocks)


def write_vectors(path: Path, rows: list[int]) -> None:
    vectors = [[float(row)] * 2 for row in rows]
    pq.write_table(pa.table({"row": rows, "vector": vectors}, schema=vector_schema(2)), path)


def test_vectors_are_read_in_the_order_of_their_rows_from_any_number_of_files(tmp_path: Path) -> None:
    write_vectors(tmp_path / "vectors-00000-of-00002.parquet", [3, 0])
    write_vectors(tmp_path / "vectors-00001-of-00002.parquet", [2, 1])
    assert read_vectors(tmp_path).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("rows", [[0, 2], [0, 1, 1], [1, 2], [0, 0]])
def test_a_missing_or_doubled_row_is_refused(rows: list[int], tmp_path: Path) -> None:
    write_vectors(tmp_path / "vectors-00000-of-00001.parquet", rows)
    with pytest.raises(ValueError, match=rf"rows are not 0 to {len(rows) - 1}, each once; run the embedding job again"):
        read_vectors(tmp_path)


def test_a_missing_last_file_is_refused_although_its_rows_leave_no_gap(tmp_path: Path) -> None:
    write_vectors(tmp_path / "vectors-00000-of-00002.parquet", [0, 1])
    with pytest.raises(ValueError, match=r"has 1 of 2 files; run the embedding job again"):
        read_vectors(tmp_path)


def test_a_folder_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 0 of 1 files"):
        read_vectors(tmp_path)
