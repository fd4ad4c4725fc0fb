"""A server with two arms that logs exposures: `python serve_exposures.py BUNDLE TABLE FOLDER WORKERS [SECONDS ITEMS]`.

It writes them every so many SECONDS, or when it stops; so many ITEMS wait at most.
"""

from __future__ import annotations

import datetime as dt
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).parent


def main() -> None:
    """Serves until it is stopped."""
    from serving.arms import Arm, Arms
    from serving.bundles.bundle import Bundle
    from serving.config import RankingConfig
    from serving.exposures.log import QUEUE_ITEMS, ExposureLog
    from serving.live import Live
    from serving.recommender import Recommender
    from serving.registry import retrievers_of
    from serving.web import server, workers
    from serving.web.app import create_app
    from serving.web.feature_reads import FeatureReads
    from serving.web.metrics import Metrics
    from serving.web.service import Service

    folder, num_workers = Path(sys.argv[3]), int(sys.argv[4])
    flush_seconds, queue_items = (float(sys.argv[5]), int(sys.argv[6])) if len(sys.argv) > 5 else (3600.0, QUEUE_ITEMS)
    bundle = Bundle.open(Path(sys.argv[1]))
    retrievers = retrievers_of(
        bundle,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    read = runpy.run_path(str(HERE.parent / "serve_for_tests.py"))["reader"](pq.read_table(sys.argv[2]))
    recommender = Recommender(bundle, read, retrievers=retrievers, default_retriever="fused")
    arms = Arms([Arm("plain", 0.5), Arm("towers", 0.5, retriever="two_tower")], salt="")

    def open_live(*, warm_up: bool) -> Live:
        return Live(
            arms,
            lambda _: recommender,
            lambda: bundle.version,
            clock=lambda: dt.datetime.now(dt.UTC),
            warm_up=warm_up,
        )

    def app(live: Live, metrics: Metrics, watch: Callable[[], object]) -> Any:
        log = ExposureLog(
            folder,
            flush_seconds=flush_seconds,
            max_rows=1000,
            count_written=metrics.exposures.inc,
            count_dropped=metrics.exposures_dropped.inc,
            queue_items=queue_items,
        )
        return create_app(Service(live, FeatureReads(30.0), metrics, log), max_k=100, watch=watch)

    if num_workers == 1:
        live = open_live(warm_up=True)
        server.run(app(live, Metrics(), live.watch), "127.0.0.1", 0)
    else:
        workers.run(lambda: open_live(warm_up=False), app, "127.0.0.1", 0, num_workers=num_workers)


if __name__ == "__main__":
    main()
