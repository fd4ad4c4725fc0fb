"""Training step: validates on the last days, fits on all days, exports the towers.

Where several processes fit, the chief trains as one process alone would, and the others fit with it and keep nothing.
Which processes they are is given by the environment variable TF_CONFIG.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from artefacts import console, steps
from artefacts.config import as_read
from artefacts.files import json_text, replace_text
from artefacts.paths import EPOCHS, RunPaths
from features.encoding import Encoder
from features.schema_changes import SchemaFacts
from serving.retrieval.vectors import PARTS_FILE
from serving.sparcode.files import FOLDER
from towers.sparcode import SparCode
from training.co_purchase import with_factors_of
from training.config import TrainingConfig, TrainSections
from training.data.training_data import (
    days_with_examples,
    fit_encoder_on,
    grown_encoder,
    known_positives,
    read_training_data,
    split_validation_days,
)
from training.distribution import read_cluster, workers
from training.epochs import EarlyStopping, EpochMetrics, EpochReport
from training.export import export_tower
from training.fit import Fitted, Report, fit_phase
from training.fit_loop import LOGS
from training.fit_sparcode import export_sparcode, fit_sparcode
from training.held_out import HeldOut, Parent, WarmStart, compare
from training.lineage import COLUMNS_FILE, LINEAGE_FILE, SECTIONS_FILE, read_lineage
from training.phase import TOP, Evaluation, Phase, evaluation_of, validation_phase, validation_vectors
from training.warm_start import Growth


def train(
    sections: TrainSections,
    paths: RunPaths,
    *,
    parent: Parent | None = None,
    is_warm_start: bool = False,
    digest: str | None = None,
) -> str:
    """Fits, evaluates and exports the towers; returns one line of outcome.

    Args:
        sections: What the step reads of the configuration.
        paths: Where things are.
        parent: An earlier fit to compare with, on users who are held out of this one.
        is_warm_start: Whether the fit starts from the parent's state, on the days since it; otherwise it is a full
            retrain on all days.
        digest: Of everything that goes into the fit: an interrupted fit of the same one is resumed. None begins again.

    Raises:
        ValueError: A warm start is asked for without a parent.
    """
    if is_warm_start and parent is None:
        raise ValueError("a warm start needs the fit that it starts from; pass parent, or is_warm_start=False")
    start = parent if is_warm_start else None
    asked, num_days = sections, sections.training.example_days
    if start is not None:
        num_days = (paths.as_of - start.as_of).days + sections.replay_days
        sections = _of_new_days(sections, start)
    days = days_with_examples(paths, num_days=num_days, num_events=sections.example_events)
    unfinished = _unfinished(paths, digest if sections.training.distribute == "none" else None)
    with steps.fresh_folder(paths.model) as folder:
        encoder, warm = _encoder(sections, paths, days, start)
        encoder.save(folder / "encoder")
        (folder / SECTIONS_FILE).write_text(json_text(as_read(asked), indent=2))
        validated = None if start is not None else _validate(sections, paths, encoder, days, folder)
        if validated is not None:
            sections = validated.sections
        phase = Phase("final", days, paths.as_of, None)
        held = None if parent is None else _held_out(sections, paths, parent)
        epochs = {} if validated is None else validated.fitted.epochs
        fitted, sparcode, _, _ = fit_and_evaluate(
            sections, paths, encoder, phase, folder, epochs=epochs, warm=warm, held=held
        )
        _export(fitted, sparcode, folder)
        _write_epochs(folder / EPOCHS, fitted, validated)
        for logs in unfinished.glob(f"*/{LOGS}"):
            shutil.copytree(logs, folder / logs.parent.name / LOGS)
        if (facts := SchemaFacts.load(paths.tables)) is not None:
            (folder / COLUMNS_FILE).write_text(json_text(facts.to_plain(), indent=2))
        lineage = _lineage(sections, paths, parent, held, fitted.epochs, is_warm_start=is_warm_start)
        (folder / LINEAGE_FILE).write_text(json_text(lineage, indent=2))
        compared = ""
        if parent is not None and held is not None:
            known = known_positives(encoder, paths, before=parent.as_of)
            join = with_factors_of(encoder, known, towers=sections.towers, seed=sections.seed, suggest=fitted.suggest)
            then = join(fitted.learned)
            compared = compare(then, parent, encoder, paths, held, folder=folder, k=max(sections.ks))
    shutil.rmtree(unfinished)
    return _outcome(sections, days, fitted, validated, compared, start)


def _unfinished(paths: RunPaths, digest: str | None) -> Path:
    """The folder of the day's unfinished fit, emptied unless that is the same fit; those of other days go."""
    folder = paths.unfinished_fit
    key = folder / "digest.txt"
    is_same = digest is not None and key.exists() and key.read_text() == digest
    for other in folder.parent.glob(".????-??-??.fit"):
        # Arms take no lock: another day's fit may be under way.
        if not is_same if other == folder else paths.arm is None:
            shutil.rmtree(other)
    if not is_same:
        replace_text(key, digest or "")
    return folder


def _held_out(sections: TrainSections, paths: RunPaths, parent: Parent) -> HeldOut | None:
    """Who is kept out of a fit for the comparison with an earlier one; None where nobody shall be."""
    share = sections.holdout_share
    if share is None:
        return HeldOut.with_power(parent, paths, fall=sections.detectable_fall)
    return HeldOut(parent.as_of, share) if share else None


def _of_new_days(sections: TrainSections, parent: Parent) -> TrainSections:
    """What a warm start reads differently."""
    epochs = sections.warm_epochs
    training = sections.training.model_copy(update={"epochs": epochs})
    before, towers, sparcode = read_lineage(parent.model), sections.towers, sections.sparcode
    if towers.factor_weight is None:
        towers = towers.model_copy(update={"factor_weight": before.get("factor_weight")})
    if towers.factor_powers is None and before.get("factor_powers"):
        towers = towers.model_copy(update={"factor_powers": tuple(before["factor_powers"])})
    if sparcode is not None:
        # Where the last full retrain did best without a fit of SparCode, the nights after it make none either.
        unfitted = before.get("sparcode_epochs") == 0
        sparcode = sparcode.model_copy(update={"epochs": 0 if unfitted else epochs})
    return replace(sections, towers=towers, training=training, sparcode=sparcode)


def _encoder(
    sections: TrainSections, paths: RunPaths, days: Sequence[dt.date], parent: Parent | None
) -> tuple[Encoder, WarmStart | None]:
    dataset, towers, history_length = sections.dataset, sections.towers, sections.history_length
    if parent is None:
        return fit_encoder_on(paths, days, dataset=dataset, towers=towers, history_length=history_length), None
    encoder = grown_encoder(paths, parent.encoder, dataset=dataset, towers=towers, history_length=history_length)
    return encoder, WarmStart(parent, Growth.between(parent.encoder, encoder))


class Validated(NamedTuple):
    """What the fit of the earlier days gave: its towers, their recall, and the settings that it chose."""

    fitted: Fitted
    recall: float
    sections: TrainSections


def _validate(
    sections: TrainSections, paths: RunPaths, encoder: Encoder, days: Sequence[dt.date], folder: Path
) -> Validated | None:
    """Fits the earlier days and evaluates on the last ones; None where none are held out."""
    phase = validation_phase(encoder, paths, days, num_days=sections.training.validation_days)
    if phase is None:
        return None
    fitted, sparcode, evaluations, evaluation = fit_and_evaluate(sections, paths, encoder, phase, folder)
    vectors, recall, sections = validation_vectors(sections, encoder, phase, fitted, evaluation)
    vectors.save(folder)
    if sparcode is not None and sections.sparcode is not None and sections.sparcode.choose_epochs:
        epochs = _best_epochs(evaluations, f"recall_at_{max(sections.ks)}")
        sections = replace(sections, sparcode=sections.sparcode.model_copy(update={"epochs": epochs}))
    return Validated(fitted, recall, sections)


def _write_epochs(path: Path, fitted: Fitted, validated: Validated | None) -> None:
    """Writes what each epoch gave, and which ones the fits kept."""
    phases = {} if validated is None else {"validation": validated.fitted}
    plain = {
        name: [{**asdict(report), "is_kept": report.epoch == one.best} for report in one.reports]
        for name, one in [*phases.items(), ("final", fitted)]
    }
    path.write_text(json_text(plain, indent=2))


def _best_epochs(evaluations: Sequence[EpochMetrics], measure: str) -> int:
    """Early stopping: the number of SparCode's epochs with the best validation recall; the fewest of equals."""
    reports = [EpochReport(number, np.nan, metrics) for number, metrics in enumerate(evaluations)]
    best = reports[EarlyStopping(measure, patience=1).best(reports) - 1].epoch
    listed = ", ".join(f"{metrics[measure]:.4f}" for metrics in evaluations)
    console.console().print(
        f"  sparcode: {best} epochs, as {measure.replace('_at_', '@')} was {listed} after 0 and so on"
    )
    return best


def _export(fitted: Fitted, sparcode: SparCode | None, folder: Path) -> None:
    export_tower(fitted.towers.user, folder / "user_tower.tflite")
    export_tower(fitted.towers.item, folder / "item_tower.tflite")
    if sparcode is not None:
        export_sparcode(sparcode, folder / FOLDER)
    (folder / PARTS_FILE).write_text(json_text(fitted.parts))


def _lineage(
    sections: TrainSections,
    paths: RunPaths,
    parent: Parent | None,
    held: HeldOut | None,
    epochs: Mapping[str, int],
    *,
    is_warm_start: bool,
) -> dict[str, object]:
    """How a fit came to be, for the one that follows."""
    since, of_sparcode = str(paths.as_of), None if sections.sparcode is None else sections.sparcode.epochs
    if parent is not None and is_warm_start:
        before = read_lineage(parent.model)
        since, of_sparcode = before["full_fit"], before.get("sparcode_epochs")
    return {
        "parent": None if parent is None else str(parent.as_of),
        "is_warm_start": is_warm_start,
        "full_fit": since,
        "held_out_share": 0.0 if held is None else held.share,
        "epochs": dict(epochs),
        "sparcode_epochs": of_sparcode,
        "factor_weight": sections.towers.factor_weight,
        "factor_powers": sections.towers.factor_powers,
    }


def _outcome(
    sections: TrainSections,
    days: Sequence[dt.date],
    fitted: Fitted,
    validated: Validated | None,
    compared: str,
    start: Parent | None,
) -> str:
    last, k, held_out = fitted.reports[-1], max(sections.ks), sections.training.validation_days
    found = []
    if validated is not None:
        chosen, num_tried = validated.fitted.best, len(validated.fitted.reports)
        found += [f"validation chose epoch {chosen} of {num_tried} tried"]
        found += [f"recall@{k} of new items {validated.recall:.4f} on {held_out} days held out"]
    found += [f"loss {last.loss:.3f}", f"{last.metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
    found += [said for said in (fitted.taught, compared) if said]
    begun = "" if start is None else f", warm start from {start.as_of}"
    return f"{len(days)} days, {fitted.best} epochs{begun}: {', '.join(found)}"


def fit_and_evaluate(
    sections: TrainSections,
    paths: RunPaths,
    encoder: Encoder,
    phase: Phase,
    folder: Path,
    *,
    unfinished: Path | None = None,
    report: Report | None = None,
    epochs: Mapping[str, int] | None = None,
    warm: WarmStart | None = None,
    held: HeldOut | None = None,
) -> tuple[Fitted, SparCode | None, list[EpochMetrics], Evaluation]:
    """Fits the towers of a phase, and SparCode where it is configured, with an evaluation after each epoch.

    Args:
        sections: What the step reads of the configuration.
        paths: Where tables and features are.
        encoder: Of the fit.
        phase: Which days, and what is measured on.
        folder: Gets the state that a later fit starts from.
        unfinished: Gets checkpoints and logs; None takes the folder of the day's fit.
        report: Called after each epoch; None prints it.
        epochs: How many each fit takes, by name; None takes those of the configuration.
        warm: The state that the fit starts from; None starts from random values.
        held: Whose examples are left out; None takes all.

    Returns:
        The towers, SparCode or None, what SparCode had after each of its epochs, and what both were evaluated with.
    """
    unfinished, report = unfinished or paths.unfinished_fit, report or _print_epoch
    known = known_positives(encoder, paths, before=phase.moment)
    keep = None if held is None else held.keep(encoder)
    towers, training, seed = sections.towers, sections.training, sections.seed
    data = read_training_data(
        paths, encoder, training=training, phase=phase.name, days=phase.days, known=known, before=phase.moment,
        keep=keep,
    )  # fmt: skip
    evaluation = evaluation_of(sections, paths, encoder, phase, known)
    fitted = fit_phase(
        encoder, data, towers=towers, training=training, seed=seed, folder=folder, unfinished=unfinished,
        evaluate=evaluation.of_towers, report=report, stopping=_stopping(sections, phase.name), epochs=epochs,
        warm=warm,
    )  # fmt: skip
    if sections.sparcode is None:
        return fitted, None, [], evaluation
    sparcode, evaluations = fit_sparcode(
        encoder, data, settings=sections.sparcode, backbone=fitted, temperature=towers.temperature, seed=seed,
        users=evaluation.users, items=evaluation.items, folder=folder, unfinished=unfinished,
        checkpoint_every_minutes=training.checkpoint_every_minutes if training.distribute == "none" else None,
        report=report, warm=warm, context_dropout=training.context_dropout,
        evaluate=None if phase.relevant is None else evaluation.of_sparcode,
    )  # fmt: skip
    return fitted, sparcode, evaluations, evaluation


def _stopping(sections: TrainSections, phase: str) -> EarlyStopping | None:
    """When the fit of a phase ends early: only where there is a recall to go by."""
    return EarlyStopping(f"recall_at_{max(sections.ks)}", sections.training.patience) if phase == "validation" else None


def _print_epoch(phase: str, report: EpochReport) -> None:
    metrics = report.metrics
    shown = [f"loss {report.loss:.4f}"]
    shown += [f"{name.replace('_at_', '@')} {value:.4f}" for name, value in metrics.items() if "recall" in name]
    if "distinct_items" in metrics:
        shown += [f"{metrics['distinct_items']:,.0f} distinct items in the top {TOP}"]
        shown += [f"{metrics['popular_share']:.0%} of their places as popularity would fill them"]
    if "interest_cosine" in metrics:
        shares = [f"{value:.0%}" for name, value in metrics.items() if name.startswith("interest_") and "share" in name]
        shown += [f"interests find {' '.join(shares)}, cosine {metrics['interest_cosine']:.2f}"]
    if "perplexity" in metrics:
        shown += [f"at least {metrics['codes_in_use']:.0f} codes in use, perplexity {metrics['perplexity']:.0f}"]
    console.console().print(f"  {phase} epoch {report.epoch}: {', '.join(shown)}")


@contextmanager
def as_chief(training: TrainingConfig, *, nightly: bool) -> Iterator[None]:
    """Has the other processes take part in what the block fits, where there are any; they end when it does.

    Args:
        training: Says whether several processes fit.
        nightly: Whether it is a nightly run that fits.

    Raises:
        ValueError: This is not the chief, or a nightly run, in which the others cannot take part.
    """
    if training.distribute == "none":
        yield
        return
    if nightly:
        raise ValueError(
            "training.distribute is multi_worker, which a nightly run does not support: its warm start from the "
            "previous fit is made by one process; set training.distribute: none for it, or use `twinspire train` and "
            "then `twinspire run`"
        )
    cluster = read_cluster()
    if cluster is not None and not cluster.is_chief:
        raise ValueError(
            f"TF_CONFIG makes this process {cluster.number} of {cluster.size}, and only the first, 0, writes what is "
            "made; here, run `twinspire train`"
        )
    processes = workers()
    yield
    processes.wait()


def take_part(sections: TrainSections, paths: RunPaths) -> str:
    """Fits what the chief's `train` fits, together with it; returns one line of outcome.

    Args:
        sections: What the chief's `train` reads of the configuration.
        paths: Where tables and features are read; nothing is written there.
    """
    processes, training = workers(), sections.training
    days = days_with_examples(paths, num_days=training.example_days, num_events=sections.example_events)
    encoder = fit_encoder_on(
        paths, days, dataset=sections.dataset, towers=sections.towers, history_length=sections.history_length
    )
    earlier, held_out = split_validation_days(days, as_of=paths.as_of, num_days=training.validation_days)
    phases = [("validation", earlier, held_out)] if earlier else []
    phases.append(("final", days, paths.as_of))
    epochs: Mapping[str, int] = {}
    with TemporaryDirectory() as folder:
        for name, fitted, moment in phases:
            known = known_positives(encoder, paths, before=moment)
            data = read_training_data(
                paths, encoder, training=training, phase=name, days=fitted, known=known, before=moment
            )
            epochs = fit_phase(
                encoder,
                data,
                towers=sections.towers,
                training=training,
                seed=sections.seed,
                folder=Path(folder),
                unfinished=Path(folder),
                evaluate=lambda towers: {},
                report=lambda title, report: None,
                stopping=_stopping(sections, name),
                epochs=epochs,
            ).epochs
    processes.wait()
    return f"{len(days)} days, with the chief, as process {processes.cluster.number} of {processes.cluster.size}"
