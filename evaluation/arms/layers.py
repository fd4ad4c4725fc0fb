"""The three layers of a bundle compared: exact search, the index, and a running server.

U users of the fold, k places of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from artefacts.console import console
from artefacts.paths import RunPaths
from evaluation import agreement, metrics, report, statistics
from evaluation.arms import bundle_arm, served
from evaluation.folds import Folds
from evaluation.settings import Settings
from serving.retrieval.ranking import Rows

NUM_USERS = 300
"""Users of whom a server is asked."""
MIN_INDEX_RECALL = 0.95
"""Share of exact search below which an index is a finding."""


@dataclass
class Layers:
    """The layers of a bundle compared.

    Attributes:
        checks: Exact search compared with the index, and the index with a server if one could be asked.
        latency: Of the server; None where none was asked.
        notes: Why none was.
    """

    checks: list[report.LayerCheck] = field(default_factory=list)
    latency: report.Latency | None = None
    notes: list[str] = field(default_factory=list)


def layers_of(
    letter: str,
    bundle: bundle_arm.BundleAtCut,
    asked: bundle_arm.Asked,
    lists: Rows,
    serve: Callable[[str], AbstractContextManager[str]],
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
        serve: Runs a server of a version; gives its address.
        paths: Where the bundle and its features lie, at the cut.
        folds: The last one counts.
        settings: How arms are scored.

    Returns:
        The checks.

    Raises:
        ValueError: The server does not start, or refuses.
    """
    fold, found = folds.folds[-1], Layers()
    relevant = fold.relevant(settings.task)

    def check(
        upper: Rows, lower: Rows, users: npt.NDArray[np.int64], layers: tuple[report.Layer, report.Layer]
    ) -> None:
        common: dict[str, Any] = {"letter": letter, "layers": layers, "k": settings.k, "draw": settings.draw}
        found.checks.append(check_layers(upper[users], lower, relevant[users], **common))

    user_ids = fold.split.user_ids
    exact = bundle_arm.ask(bundle.recommender(exact=True), asked, user_ids, folds.item_ids)
    check(exact, lists, np.arange(len(lists)), ("exact", "index"))
    if (why := _no_server(bundle, paths)) is not None:
        found.notes.append(f"arm {letter}: no server was asked, {why}")
        return found
    rng = np.random.default_rng(settings.seed)
    some = np.sort(rng.permutation(np.flatnonzero(fold.has_relevant(settings.task)))[:NUM_USERS])
    version = bundle.bundle.version
    console().print(f"[dim]asking a server of {version} for {len(some)} users[/]")
    with serve(version) as address:
        answers, found.latency = served.ask_server(address, asked, user_ids[some], folds.item_ids)
    check(lists, answers, some, ("index", "server"))
    return found


def _no_server(bundle: bundle_arm.BundleAtCut, paths: RunPaths) -> str | None:
    """Why a server would not answer as at the cut; None if it would."""
    holds = paths.online_day.read_text() if paths.online_day.exists() else "nothing"
    if holds != str(paths.as_of):
        return f"the online store of {paths.features} holds {holds}, not {paths.as_of}"
    if bundle.bundle.folder.parent != paths.bundles.resolve():
        return f"{bundle.bundle.folder} is not among the bundles of {paths.bundles}"
    return None


def check_layers(
    upper: Rows,
    lower: Rows,
    relevant: sp.csr_array,
    *,
    letter: str,
    layers: tuple[report.Layer, report.Layer],
    k: int,
    draw: dict[str, Any],
) -> report.LayerCheck:
    """Compares the lists of two layers.

    An approximate index may miss some; where recall falls significantly, that is a finding, and where it misses more
    than it may, the arm does not ship. Between the index and the server nothing may differ.

    Args:
        upper: [U, K] int32, the layer that is nearer to the model.
        lower: [U, K] int32, the other, for the same users.
        relevant: [U, N] CSR.
        letter: Of the arm.
        layers: Their names.
        k: Places that count.
        draw: Resamples, seed and level of the interval.

    Returns:
        What they have in common; `finding` names what should not be.
    """
    same = (upper[:, :k] == lower[:, :k]).all(axis=1)
    shares = agreement.overlap_at_k(lower, upper, k)
    found_share = float(np.nanmean(shares)) if not np.isnan(shares).all() else 1.0
    recalls = [metrics.recall_at_k(metrics.find_hits(lists, relevant), k) for lists in (lower, upper)]
    recall = statistics.paired_difference(*recalls, **draw)
    finding, blocks = None, False
    if layers[1] == "server" and not same.all():
        blocks = True
        finding = (
            f"the server answers {int((~same).sum()):,} of {len(same):,} users with other lists than the same bundle "
            f"does in this process; recall@{k} differs by {recall.mean:+.4f}"
        )
    elif layers[1] == "index" and (found_share < MIN_INDEX_RECALL or recall.high < 0):
        blocks = found_share < MIN_INDEX_RECALL
        finding = (
            f"the index finds {found_share:.3f} of exact search's items, and recall@{k} is {recall.mean:+.4f} "
            f"[{recall.low:+.4f}, {recall.high:+.4f}] from it; raise index.target_recall"
        )
    return report.LayerCheck(letter, *layers, len(same), float(same.mean()), found_share, recall, finding, blocks)
