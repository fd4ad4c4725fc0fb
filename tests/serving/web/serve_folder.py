"""A server that follows what is published in a folder: `python serve_folder.py BUNDLES USERS WORKERS [GATE]`.

USERS is a Parquet table, or the folder of a feature store. Reading the user `slow` waits until somebody has opened the
named pipe GATE for writing and closed it. What is opened while BUNDLES holds a file `cold` cannot be asked; while it
holds a named pipe `held`, it waits as for GATE. The server looks 20 times a second, gives a body half a second, a head
and a reader a second, and lets a connection rest for half a minute.
"""

from __future__ import annotations

import datetime as dt
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).parent
LOOK_SECONDS = 0.05


def main() -> None:
    """Serves until it is stopped."""
    from serving.arms import one_arm
    from serving.bundles.bundle import Bundle
    from serving.config import RankingConfig
    from serving.live import Live
    from serving.recommender import Recommender
    from serving.registry import retrievers_of
    from serving.user_features import BundleFeatures, features_of
    from serving.web import server, workers
    from serving.web.app import Protection, create_app
    from serving.web.feature_reads import FeatureReads
    from serving.web.metrics import Metrics
    from serving.web.service import Service

    bundles, users, num_workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    gate = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    workers.LOOK_SECONDS, server.KEEP_ALIVE_SECONDS = LOOK_SECONDS, 30
    server.HEAD_SECONDS = server.READ_SECONDS = 1.0

    def read_of(bundle: Bundle) -> Callable[..., Any]:
        if users.is_dir():
            return BundleFeatures(bundle, features_of(bundle, users).read_online)
        read: Callable[..., Any] = runpy.run_path(str(HERE.parent / "serve_for_tests.py"))["reader"](
            pq.read_table(users)
        )

        is_cold, held = (bundles / "cold").exists(), bundles / "held"
        is_held = held.exists()

        def read_slowly(user_ids: list[str]) -> Any:
            if is_cold:
                raise RuntimeError("the store is cold")
            if is_held:
                with held.open("rb") as pipe:
                    pipe.read()
            if gate is not None and "slow" in user_ids:
                with gate.open("rb") as pipe:
                    pipe.read()
            return read(user_ids)

        return read_slowly

    def open_bundle(version: str) -> Recommender:
        bundle = Bundle.open(bundles / version)
        weights = {"two_tower": 1.0, "repeat": 2.0}
        retrievers = retrievers_of(
            bundle,
            RankingConfig(max_fetch=30, fusion_weights=weights, fusion_rank_constant=60, fusion_depth=20),
            ef_search=50,
        )
        return Recommender(bundle, read_of(bundle), retrievers=retrievers, default_retriever="fused")

    def open_live(*, warm_up: bool) -> Live:
        return Live(
            one_arm(),
            open_bundle,
            lambda: os.readlink(bundles / "current"),
            clock=lambda: dt.datetime.now(dt.UTC),
            warm_up=warm_up,
        )

    def app(live: Live, metrics: Metrics, watch: Callable[[], object]) -> Any:
        service = Service(live, FeatureReads(30.0 if gate else 1.0), metrics)
        return create_app(service, max_k=100, protection=Protection(body_seconds=0.5), watch=watch)

    if num_workers == 1:
        live = open_live(warm_up=True)
        server.run(app(live, Metrics(), lambda: live.watch(LOOK_SECONDS)), "127.0.0.1", 0)
    else:
        workers.run(lambda: open_live(warm_up=False), app, "127.0.0.1", 0, num_workers=num_workers)


if __name__ == "__main__":
    main()
