"""A server process imports neither TensorFlow nor Beam nor Feast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "tensorflow", "tf_keras", "keras", "apache_beam", "feast", "dask", "duckdb", "ibis", "sqlalchemy", "matplotlib",
    "towers", "training", "beam_jobs",
)  # fmt: skip


MODULES = (
    "features.store",
    "serving.web.app",
    "serving.web.server",
    "serving.arms",
    "serving.exposures.log",
    "serving.recommender",
    "serving.bundles.publish",
    "serving.bundles.folder",
    "serving.open",
)
# One process: what a module loads is still there after the next one.
LOADS = f"""
import importlib, sys

for module in {MODULES}:
    importlib.import_module(module)
    loaded = sorted(set({HEAVY}) & set(sys.modules))
    assert not loaded, f"{{module}} loads {{loaded}}"
"""


def test_serving_loads_neither_tensorflow_nor_beam_nor_feast() -> None:
    ran = subprocess.run([sys.executable, "-c", LOADS], cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
