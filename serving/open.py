"""Opening what serves: the recommender over a published bundle and the feature store, and the server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from starlette.types import ASGIApp

from artefacts.files import signature_of
from artefacts.paths import RunPaths
from serving import added_items, added_to_bundle, recommender, registry, user_features
from serving.arms import Arms, one_arm
from serving.bundles import bundle, folder, manifest
from serving.config import ServeSections
from serving.exposures.log import ExposureLog
from serving.live import Live
from serving.retrieval.eligible import DeniedItems, DenyList
from serving.web import app, feature_reads, guard, new_items, server, service, workers
from serving.web.metrics import Metrics


def open_recommender(
    sections: ServeSections, paths: RunPaths, version: str | None = None, *, denied: DenyList | None = None
) -> recommender.Recommender:
    """Opens a bundle and the online features that it names; denied items are kept out of answers.

    Args:
        sections: How to serve.
        paths: Of the run folder.
        version: Of the bundle; None opens the published one.
        denied: The list that is kept to; None reads that of the run folder.

    Raises:
        ValueError: The bundle cannot be opened, its features are of another schema, or the deny list cannot be read.
        OSError: Its features are not there.
    """
    opened = bundle.Bundle.open(paths.bundles / (version or bundle.CURRENT))
    rows = added_items.read_items(paths.added_items, opened.encoder.schema)
    opened = added_to_bundle.with_added(opened, rows)
    store = user_features.features_of(opened, paths.features)
    store.online_wait_seconds = sections.serving.feature_deadline_ms / 1000
    return registry.recommender_of(
        opened,
        user_features.BundleFeatures(opened, store.read_online),
        sections.serving,
        ef_search=sections.ef_search,
        denied=DeniedItems(denied or DenyList(paths.denied_items), opened.item_ids),
    )


def open_live(sections: ServeSections, paths: RunPaths, *, warm_up: bool = True) -> Live:
    """Opens the bundles of all arms, and follows what is published as soon as it is watched.

    Args:
        sections: How to serve.
        paths: Of the run folder.
        warm_up: Whether they are asked at once; if not, no feature store is read yet.
    """
    serving = sections.serving
    arms = Arms([arm.arm() for arm in serving.arms], salt=serving.arm_salt) if serving.arms else one_arm()
    denied = DenyList(paths.denied_items)

    def version() -> str:
        found = folder.published(paths.bundles)
        if found is None:
            raise manifest.BundleError(
                f"{paths.bundles / bundle.CURRENT}: points to no bundle; make one with `twinspire bundle`"
            )
        return found

    return Live(
        arms,
        lambda name: open_recommender(sections, paths, name, denied=denied),
        version,
        clock=lambda: dt.datetime.now(dt.UTC),
        files_of=lambda name: folder.signature(paths.bundles / name),
        added_of=lambda: signature_of(paths.added_items),
        denied=denied,
        warm_up=warm_up,
    )


def service_of(
    live: Live,
    metrics: Metrics,
    sections: ServeSections,
    paths: RunPaths,
    *,
    exposures: service.Exposures | None = None,
) -> service.Service:
    """What one process answers with.

    Args:
        live: Bundles.
        metrics: What it counts.
        sections: How to serve.
        paths: Of the run folder.
        exposures: Where lists are logged; None logs them in the run folder if `serving.log_exposures` is set.
    """
    serving = sections.serving
    in_place = sections.online_store == "sqlite"
    reads = feature_reads.FeatureReads(serving.feature_deadline_ms / 1000, in_place=in_place)
    if exposures is None and serving.log_exposures:
        exposures = exposure_log(sections, paths, metrics)
    return service.Service(live, reads, metrics, exposures, add_items=new_items.adder(live, paths.added_items))


def exposure_log(sections: ServeSections, paths: RunPaths, metrics: Metrics) -> ExposureLog:
    """Where the lists that users get are written, without those of people who are forgotten."""
    return ExposureLog(
        paths.exposures,
        flush_seconds=sections.serving.exposure_flush_seconds,
        max_rows=sections.serving.exposure_rows,
        forgotten=paths.forgotten,
        count_written=metrics.exposures.inc,
        count_dropped=metrics.exposures_dropped.inc,
    )


def serve(sections: ServeSections, paths: RunPaths, *, api_key: str | None, without_key: bool = False) -> None:
    """Answers over HTTP until SIGTERM or SIGINT, with one process or several.

    Args:
        sections: How to serve.
        paths: Of the run folder.
        api_key: What requests have to show; None asks for nothing.
        without_key: Whether everybody who reaches the address, by any host name, is answered without a key.

    Raises:
        ConfigError: The key cannot be sent, or there is none and others than this machine reach the address.
        ValueError: A bundle cannot be opened.
        OSError: The address cannot be listened on, or something cannot be read.
        WorkerError: One of several processes cannot answer.
    """
    serving = sections.serving
    guard.check_key(api_key, host=serving.host, without_key=without_key)
    protection = guard.Protection(
        api_key,
        serving.requests_per_second,
        serving.body_seconds,
        max_items=serving.max_items,
        trusted_proxies=serving.trusted_proxies,
        any_host=without_key,
    )

    def routes(live: Live, metrics: Metrics, watch: Callable[[], object]) -> ASGIApp:
        answers = service_of(live, metrics, sections, paths)
        return app.create_app(answers, max_k=serving.max_k, protection=protection, watch=watch)

    if serving.workers == 1:
        live = open_live(sections, paths)
        server.run(routes(live, Metrics(), live.watch), serving.host, serving.port)
        return
    workers.run(
        lambda: open_live(sections, paths, warm_up=False),
        routes,
        serving.host,
        serving.port,
        num_workers=serving.workers,
    )
