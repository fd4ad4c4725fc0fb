"""Prometheus metrics of the server, of this process or of all that share a folder.

After `share`, every process writes its own into files of the folder, and any of them answers with the sums. The files
are named by the place that a process has among those that run at the same time: one that takes a place over continues
the counts of the one before it, so that there are not more files with every bundle.

The folder is in memory. A server that is killed cannot remove it; the next one that starts does. A folder is in use
while its lock is held, by the server or by a worker, which inherits the lock when it is forked.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector

from artefacts.locks import locked

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds; most stages take microseconds.
BUCKETS = (25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)


PREFIX = "twinspire_"
COUNTS_PREFIX = "twinspire-counts-"


def share(folder: Path, place: Callable[[], str]) -> None:
    """Has metrics that are made from now on write into a folder; before any is made.

    Args:
        folder: Empty.
        place: Which of the processes that run now this one is; asked at every count, and so noticed after a fork.
    """
    # Where prometheus_client's values look for the folder.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(place)  # type: ignore[no-untyped-call]


def ended(folder: Path, place: str) -> None:
    """Drops the gauges of a process that has ended."""
    multiprocess.mark_process_dead(place, path=str(folder))  # type: ignore[no-untyped-call]


class Metrics:
    """What is counted, in a registry of its own.

    Args:
        folder: That processes share; None counts this one alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Makes the metrics."""
        self._folder = folder
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "twinspire_requests", "Requests answered.", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "twinspire_request_seconds", "Time to an answer.", ["endpoint"], buckets=BUCKETS, registry=self.registry
        )
        self.stage_seconds = Histogram(
            "twinspire_stage_seconds", "Time of a stage.", ["stage"], buckets=BUCKETS, registry=self.registry
        )
        self.lists = Counter(
            "twinspire_lists", "Lists answered with.", ["arm", "bundle", "retriever"], registry=self.registry
        )
        self.reasons = Counter(
            "twinspire_fallback_lists", "Lists with a fallback, by reason.", ["reason"], registry=self.registry
        )
        self.items = Counter("twinspire_items", "Items answered with.", registry=self.registry)
        self.swaps = Gauge(
            "twinspire_bundle_swaps",
            "Bundles taken over while serving.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.refused = Gauge(
            "twinspire_bundle_refused",
            "1 while the published bundle cannot be served and the previous one stays live.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.features_missing = Gauge(
            "twinspire_features_missing",
            "1 while the online store does not answer, or has lost the features of a bundle that answers.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.features_moment = Gauge(
            "twinspire_features_moment_seconds",
            "Midnight whose features the published bundle reads, Unix seconds.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.deny_list_unreadable = Gauge(
            "twinspire_deny_list_unreadable",
            "1 while the list of denied items cannot be read and what was denied before stays denied.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.workers_replaced = Counter(
            "twinspire_workers_replaced", "Processes that died and got a successor.", registry=self.registry
        )
        self.exposures = Counter("twinspire_exposures", "Exposures logged.", registry=self.registry)
        self.exposures_dropped = Counter(
            "twinspire_exposures_dropped", "Exposures that could not be logged.", registry=self.registry
        )
        self._stages: dict[str, Histogram] = {}

    def stages(self, microseconds: Mapping[str, float]) -> None:
        """Counts the time of each stage of a call."""
        for stage, taken in microseconds.items():
            child = self._stages.get(stage)
            if child is None:
                child = self._stages[stage] = self.stage_seconds.labels(stage)
            child.observe(taken / 1e6)

    def text(self) -> bytes:
        """All of it, in Prometheus's format."""
        # Not taken from the environment: Feast sets these variables for itself.
        return generate_latest(self.registry if self._folder is None else _OfAll(self._folder))


def memory() -> Path:
    """Where no full disk stops a count, and a read-only one does not matter; elsewhere where there is no such place."""
    found = Path("/dev/shm")
    return found if os.access(found, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def counts_folder(parent: Path) -> Iterator[Path]:
    """An empty folder of this server's own, which is gone after the block; what killed servers left goes first.

    Args:
        parent: Of the folders of all servers; `memory()`, but for tests.
    """
    remove_left_over(parent)
    with ExitStack() as held:
        folder = _locked_folder(parent, held)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(parent: Path) -> list[Path]:
    """Removes the folders of servers of this user of which no process lives any more; returns them."""
    removed = []
    for folder in sorted(parent.glob(f"{COUNTS_PREFIX}*")):
        # Gone meanwhile, or of a server that lives.
        with suppress(FileNotFoundError, BlockingIOError):
            if not _is_own(folder):
                continue
            with locked(folder, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _locked_folder(parent: Path, held: ExitStack) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=COUNTS_PREFIX, dir=parent))
        # A server that starts at the same time may take it for left over before it is locked.
        with suppress(FileNotFoundError):
            held.enter_context(locked(folder))
            if folder.exists():
                return folder


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of this user: any user may put a link or a folder of that name there."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


class _OfAll(Collector):
    """Metrics of all processes; without Feast's, which go to the same folder."""

    def __init__(self, folder: Path) -> None:
        self._files = multiprocess.MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        found = self._files.collect()  # type: ignore[no-untyped-call]
        return [metric for metric in found if metric.name.startswith(PREFIX)]
