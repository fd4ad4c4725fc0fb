"""Exports small user towers over a saved encoder's inputs: `python export_for_tests.py FOLDER DIMENSION`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from features.encoding import Encoder
from towers.history import self_attention
from towers.two_tower import build_two_tower
from training.export import export_tower

NUM_EXAMPLES = 5


def main() -> None:
    """Writes the models and what Keras computes for some inputs."""
    folder, dimension = Path(sys.argv[1]), int(sys.argv[2])
    specs = Encoder.load(folder / "encoder").input_specs("user")
    tf_keras.utils.set_random_seed(11)
    inputs = {
        spec.name: tf_keras.Input(() if spec.length is None else (spec.length,), dtype=spec.dtype, name=spec.name)
        for spec in specs
    }
    parts = []
    for spec in specs:
        part = tf_keras.layers.Embedding(spec.num_rows, 4)(inputs[spec.name]) if spec.num_rows else inputs[spec.name]
        parts.append(tf.reduce_mean(part, axis=1) if len(part.shape) == 3 else part)
    joined = tf.concat(parts, axis=1)
    models = {
        name: tf_keras.Model(inputs, tf.math.l2_normalize(tf_keras.layers.Dense(width)(joined), axis=-1))
        for name, width in (("user_tower", dimension), ("narrow", 4))
    }
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as saved:
            model.export(saved)
            (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())
    generator = np.random.default_rng(5)
    (folder / "sequence.tflite").write_bytes(sequence(folder, dimension))
    examples = {}
    for spec in specs:
        shape = (NUM_EXAMPLES,) if spec.length is None else (NUM_EXAMPLES, spec.length)
        values = generator.integers(0, spec.num_rows, shape) if spec.num_rows else generator.normal(size=shape)
        examples[spec.name] = values.astype(spec.dtype)
    expected = {"embeddings": models["user_tower"](examples).numpy(), **examples}
    np.savez(folder / "expected.npz", allow_pickle=False, **expected)


def sequence(folder: Path, dimension: int) -> bytes:
    """A user tower whose history is encoded by self-attention, with weights as if it had been trained."""
    encoder = Encoder.load(folder / "encoder")
    specs = encoder.input_specs("user"), encoder.input_specs("item")
    tower = build_two_tower(*specs, embedding_dim=dimension, history=self_attention(heads=2), num_positions=2).user
    weights = np.random.default_rng(6)
    tower.set_weights([weights.normal(0, 0.5, weight.shape) for weight in tower.get_weights()])
    with tempfile.TemporaryDirectory() as written:
        export_tower(tower, Path(written) / "tower.tflite")
        return (Path(written) / "tower.tflite").read_bytes()


if __name__ == "__main__":
    main()
