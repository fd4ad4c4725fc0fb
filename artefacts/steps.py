"""Recorded steps, skipped when finished with the same inputs; folders that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artefacts.files import json_text, replace_text


@dataclass(frozen=True)
class StepRecord:
    """What a finished step left behind.

    Attributes:
        name: Of the step.
        digest: Hash over everything that went into it.
        outcome: One line for people.
        seconds: Wall-clock time.
        peak_memory_bytes: Largest memory of the process during the step.
    """

    name: str
    digest: str
    outcome: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Step:
    """A part of the main job.

    Attributes:
        name: As on the command line.
        digest: Hash over everything that goes into it.
        outputs: What must be there for it to count as done.
        action: Does it; returns the one line of outcome.
        records: Folder of its record: of the day, or of all days where the outputs are those of all days.
        is_current: Whether what all days share (the published bundle, the online store) is still as this step left it.
    """

    name: str
    digest: str
    outputs: tuple[Path, ...]
    action: Callable[[], str]
    records: Path
    is_current: Callable[[], bool] = lambda: True


def digest_of(values: Mapping[str, Any]) -> str:
    """Hash over JSON values: 16 hex digits."""
    return hashlib.sha256(json_text(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finished(step: Step) -> StepRecord | None:
    """The record of a step that needs not be done again; None if it must be."""
    try:
        record = StepRecord(**json.loads((step.records / f"{step.name}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        # No record, or not one of ours: doing the step again is always right.
        return None
    done = record.digest == step.digest and all(output.exists() for output in step.outputs) and step.is_current()
    return record if done else None


def run_step(step: Step) -> StepRecord:
    """Does a step and records it; a step that fails leaves no record."""
    path = step.records / f"{step.name}.json"
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    _forget_peak_memory()
    outcome = step.action()
    seconds = time.perf_counter() - started
    record = StepRecord(step.name, step.digest, outcome, seconds, _peak_memory_bytes())
    replace_text(path, json_text(asdict(record), indent=2))
    return record


def _forget_peak_memory() -> None:
    """Has Linux count the peak from here on; elsewhere it is that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_bytes() -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A temporary folder next to `target` that replaces it, whole, when the block ends without an error.

    Killed at any moment, `target` is whole or not there: it is renamed away before any file of it is deleted.
    """
    temporary, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("tmp", "old"))
    for path in (temporary, old):
        shutil.rmtree(path, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    finally:
        # After an error, too: where the disk is full, what was half written is what fills it.
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)


def remove_left_over(root: Path) -> None:
    """Removes what killed runs of any day left half written below a dataset's folder; only under its lock.

    Arms of comparisons are left alone, which take no lock, and so are bundles, whose retention knows their own.
    """
    for pattern in ("*/.*", "*/*/.*"):
        for path in root.glob(pattern):
            is_ours = path.relative_to(root).parts[0] not in ("arms", "bundles")
            if not is_ours or path.suffix not in (".tmp", ".old"):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
