"""Train: fit on the days before the last week and look at that week, then fit on all days and export."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from evaluation.metrics import judge, recall_at_k
from features.days import day_range
from features.encoding import Encoder, Inputs
from serving import all_to_all, exact
from serving.codebook import Codebook
from towers.sparcode import SparCode
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
from twinspire.pipeline.fit_sparcode import export_sparcode, fit_sparcode, interaction_of
from twinspire.pipeline.material import (
    catalogue_inputs,
    first_meetings,
    fit_encoder_on,
    known_positives,
    read_material,
    seen_items,
)
from twinspire.pipeline.sparcode_files import FOLDER
from twinspire.steps import fresh_folder

TOP = 10
SPARCODE_USERS = 400


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
            reports["validation"] = _fit(config, paths, encoder, phase, folder)[0].reports
        fitted, sparcode = _fit(config, paths, encoder, Phase("final", days, as_of, None), folder)
        reports["final"] = fitted.reports
        export_tower(fitted.towers.user, folder / "user_tower.tflite")
        export_tower(fitted.towers.item, folder / "item_tower.tflite")
        if sparcode is not None:
            export_sparcode(sparcode, folder / FOLDER)
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


def _fit(
    config: Config, paths: RunPaths, encoder: Encoder, phase: Phase, folder: Path
) -> tuple[Fitted, SparCode | None]:
    known = known_positives(encoder, paths, before=phase.moment)
    material = read_material(config, paths, encoder, phase.name, phase.days, known)
    view = _view(config, paths, encoder, phase, known)
    fitted = fit_phase(config, encoder, material, folder=folder, look=view.look_at_towers, say=_say)
    if config.sparcode is None:
        return fitted, None
    sparcode = fit_sparcode(
        config, config.sparcode, encoder, material, fitted.towers,
        users=view.users, items=view.items, folder=folder, look=view.look_at_sparcode, say=_say,
    )  # fmt: skip
    return fitted, sparcode


@dataclass(frozen=True)
class _View:
    """What a fit is looked at with after an epoch: everybody and everything at the phase's moment."""

    users: Inputs
    items: Inputs
    seen: sparse.csr_array
    popular_items: npt.NDArray[np.int32]
    relevant: sparse.csr_array | None
    ks: tuple[int, ...]
    seed: int

    def look_at_towers(self, towers: TwoTower) -> EpochMetrics:
        """Recall of exact lists, and how varied lists and vectors are."""
        user_vectors, item_vectors = embed(towers.user, self.users), embed(towers.item, self.items)
        rows, _ = exact.search(user_vectors, item_vectors, k=max(*self.ks, TOP), exclude=self.seen)
        found = diagnose(rows[:, :TOP], self.popular_items, user_vectors, item_vectors)
        for warning in found.warnings():
            console().print(f"[yellow]warning[/] {warning}")
        return {name: float(value) for name, value in asdict(found).items()} | self._recall(rows, slice(None))

    def look_at_sparcode(self, sparcode: SparCode) -> EpochMetrics:
        """Recall of the lists by all scores of the codes, on some users: it takes a net for each pair."""
        if self.relevant is None:
            return {}
        judged = np.flatnonzero(np.diff(self.relevant.indptr))
        rng = np.random.default_rng(self.seed)
        some = np.sort(rng.permutation(judged)[:SPARCODE_USERS])
        rows, _ = all_to_all.search(
            embed(sparcode.user_tokenizer, {name: values[some] for name, values in self.users.items()}),
            embed(sparcode.item_tokenizer, self.items),
            interaction=interaction_of(sparcode),
            bias=float(sparcode.bias),
            codebook=Codebook(sparcode.quantizer.codebooks.numpy()),
            k=max(*self.ks, TOP),
            exclude=self.seen[some],
        )
        return self._recall(rows, some)

    def _recall(self, rows: npt.NDArray[np.int32], users: slice | npt.NDArray[np.int64]) -> EpochMetrics:
        if self.relevant is None:
            return {}
        judged = judge(rows, self.relevant[users])
        return {f"recall_at_{k}": float(np.nanmean(recall_at_k(judged, k))) for k in self.ks}


def _view(config: Config, paths: RunPaths, encoder: Encoder, phase: Phase, known: KnownPositives) -> _View:
    users, items = catalogue_inputs(encoder, paths.catalogue(phase.moment))
    seen = seen_items(encoder, known)
    popularity = np.asarray(seen.sum(axis=0), np.float32).reshape(-1, 1)
    # What popularity alone would show: with vectors of width one the inner product is the number of buyers.
    popular_items, _ = exact.search(np.ones((seen.shape[0], 1), np.float32), popularity, k=TOP, exclude=seen)
    ks = config.evaluation.ks if phase.relevant is not None else (TOP,)
    return _View(users, items, seen, popular_items, phase.relevant, ks, config.seed)


def _say(phase: str, report: EpochReport) -> None:
    metrics = report.metrics
    shown = [f"loss {report.loss:.4f}"]
    shown += [f"{name.replace('_at_', '@')} {value:.4f}" for name, value in metrics.items() if "recall" in name]
    if "distinct_items" in metrics:
        shown += [f"{metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
        shown += [f"{metrics['popular_share']:.0%} of their places as popularity would fill them"]
    if "perplexity" in metrics:
        shown += [f"at least {metrics['codes_in_use']:.0f} codes in use, perplexity {metrics['perplexity']:.0f}"]
    console().print(f"  {phase} epoch {report.epoch}: {', '.join(shown)}")
