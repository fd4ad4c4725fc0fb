"""Runs a command whose process gets no more than some bytes of memory once a step begins.

    python short_of_memory_for_tests.py STEP BYTES daily --config ...

The step's libraries are imported before it begins: what an import says that runs out of memory depends on where it was.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from artefacts import steps
from artefacts.console import quiet_libraries
from twinspire.cli import main as command

KIBIBYTE = 1024


def main() -> None:
    name, room = sys.argv[1], int(sys.argv[2])
    sys.argv = ["twinspire", *sys.argv[3:]]
    quiet_libraries()
    import apache_beam  # noqa: F401
    import feast.infra.offline_stores.duckdb  # noqa: F401

    run = steps.run_step

    def run_short(step: Any) -> Any:
        if step.name == name:
            limit = _held() + room
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        return run(step)

    steps.run_step = run_short
    command()


def _held() -> int:
    """Bytes that the process's data takes now, as the limit counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith("VmData:"))


if __name__ == "__main__":
    main()
