"""Do exact search, the index and a running server answer alike? Of one bundle, at the last cut.

U users of the fold, k places of a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from artefacts.console import console
from artefacts.paths import RunPaths
from evaluation.ab.layers import check_layers
from evaluation.ab.report import Latency, Layer, LayerCheck
from evaluation.ab.settings import Settings
from serving.retrieval.ranking import Rows
from twinspire.config import Config
from twinspire.pipeline.ab import served
from twinspire.pipeline.ab.bundle_arm import Asked, BundleAtCut, ask
from twinspire.pipeline.ab.folds import Folds


@dataclass
class Layers:
    """What was found.

    Attributes:
        checks: Exact search beside the index, and the index beside a server if one could be asked.
        latency: Of the server; None where none was asked.
        notes: Why none was.
    """

    checks: list[LayerCheck] = field(default_factory=list)
    latency: Latency | None = None
    notes: list[str] = field(default_factory=list)


def layers_of(
    letter: str,
    bundle: BundleAtCut,
    asked: Asked,
    lists: Rows,
    config: Config,
    paths: RunPaths,
    folds: Folds,
    settings: Settings,
) -> Layers:
    """Asks exact search, and a server if the online store holds the features of the cut.

    Args:
        letter: Of the arm.
        bundle: It.
        asked: What it was asked.
        lists: [U, k] what it answered by its index.
        config: How it is served.
        paths: Where it and its features lie, at the cut.
        folds: The last one is looked at.
        settings: How arms are judged.

    Returns:
        The checks.

    Raises:
        ValueError: The server does not start, or refuses.
    """
    fold, found = folds.folds[-1], Layers()
    relevant = fold.relevant(settings.task)

    def check(upper: Rows, lower: Rows, users: np.ndarray, layers: tuple[Layer, Layer]) -> None:
        found.checks.append(
            check_layers(
                upper[users],
                lower,
                relevant[users],
                letter=letter,
                layers=layers,
                k=settings.k,
                num_samples=settings.num_samples,
                seed=settings.seed,
                level=1 - settings.alpha,
            )
        )

    user_ids = fold.split.user_ids
    exact = ask(bundle.recommender(exact=True), asked, user_ids, folds.item_ids)
    check(exact, lists, np.arange(len(lists)), ("exact", "index"))
    if (why := _no_server(bundle, paths)) is not None:
        found.notes.append(f"arm {letter}: no server was asked, {why}")
        return found
    rng = np.random.default_rng(settings.seed)
    some = np.sort(rng.permutation(np.flatnonzero(fold.are_judged(settings.task)))[: served.NUM_USERS])
    version = bundle.bundle.version
    console().print(f"[dim]asking a server of {version} for {len(some)} users[/]")
    with served.server_of(config, paths, version) as address:
        answers, found.latency = served.ask_server(address, asked, user_ids[some], folds.item_ids)
    check(lists, answers, some, ("index", "server"))
    return found


def _no_server(bundle: BundleAtCut, paths: RunPaths) -> str | None:
    """Why a server would not answer as at the cut; None if it would."""
    holds = paths.online_day.read_text() if paths.online_day.exists() else "nothing"
    if holds != str(paths.as_of):
        return f"the online store of {paths.features} holds {holds}, not {paths.as_of}"
    if bundle.bundle.folder.parent != paths.bundles.resolve():
        return f"{bundle.bundle.folder} is not among the bundles of {paths.bundles}"
    return None
