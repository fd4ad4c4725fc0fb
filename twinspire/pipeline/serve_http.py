"""Serve over HTTP: the published bundle, from one process or from several that share it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp

from artefacts.paths import RunPaths
from serving.live import Live
from serving.web import server, workers
from serving.web.app import Protection, create_app
from serving.web.metrics import Metrics
from twinspire.config import Config
from twinspire.pipeline.serve import open_live, service_of


def serve(config: Config, paths: RunPaths, *, api_key: str | None) -> None:
    """Answers over HTTP until SIGTERM or SIGINT, with one process or several.

    Args:
        config: How to serve.
        paths: Where bundles and features lie.
        api_key: What requests have to show; None asks for nothing.

    Raises:
        ValueError: A bundle cannot be opened.
        OSError: The address cannot be listened on, or something cannot be read.
        WorkerError: One of several processes cannot answer.
    """
    serving = config.serving
    protection = Protection(api_key, serving.requests_per_second, serving.body_seconds)

    def app(live: Live, metrics: Metrics, watch: Callable[[], object]) -> ASGIApp:
        service = service_of(live, metrics, config, paths)
        return create_app(service, max_k=serving.max_k, protection=protection, watch=watch)

    if serving.workers == 1:
        live = open_live(config, paths)
        server.run(app(live, Metrics(), live.watch), serving.host, serving.port)
        return
    workers.run(
        lambda: open_live(config, paths, warm_up=False),
        app,
        serving.host,
        serving.port,
        num_workers=serving.workers,
    )
