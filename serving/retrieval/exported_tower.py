"""Exported towers: vectors of users or items, without TensorFlow.

B users, D vector width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

SIGNATURE = "serving_default"

Array = npt.NDArray[Any]
_FIRST_ALLOCATION, _HAS_ALLOCATED = threading.Lock(), threading.Event()


@contextmanager
def _quietly() -> Iterator[None]:
    """No standard error at the first allocation of a process: LiteRT's delegate announces itself there, once."""
    if _HAS_ALLOCATED.is_set():
        yield
        return
    with _FIRST_ALLOCATION:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
            _HAS_ALLOCATED.set()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


class ExportedTower:
    """A LiteRT model; several threads may share one, a lock lets one of them in at a time.

    A user takes microseconds, so that the lock costs less than an interpreter for every thread would.

    Args:
        path: The `.tflite` file.

    Raises:
        ValueError: The file is no such model, or its signature does not give one [B, D] float32 output.
    """

    def __init__(self, path: Path) -> None:
        """Reads the model and its signature."""
        try:
            # Given as bytes: the file would be mapped, and kill the process where it is cut short in place.
            self._interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
            # Not kept: while a runner lives, the interpreter refuses to resize its inputs.
            runner = self._interpreter.get_signature_runner(SIGNATURE)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: not a LiteRT model with the signature {SIGNATURE!r}: {error}") from None
        self._inputs: dict[str, dict[str, Any]] = runner.get_input_details()
        outputs = list(runner.get_output_details().values())
        shapes = [output["shape_signature"].tolist() for output in outputs]
        if len(outputs) != 1 or len(shapes[0]) != 2 or shapes[0][1] < 1 or outputs[0]["dtype"] is not np.float32:
            raise ValueError(f"{path}: gives outputs of shapes {shapes}, expected one [B, D] float32; export it again")
        self.dimension: int = shapes[0][1]
        """D."""
        self._output_index: int = outputs[0]["index"]
        self._num_rows: int | None = None
        self._lock = threading.Lock()

    @property
    def input_names(self) -> frozenset[str]:
        """Names of the arrays that `embed` takes."""
        return frozenset(self._inputs)

    def embed(self, inputs: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Vectors of users.

        Args:
            inputs: By name, exactly the model's inputs, each with first axis B and the model's dtype.

        Returns:
            [B, D] float32.

        Raises:
            ValueError: A name, dtype or shape is not the model's.
        """
        num_rows = self._check(inputs)
        if not num_rows:
            return np.empty((0, self.dimension), np.float32)
        with self._lock:
            if num_rows != self._num_rows:
                self._resize(num_rows)
            for name, value in inputs.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], value)
            self._interpreter.invoke()
            embeddings: npt.NDArray[np.float32] = self._interpreter.get_tensor(self._output_index)
        return embeddings

    def _resize(self, num_rows: int) -> None:
        self._num_rows = None  # stays so if the allocation fails halfway
        for details in self._inputs.values():
            shape = [num_rows, *details["shape_signature"][1:].tolist()]
            self._interpreter.resize_tensor_input(details["index"], shape)
        with _quietly():
            self._interpreter.allocate_tensors()
        self._num_rows = num_rows

    def _check(self, inputs: Mapping[str, Array]) -> int:
        if inputs.keys() != self._inputs.keys():
            missing, unknown = sorted(self._inputs.keys() - inputs.keys()), sorted(inputs.keys() - self._inputs.keys())
            raise ValueError(
                f"tower: missing inputs {missing}, unknown inputs {unknown}; "
                "encoder and tower come from different runs, load both from one bundle"
            )
        num_rows = len(next(iter(inputs.values())))
        for name, details in self._inputs.items():
            value, inner = inputs[name], details["shape_signature"][1:].tolist()
            if value.dtype != details["dtype"]:
                expected = np.dtype(details["dtype"])
                raise ValueError(f"tower: input {name!r} has dtype {value.dtype}, expected {expected}")
            if list(value.shape) != [num_rows, *inner]:
                raise ValueError(f"tower: input {name!r} has shape {list(value.shape)}, expected {[num_rows, *inner]}")
        return num_rows
