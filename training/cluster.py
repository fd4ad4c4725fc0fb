"""Which processes fit together, and which of them is this one? What the environment variable TF_CONFIG says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
"""What the first of two processes is given."""


@dataclass(frozen=True)
class Cluster:
    """Processes that fit together, one on each machine or GPU.

    Attributes:
        number: Of this process, from 0: the chief, which writes what is made.
        size: How many there are.
    """

    number: int
    size: int

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what is made."""
        return self.number == 0


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that TF_CONFIG describes: a chief or none, and workers, the first of which is the chief without one.

    Args:
        environment: The environment variables.

    Returns:
        None where the variable is not set.

    Raises:
        ValueError: It is no such description.
    """
    text = environment.get(VARIABLE)
    if not text:
        return None
    try:
        described: dict[str, Any] = json.loads(text)
        jobs = {str(name): list(addresses) for name, addresses in described["cluster"].items()}
        job, index = str(described["task"]["type"]), int(described["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{VARIABLE} is {text!r}, expected a cluster and a task such as {EXAMPLE}") from None
    if unknown := sorted({*jobs, job} - {"chief", "worker"}):
        raise ValueError(f"{VARIABLE} names the job {unknown[0]!r}, expected chief and worker alone: {EXAMPLE}")
    addresses = jobs.get(job, [])
    if not 0 <= index < len(addresses):
        raise ValueError(
            f"{VARIABLE} says that this is {job} {index}, of {len(addresses)} addresses of that job; expected an index "
            "below their number, from 0"
        )
    num_chiefs = len(jobs.get("chief", []))
    return Cluster(index if job == "chief" else num_chiefs + index, num_chiefs + len(jobs.get("worker", [])))
