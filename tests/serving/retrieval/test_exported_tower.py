"""Vectors from exported towers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.retrieval.exported_tower import ExportedTower

Inputs = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def tower(exported: Path) -> ExportedTower:
    return ExportedTower(exported / "user_tower.tflite")


@pytest.fixture(scope="module")
def inputs(exported: Path) -> Inputs:
    with np.load(exported / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name != "embeddings"}


def test_vectors_are_those_of_the_trained_tower(tower: ExportedTower, inputs: Inputs, exported: Path) -> None:
    found = tower.embed(inputs)
    with np.load(exported / "expected.npz") as arrays:
        np.testing.assert_allclose(found, arrays["embeddings"], atol=1e-6)
    assert found.shape == (5, tower.dimension)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_one_row_alone_is_the_same_as_in_a_batch(tower: ExportedTower, inputs: Inputs) -> None:
    together = tower.embed(inputs)
    for row in range(5):
        alone = tower.embed({name: values[row : row + 1] for name, values in inputs.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_no_user_gives_no_vector(tower: ExportedTower, inputs: Inputs) -> None:
    assert tower.embed({name: values[:0] for name, values in inputs.items()}).shape == (0, tower.dimension)


def test_threads_share_one_tower(tower: ExportedTower, inputs: Inputs) -> None:
    expected = tower.embed(inputs)

    def embed(size: int) -> bool:
        found = tower.embed({name: values[:size] for name, values in inputs.items()})
        return bool(np.allclose(found, expected[:size], atol=1e-6))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(embed, [1, 2, 3, 4, 5] * 40))


def test_a_process_that_runs_towers_says_nothing_and_keeps_its_standard_error(exported: Path) -> None:
    code = f"""
import sys
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from serving.retrieval.exported_tower import ExportedTower
with np.load({str(exported / "expected.npz")!r}) as arrays:
    inputs = {{name: arrays[name] for name in arrays.files if name != "embeddings"}}
towers = [ExportedTower(Path({str(exported / "user_tower.tflite")!r})) for _ in range(4)]
with ThreadPoolExecutor(4) as pool:
    print(sum(len(found) for found in pool.map(lambda tower: tower.embed(inputs), towers)))
print("still there", file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("20\n", "still there\n")


def test_inputs_that_are_not_the_towers_are_refused(tower: ExportedTower, inputs: Inputs) -> None:
    fewer = {name: values for name, values in inputs.items() if name != "age"}
    with pytest.raises(ValueError, match=r"missing inputs \['age'\], unknown inputs \['wage'\]"):
        tower.embed(fewer | {"wage": inputs["age"]})
    with pytest.raises(ValueError, match="'age' has dtype int64, expected int32"):
        tower.embed(inputs | {"age": inputs["age"].astype(np.int64)})
    with pytest.raises(ValueError, match=r"'user_history' has shape \[5, 3\], expected \[5, 4\]"):
        tower.embed(inputs | {"user_history": inputs["user_history"][:, :3]})
    assert tower.embed(inputs).shape == (5, tower.dimension)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "user_tower.tflite").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"user_tower\.tflite: not a LiteRT model"):
        ExportedTower(tmp_path / "user_tower.tflite")
