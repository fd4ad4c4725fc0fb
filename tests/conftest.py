"""What holds for every test? Keras 2, quiet logs, fixed seeds, no randomness in the continuous integration."""

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

SEED = 20171201

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

for library in ("absl", "apache_beam", "feast", "h5py", "matplotlib", "tensorflow"):
    logging.getLogger(library).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Gives every test the same random numbers, whichever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(SEED)
