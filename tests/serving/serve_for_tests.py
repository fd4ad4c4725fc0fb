"""A server over a bundle whose online store is one Parquet table: `python serve_for_tests.py BUNDLE TABLE GATE`.

Reading the user `slow` waits until the named pipe GATE is opened for writing; its folder may hold denied_items.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def reader(table: pa.Table, gate: Path | None = None) -> Callable[[list[str]], pa.Table]:
    """Reads users from a table: one row per id in the order asked, nulls where it has none."""
    place = {user_id: row for row, user_id in enumerate(table.column("user_id").to_pylist())}

    def read(user_ids: list[str]) -> pa.Table:
        if gate is not None and "slow" in user_ids:
            gate.open("rb").close()
        found = table.take(pa.array([place.get(user_id) for user_id in user_ids], pa.int64()))
        return found.set_column(0, "user_id", pa.array(user_ids, pa.string()))

    return read


def main() -> None:
    """Serves until it is stopped."""
    import datetime as dt

    from serving.arms import one_arm
    from serving.bundles.bundle import Bundle
    from serving.config import RankingConfig
    from serving.live import Live
    from serving.recommender import Recommender
    from serving.registry import retrievers_of
    from serving.retrieval.eligible import DeniedItems, DenyList
    from serving.web.app import create_app
    from serving.web.feature_reads import FeatureReads
    from serving.web.metrics import Metrics
    from serving.web.server import run
    from serving.web.service import Service

    bundle = Bundle.open(Path(sys.argv[1]))
    retrievers = retrievers_of(
        bundle,
        RankingConfig(
            max_fetch=30, fusion_weights={"two_tower": 1.0, "repeat": 2.0}, fusion_rank_constant=60, fusion_depth=20
        ),
        ef_search=50,
    )
    read = reader(pq.read_table(sys.argv[2]), gate=Path(sys.argv[3]))
    denied = DeniedItems(DenyList(Path(sys.argv[3]).with_name("denied_items.txt")), bundle.encoder.item_ids)
    recommender = Recommender(bundle, read, retrievers=retrievers, default_retriever="fused", denied=denied)
    live = Live(one_arm(), lambda _: recommender, lambda: bundle.version, clock=lambda: dt.datetime.now(dt.UTC))
    # Long enough for the gate.
    run(create_app(Service(live, FeatureReads(30.0), Metrics()), max_k=100), "127.0.0.1", 0)


if __name__ == "__main__":
    main()
