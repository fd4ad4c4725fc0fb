"""A server process imports neither TensorFlow nor Beam nor Feast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "tensorflow", "tf_keras", "keras", "apache_beam", "feast", "dask", "duckdb", "ibis", "sqlalchemy", "matplotlib",
    "towers", "training", "beam_jobs",
)  # fmt: skip


@pytest.mark.parametrize(
    "module",
    [
        "features.store",
        "serving.web.app",
        "serving.web.server",
        "serving.arms",
        "serving.exposures.log",
        "serving.recommender",
        "serving.bundles.publish",
        "serving.bundles.retention",
        "serving.open",
    ],
)
def test_serving_loads_neither_tensorflow_nor_beam_nor_feast(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
