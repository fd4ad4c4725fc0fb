"""Results that are made once for all processes of a test session, in folders that they share."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Result = TypeVar("Result")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Result]) -> Result:
    """What `make` returned to the first process of the session that asked; the others wait for it.

    Args:
        factory: Of temporary folders, which under pytest-xdist lie side by side below the session's own.
        name: Of the result, unique in the session.
        make: Given an empty folder, returns something that can be pickled, paths in the folder for instance. What is
            in the folder is read by others at the same time: copy it before it is changed.
    """
    base = factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, result = session / f"shared-{name}", session / f"shared-{name}.pickle"
    with (session / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(result.read_bytes())  # type: ignore[no-any-return]
