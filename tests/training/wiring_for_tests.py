"""Fits in which nothing is read or computed: what is configured is recorded where it arrives."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from training import co_purchase, fit, fit_sparcode, methods, phase, steps
from training.config import TrainSections
from training.data import batches, training_data
from training.negatives.known_positives import KnownPositives
from twinspire.config import Config

DAY = dt.date(2024, 1, 10)
Answer = Callable[[dict[str, Any]], Any]
Calls = dict[str, list[Any]]


class Wiring:
    """Stands in for what is configured.

    Attributes:
        calls: `function.parameter` -> what it was given, call by call.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: Calls = {}
        self.patch = patch

    def note(self, place: str, value: object) -> None:
        self.calls.setdefault(place, []).append(value)

    def recorder(self, name: str, original: Callable[..., Any], answer: Answer | None) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def record(*args: Any, **given: Any) -> Any:
            bound = signature.bind(*args, **given).arguments
            for parameter, value in bound.items():
                is_open = signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD
                for key, one in value.items() if is_open else [(parameter, value)]:
                    self.note(f"{name}.{key}", one)
            return MagicMock() if answer is None else answer(bound)

        return record

    def record(self, module: Any, *names: str, prefix: str = "", answer: Answer | None = None) -> None:
        """In the place of functions or classes of a module; `answer` makes what they return of their arguments."""
        for name in names:
            self.patch.setattr(module, name, self.recorder(prefix + name, getattr(module, name), answer))

    def record_entries(self, registry: dict[str, Any], *names: str, answer: Answer | None = None) -> None:
        """Likewise of a registry, where entries may be new."""
        for name in names:
            original = registry.get(name, lambda **given: None)
            self.patch.setitem(registry, name, self.recorder(name, original, answer))

    def silence(self, module: Any, *names: str, answer: object = None) -> None:
        """Lets functions of a module do nothing."""
        for name in names:
            self.patch.setattr(module, name, MagicMock(return_value=MagicMock() if answer is None else answer))


def arrivals(overrides: dict[str, Any], *, is_warm_start: bool) -> Calls:
    """Fits with a configuration; `overrides` are values by their dotted keys."""
    with pytest.MonkeyPatch.context() as patch:
        wiring = Wiring(patch)
        _replace_data(wiring)
        _replace_towers(wiring)
        _replace_sparcode(wiring)
        parent = MagicMock(as_of=DAY - dt.timedelta(days=2)) if is_warm_start else None
        sections = pick(TrainSections, config_of(overrides))
        steps.train(sections, RunPaths(Path("runs"), DAY, "wiring"), parent=parent, is_warm_start=is_warm_start)
    return {place: [plain(value) for value in values] for place, values in wiring.calls.items()}


def plain(value: Any) -> Any:
    """The value, if it can be configured, or else the name of its type."""
    if isinstance(value, tuple | list):
        return tuple(plain(one) for one in value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str | Path) else type(value).__name__


def config_of(overrides: dict[str, Any]) -> Config:
    """A configuration, validated as ever."""
    plain: dict[str, Any] = {
        "name": "wiring", "as_of": DAY, "ingest": {"source": {"kind": "complete_journey"}},
        "dataset": {"user_columns": {"age": "categorical"}, "item_columns": {"aisle": "categorical"}},
    }  # fmt: skip
    for key, value in overrides.items():
        *sections, last = key.split(".")
        inner = plain
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = deepcopy(value)
    return Config.model_validate(plain)


def _replace_data(wiring: Wiring) -> None:
    patch, encoder = wiring.patch, MagicMock()
    encoder.schema.item_category, encoder.item_ids.num_table_rows = "aisle", 3
    known = KnownPositives.of(np.array([1]), np.array([1]), num_user_rows=2)
    wiring.record(steps, "days_with_examples", answer=lambda given: [DAY])
    wiring.record(phase, "split_validation_days", answer=lambda given: ([DAY], DAY))
    wiring.record(steps, "HeldOut")
    wiring.silence(steps, "known_positives", answer=known)
    wiring.silence(steps, "evaluation_of", "_export", "Growth", "WarmStart")
    wiring.silence(phase, "first_meetings")
    wiring.silence(steps, "compare", "_outcome", answer="")
    wiring.silence(steps, "_lineage", "read_lineage", answer={})
    wiring.silence(steps, "_best_epochs", answer=3)
    wiring.patch.setattr(steps, "validation_vectors", lambda sections, *others: (MagicMock(), 0.5, sections))
    wiring.record(steps, "EarlyStopping", answer=lambda given: SimpleNamespace(best=lambda reports: 3))
    wiring.silence(steps, "_unfinished", "_write_epochs", "shutil")
    wiring.silence(steps.SchemaFacts, "load")
    steps.SchemaFacts.load.return_value = None  # type: ignore[attr-defined]
    patch.setattr(steps.steps, "fresh_folder", lambda folder: nullcontext(MagicMock()))
    wiring.record(training_data.encoding, "fit_encoder", answer=lambda given: encoder)
    wiring.silence(steps, "grown_encoder", answer=encoder)
    wiring.silence(training_data, "pq", "_categories")
    wiring.silence(training_data.examples, "read_negatives", answer=(None, None))
    wiring.record(training_data, "read_impressions", answer=lambda given: ("shown", "shown"))
    wiring.silence(training_data, "_lists")
    training_data._lists.side_effect = lambda encoder, users, items: users or "mined"  # type: ignore[attr-defined]
    wiring.record(training_data, "read_teacher_lists")
    wiring.silence(training_data, "met_before", answer=(None, None, None))
    wiring.silence(training_data, "later_meetings", answer="")
    wiring.record(batches, "load_span")
    wiring.record(training_data, "Fade")
    wiring.record(batches, "spans", answer=lambda given: iter([given["load"](given["days"])][:0]))


def _replace_towers(wiring: Wiring) -> None:
    def model(given: dict[str, Any]) -> MagicMock:
        for weight, name in given["terms"]:
            is_decaying = isinstance(weight, methods.DecayingWeight)
            wiring.note(f"{name} term.weight", float(weight.value) if is_decaying else weight)
        del wiring.calls["RetrievalModel.terms"]
        return MagicMock()

    def joined(given: dict[str, Any]) -> MagicMock:
        for _, weight in given["members"]:
            wiring.note("concatenate.weight", weight)
        return MagicMock()

    def decaying(weight: Any, value: float, *, decay: float) -> None:
        wiring.note("DecayingWeight.decay", decay)
        initialise(weight, value, decay=decay)

    initialise = methods.DecayingWeight.__init__
    wiring.patch.setattr(methods.DecayingWeight, "__init__", decaying)
    wider = MagicMock()
    wider.user.output.shape.__getitem__.return_value = wider.item.output.shape.__getitem__.return_value = 3
    wiring.record(co_purchase, "item_factors")
    wiring.record(co_purchase, "with_factors", answer=lambda given: wider)
    wiring.record(fit, "build_two_tower", "make_optimizer", "VectorQueue", "StreamingFrequency", "make_deterministic")
    wiring.record(fit, "with_three_parts", "with_last_place", "listed", "epoch_batches")
    wiring.record(fit, "hard_per_row", answer=lambda given: 7)
    wiring.record(fit, "concatenate", answer=joined)
    wiring.record(fit, "RetrievalModel", answer=model)
    wiring.record(fit, "BatchPlan", answer=lambda given: SimpleNamespace(**given))
    wiring.record(fit, "fit", answer=lambda given: list(given["batches_of"](0))[:0])
    wiring.silence(fit._Single, "_trained", answer=(np.zeros(2, bool), np.zeros(2, bool)))
    wiring.silence(fit, "part_widths", answer=(1,))
    wiring.silence(fit, "carry_over", "save_state", "refresh_fallbacks")
    wiring.silence(fit, "state_of_fit", answer={})
    wiring.silence(fit, "progress", answer=nullcontext(lambda steps: None))
    wiring.record_entries(fit.NEGATIVE_SOURCES, "uniform", "random", "toy_source")
    wiring.record_entries(fit.HISTORY_ENCODERS, "mean", "toy_encoder")
    wiring.record_entries(
        fit.PROCESSES, "multi_worker", answer=lambda given: wiring.note("processes", 1) or MagicMock()
    )
    for name in (*methods.LOSSES, "toy_loss"):
        wiring.record_entries(methods.LOSSES, name, answer=lambda given, name=name: " ".join([name, *_sides(given)]))
    wiring.record(methods, "AugmentedTable", "generated_fields", "observed_fields")
    wiring.silence(methods, "augmented")


def _sides(given: dict[str, Any]) -> list[str]:
    """To tell apart the terms of one loss for both sides."""
    return [value for value in given.values() if value in ("user", "item")]


def _replace_sparcode(wiring: Wiring) -> None:
    wiring.record(fit_sparcode, "tokenizers", answer=lambda given: (MagicMock(), MagicMock()))
    wiring.record(fit_sparcode, "ProductQuantizer", "MlpInteraction", "ProductInteraction", "SparCodeModel", "adam")
    wiring.record(fit_sparcode, "fit", "uniform", prefix="sparcode ")
    wiring.record(fit_sparcode, "BatchPlan", prefix="sparcode ", answer=lambda given: SimpleNamespace(**given))
    token = SimpleNamespace(of=wiring.recorder("FactorToken", fit_sparcode.FactorToken.of, None))
    wiring.patch.setattr(fit_sparcode, "FactorToken", token)
    variables = SimpleNamespace(Variable=lambda value, name, dtype: wiring.note(name, value), float32=np.float32)
    wiring.patch.setattr(fit_sparcode, "tf", variables)
    wiring.silence(
        fit_sparcode, "make_deterministic", "carry_over", "save_state", "_refitted", "rest_tower", "SparCode"
    )
    wiring.silence(fit_sparcode, "embed", answer=np.zeros((2, 4), np.float32))
    wiring.silence(fit_sparcode, "state_of", answer={})
    wiring.silence(fit_sparcode, "progress", answer=nullcontext(lambda steps: None))
