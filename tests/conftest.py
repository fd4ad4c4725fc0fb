"""Settings of every test: Keras 2, quiet logs, fixed seeds, no randomness in continuous integration."""

import os

# Read once by TensorFlow, before its first import; also inherited by the processes that tests start.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Plots are drawn into files.
os.environ.setdefault("MPLBACKEND", "Agg")

import logging
import random
import sys

import numpy as np
import prometheus_client  # noqa: F401  Before Feast, whose import has all that is counted later shared among processes.
import pytest
from hypothesis import settings

from artefacts import secrets

SEED = 20171201

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

for library in ("absl", "apache_beam", "feast", "h5py", "matplotlib", "tensorflow"):
    logging.getLogger(library).setLevel(logging.ERROR)


# Files that take longest, the longest first, so that processes end together. Neighbours here need different worlds:
# neither process waits for what the other one is making.
FIRST = (
    "test_killed_nights.py",
    "test_ablate.py",
    "test_nights.py",
    "test_daily_runs.py",
    "test_sparcode_nights.py",
    "test_methods_served.py",
    "test_forget.py",
    "test_ab.py",
    "test_benchmark_time.py",
    "test_sparcode_served.py",
    "test_movielens.py",
    "test_methods.py",
    "test_workers.py",
    "test_openapi.py",
    "test_store_down.py",
    "test_distribution.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of long files before the others."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that a test read are taken out of its own messages, not of those of the tests after it."""
    monkeypatch.setattr(secrets, "_read", set())


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Gives every test the same random numbers, whichever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(SEED)
