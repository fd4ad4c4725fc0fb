"""Train: fit on the days before the last week and look at that week, then fit on all days and export."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from artefacts.console import console
from artefacts.paths import RunPaths
from artefacts.steps import fresh_folder
from evaluation.diagnosis import diagnose
from evaluation.metrics import judge, recall_at_k
from features.encoding import Encoder, Inputs
from features.schema_changes import SchemaFacts
from serving.retrieval import exact
from serving.retrieval.vectors import PARTS_FILE
from serving.sparcode import all_to_all
from serving.sparcode.codebook import Codebook
from serving.sparcode.files import FOLDER
from towers.sparcode import SparCode
from towers.two_tower import TwoTower
from training.fit import Fitted, fit_phase, with_factors_of
from training.fit_sparcode import export_sparcode, fit_sparcode, interaction_of
from training.held_out import HeldOut, Parent, WarmStart, compare
from training.lineage import COLUMNS_FILE, LINEAGE_FILE, read_lineage
from training.negatives import KnownPositives
from training.trainer import EpochMetrics, EpochReport, embed, export_tower
from training.training_data import (
    catalogue_inputs,
    days_with_examples,
    first_day,
    first_meetings,
    fit_encoder_on,
    grown_encoder,
    known_positives,
    read_material,
    seen_items,
    validation_days,
)
from training.warm_start import Growth
from twinspire.config import Config
from twinspire.load_config import dump

TOP = 10
SPARCODE_USERS = 1000


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


def train(config: Config, paths: RunPaths, *, parent: Parent | None = None, goes_on: bool = False) -> str:
    """Fits, measures and exports the towers; returns one line of outcome.

    Args:
        config: The configuration.
        paths: Where things lie.
        parent: An earlier fit to be judged beside, by users who are held out of this one.
        goes_on: Whether the fit goes on from the parent, on the days since it; otherwise it begins anew on all days.
    """
    asked = config
    if goes_on:
        assert parent is not None
        first = parent.as_of - dt.timedelta(days=config.daily.replay_days)
        config = config.model_copy(update=_of_new_days(config, parent))
    else:
        first = first_day(config)
    days = days_with_examples(config, paths, first)
    with fresh_folder(paths.model) as folder:
        encoder, warm = _encoder(config, paths, days, parent if goes_on else None)
        encoder.save(folder / "encoder")
        (folder / "config.yaml").write_text(dump(asked))
        reports: dict[str, list[EpochReport]] = {}
        if not goes_on:
            reports, config = _validate(config, paths, encoder, days, folder)
        phase = Phase("final", days, config.as_of, None)
        share = config.daily.holdout_share
        held = HeldOut(parent.as_of, share) if parent is not None and share else None
        fitted, sparcode, _ = _fit(config, paths, encoder, phase, folder, warm=warm, held=held)
        reports["final"] = fitted.reports
        _export(fitted, sparcode, folder)
        plain = {name: [asdict(report) for report in phase] for name, phase in reports.items()}
        (folder / "epochs.json").write_text(json.dumps(plain, indent=2))
        if (facts := SchemaFacts.load(paths.tables)) is not None:
            (folder / COLUMNS_FILE).write_text(json.dumps(facts.to_plain(), indent=2))
        (folder / LINEAGE_FILE).write_text(json.dumps(_lineage(config, parent, held, goes_on=goes_on), indent=2))
        beside = ""
        if parent is not None and held is not None:
            known = known_positives(encoder, paths, before=parent.as_of)
            then = with_factors_of(config, encoder, known)(fitted.learned)
            beside = compare(then, parent, encoder, paths, held, folder=folder, k=max(config.evaluation.ks))
    return _outcome(config, days, reports, beside, parent if goes_on else None)


def _of_new_days(config: Config, parent: Parent) -> dict[str, object]:
    """What a fit that goes on reads differently."""
    epochs = config.daily.epochs
    training = config.training.model_copy(update={"epochs": epochs, "checkpoint_every_epochs": 1})
    sparcode = config.sparcode
    if sparcode is not None:
        # Where the last full fit did best without a fit of SparCode, the nights after it make none either.
        unfitted = read_lineage(parent.model).get("sparcode_epochs") == 0
        sparcode = sparcode.model_copy(update={"epochs": 0 if unfitted else epochs})
    return {"training": training, "sparcode": sparcode}


def _encoder(
    config: Config, paths: RunPaths, days: Sequence[dt.date], parent: Parent | None
) -> tuple[Encoder, WarmStart | None]:
    if parent is None:
        return fit_encoder_on(config, paths, days), None
    encoder = grown_encoder(config, paths, parent.encoder)
    return encoder, WarmStart(parent, Growth.between(parent.encoder, encoder))


def _validate(
    config: Config, paths: RunPaths, encoder: Encoder, days: Sequence[dt.date], folder: Path
) -> tuple[dict[str, list[EpochReport]], Config]:
    """Fits the days before the last ones and looks at those; returns what was seen, and the settings chosen by it."""
    earlier, held_out = validation_days(config, days)
    if not earlier:
        return {}, config
    relevant = first_meetings(encoder, paths, since=held_out)
    phase = Phase("validation", earlier, held_out, relevant)
    fitted, sparcode, looks = _fit(config, paths, encoder, phase, folder)
    if sparcode is not None and config.sparcode is not None and config.sparcode.choose_epochs:
        epochs = _best_epochs(looks, f"recall_at_{max(config.evaluation.ks)}")
        config = config.model_copy(update={"sparcode": config.sparcode.model_copy(update={"epochs": epochs})})
    return {"validation": fitted.reports}, config


def _best_epochs(looks: Sequence[EpochMetrics], measure: str) -> int:
    """After how many epochs of SparCode the users held out found most; the fewest of equals."""
    found = [look[measure] for look in looks]
    best = int(np.nanargmax(found)) if np.isfinite(found).any() else len(found) - 1
    listed = ", ".join(f"{value:.4f}" for value in found)
    console().print(f"  sparcode: {best} epochs, as {measure.replace('_at_', '@')} was {listed} after 0 and so on")
    return best


def _export(fitted: Fitted, sparcode: SparCode | None, folder: Path) -> None:
    export_tower(fitted.towers.user, folder / "user_tower.tflite")
    export_tower(fitted.towers.item, folder / "item_tower.tflite")
    if sparcode is not None:
        export_sparcode(sparcode, folder / FOLDER)
    (folder / PARTS_FILE).write_text(json.dumps(fitted.parts))


def _lineage(config: Config, parent: Parent | None, held: HeldOut | None, *, goes_on: bool) -> dict[str, object]:
    """How a fit came to be, for the one that follows."""
    since, epochs = str(config.as_of), None if config.sparcode is None else config.sparcode.epochs
    if parent is not None and goes_on:
        before = read_lineage(parent.model)
        since, epochs = before["full_fit"], before.get("sparcode_epochs")
    return {
        "parent": None if parent is None else str(parent.as_of),
        "goes_on": goes_on,
        "full_fit": since,
        "held_out_share": 0.0 if held is None else held.share,
        "sparcode_epochs": epochs,
    }


def _outcome(
    config: Config,
    days: Sequence[dt.date],
    reports: Mapping[str, list[EpochReport]],
    beside: str,
    parent: Parent | None,
) -> str:
    last = reports["final"][-1]
    k = max(config.evaluation.ks)
    found = [
        f"recall@{k} of new items {report.metrics[f'recall_at_{k}']:.4f} on {config.training.validation_days} days "
        "held out"
        for report in reports.get("validation", [])[-1:]
    ]
    found += [f"loss {last.loss:.3f}", f"{last.metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
    found += [beside] if beside else []
    begun = "" if parent is None else f", on from {parent.as_of}"
    return f"{len(days)} days, {config.training.epochs} epochs{begun}: {', '.join(found)}"


def _fit(
    config: Config,
    paths: RunPaths,
    encoder: Encoder,
    phase: Phase,
    folder: Path,
    *,
    warm: WarmStart | None = None,
    held: HeldOut | None = None,
) -> tuple[Fitted, SparCode | None, list[EpochMetrics]]:
    known = known_positives(encoder, paths, before=phase.moment)
    keep = None if held is None else held.keep(encoder)
    material = read_material(config, paths, encoder, phase.name, phase.days, known, before=phase.moment, keep=keep)
    view = _view(config, paths, encoder, phase, known)
    fitted = fit_phase(config, encoder, material, folder=folder, look=view.look_at_towers, say=_say, warm=warm)
    if config.sparcode is None:
        return fitted, None, []
    sparcode, looks = fit_sparcode(
        config, config.sparcode, encoder, material, fitted,
        users=view.users, items=view.items, folder=folder, say=_say, warm=warm,
        look=None if phase.relevant is None else view.look_at_sparcode,
    )  # fmt: skip
    return fitted, sparcode, looks


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
        assert self.relevant is not None
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
