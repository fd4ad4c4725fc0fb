"""Train: fit on the days before the last week and look at that week, then fit on all days and export."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from evaluation.metrics import judge, recall_at_k
from features.days import day_range
from features.encoding import Encoder
from serving import exact
from towers.two_tower import TwoTower
from training.diagnosis import diagnose
from training.export import export_tower
from training.negatives import KnownPositives
from training.trainer import EpochMetrics, EpochReport, embed
from twinspire.config import Config
from twinspire.console import console
from twinspire.load_config import dump
from twinspire.paths import RunPaths
from twinspire.pipeline.embed import PARTS_FILE
from twinspire.pipeline.fit import Fitted, fit_phase
from twinspire.pipeline.material import (
    catalogue_inputs,
    first_meetings,
    fit_encoder_on,
    known_positives,
    read_material,
    seen_items,
)
from twinspire.steps import fresh_folder

TOP = 10


@dataclass(frozen=True)
class Phase:
    """One fit: which days, and what it is looked at with.

    Attributes:
        name: `validation` or `final`.
        days: Days whose examples are fitted, in time order.
        moment: The day at whose start users and items are looked at.
        relevant: [users, items] what each user met first in the days after; None where they are fitted too.
    """

    name: str
    days: Sequence[dt.date]
    moment: dt.date
    relevant: sparse.csr_array | None


def train(config: Config, paths: RunPaths) -> str:
    """Fits, measures and exports the towers; returns one line of outcome."""
    as_of, settings = config.as_of, config.training
    days = [
        day
        for day in day_range(as_of - dt.timedelta(days=settings.example_days), as_of)
        if (paths.examples / str(day)).exists()
    ]
    if not days:
        raise ValueError(
            f"{paths.examples}: no examples of the {settings.example_days} days before {as_of}; run features"
        )
    with fresh_folder(paths.model) as folder:
        encoder = fit_encoder_on(config, paths, days)
        encoder.save(folder / "encoder")
        (folder / "config.yaml").write_text(dump(config))
        held_out = as_of - dt.timedelta(days=settings.validation_days)
        earlier = [day for day in days if day < held_out]
        reports: dict[str, list[EpochReport]] = {}
        if settings.validation_days and earlier:
            relevant = first_meetings(encoder, paths, since=held_out)
            phase = Phase("validation", earlier, held_out, relevant)
            reports["validation"] = _fit(config, paths, encoder, phase, folder).reports
        fitted = _fit(config, paths, encoder, Phase("final", days, as_of, None), folder)
        reports["final"] = fitted.reports
        export_tower(fitted.towers.user, folder / "user_tower.tflite")
        export_tower(fitted.towers.item, folder / "item_tower.tflite")
        (folder / PARTS_FILE).write_text(json.dumps(fitted.parts))
        plain = {name: [asdict(report) for report in phase] for name, phase in reports.items()}
        (folder / "epochs.json").write_text(json.dumps(plain, indent=2))
    last = reports["final"][-1]
    k = max(config.evaluation.ks)
    found = [
        f"recall@{k} of new items {report.metrics[f'recall_at_{k}']:.4f} on {settings.validation_days} days held out"
        for report in reports.get("validation", [])[-1:]
    ]
    found += [f"loss {last.loss:.3f}", f"{last.metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
    return f"{len(days)} days, {settings.epochs} epochs: {', '.join(found)}"


def _fit(config: Config, paths: RunPaths, encoder: Encoder, phase: Phase, folder: Path) -> Fitted:
    known = known_positives(encoder, paths, before=phase.moment)
    material = read_material(config, paths, encoder, phase.name, phase.days, known)
    look = _look(config, paths, encoder, phase, known)
    return fit_phase(config, encoder, material, folder=folder, look=look, say=_say)


def _look(
    config: Config, paths: RunPaths, encoder: Encoder, phase: Phase, known: KnownPositives
) -> Callable[[TwoTower], EpochMetrics]:
    """What is measured after an epoch: exact top lists of everybody at the phase's moment."""
    users, items = catalogue_inputs(encoder, paths.catalogue(phase.moment))
    seen = seen_items(encoder, known)
    ks = config.evaluation.ks if phase.relevant is not None else (TOP,)
    popularity = np.asarray(seen.sum(axis=0), np.float32).reshape(-1, 1)
    # What popularity alone would show: with vectors of width one the inner product is the number of buyers.
    popular_items, _ = exact.search(np.ones((seen.shape[0], 1), np.float32), popularity, k=TOP, exclude=seen)

    def look(towers: TwoTower) -> EpochMetrics:
        user_vectors, item_vectors = embed(towers.user, users), embed(towers.item, items)
        rows, _ = exact.search(user_vectors, item_vectors, k=max(*ks, TOP), exclude=seen)
        found = diagnose(rows[:, :TOP], popular_items, user_vectors, item_vectors)
        for warning in found.warnings():
            console().print(f"[yellow]warning[/] {warning}")
        metrics: EpochMetrics = {name: float(value) for name, value in asdict(found).items()}
        if phase.relevant is not None:
            judged = judge(rows, phase.relevant)
            for k in ks:
                metrics[f"recall_at_{k}"] = float(np.nanmean(recall_at_k(judged, k)))
        return metrics

    return look


def _say(phase: str, report: EpochReport) -> None:
    shown = [f"loss {report.loss:.4f}"]
    shown += [f"{name.replace('_at_', '@')} {value:.4f}" for name, value in report.metrics.items() if "recall" in name]
    shown += [f"{report.metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
    shown += [f"{report.metrics['popular_share']:.0%} of their places as popularity would fill them"]
    console().print(f"  {phase} epoch {report.epoch}: {', '.join(shown)}")
