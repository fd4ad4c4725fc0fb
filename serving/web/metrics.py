"""What does the server count? Prometheus's metrics, of this process or of all that share a folder.

With the environment variable PROMETHEUS_MULTIPROC_DIR set, every process writes its own there, and any of them answers
with the sums.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds; most stages take microseconds.
BUCKETS = (25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self) -> None:
        """Makes the metrics."""
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
            "twinspire_lists_not_plain", "Lists with a fallback, by reason.", ["reason"], registry=self.registry
        )
        self.items = Counter("twinspire_items", "Items answered with.", registry=self.registry)
        self.swaps = Gauge(
            "twinspire_bundle_swaps",
            "Bundles taken over while serving.",
            registry=self.registry,
            multiprocess_mode="max",
        )
        self.refused = Gauge(
            "twinspire_bundle_refused",
            "1 while the published bundle is refused and the one before goes on.",
            registry=self.registry,
            multiprocess_mode="max",
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
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
