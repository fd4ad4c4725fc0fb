"""Each key of the configuration reaches the parameters that it names, and no others."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args
from unittest.mock import MagicMock

import pytest

from artefacts.config import Section, pick
from beam_jobs import steps as beam_steps
from beam_jobs.config import MineSections
from training.config import DailyConfig, SparCodeFitConfig, TowerConfig, TrainingConfig

harness = runpy.run_path(str(Path(__file__).parent / "wiring_for_tests.py"))
Change = tuple[object, ...]
"""Another value of a key, and the places that get it; one that begins with ~ gets what is derived from it."""

EVERYTHING = {
    "dataset.item_category": "aisle",
    "training.frequency": "streaming",
    "training.log_q": "khrylchenko2025",
    "training.hard_model_weight": 0.7,
    "training.positions": 2,
    "training.negatives.easy_per_hard": 50.0,
    "training.negatives.queue_size": 9,
    "training.negatives.impressions": "shown",
    "training.negatives.num_impressions": 2,
    "training.negatives.num_hard_in_batch": 1,
    "towers.dual_augmented": {},
    "towers.counterpart": {"user_fields": ["age"], "item_fields": ["aisle"]},
    "towers.id_buckets": 5,
    "sparcode": {"codes": 64},
}
# What else has to change with a key.
WITH = {
    "towers.counterpart.source": {"dataset.user_statistics_of": ["aisle"], "dataset.item_statistics_of": ["age"]},
}
FULL_FIT: dict[str, Change] = {
    "towers.embedding_dim": (7, "build_two_tower.embedding_dim", "AugmentedTable.width"),
    "towers.factor_dim": (8, "item_factors.num_factors"),
    "towers.factor_weight": (3.5, "with_factors.weight"),
    "towers.factor_powers": ((0.35, 0.45, 0.55), "~item_factors.*_power"),
    "towers.hidden_units": ((6, 4), "build_two_tower.hidden_units"),
    "towers.history_encoder": ("toy_encoder", "~mean.*"),
    "towers.history_power": (0.75, "mean.power"),
    "towers.history_decay_days": ((11.0,), "mean.decay_days"),
    "towers.last_place": (True, "with_last_place.chosen"),
    "towers.text_length": (13, "fit_encoder.text_length"),
    "towers.text_buckets": (17, "fit_encoder.text_buckets"),
    "towers.head": ("mlp", "build_two_tower.head"),
    "towers.activation": ("tanh", "build_two_tower.activation"),
    "towers.id_buckets": (19, "fit_encoder.id_buckets"),
    "towers.id_dropout": (0.15, "build_two_tower.id_dropout"),
    "towers.temperature": (0.35, "RetrievalModel.temperature", "~FactorToken.scale"),
    "towers.learn_temperature": (True, "RetrievalModel.learn_temperature"),
    "towers.dual_augmented.user_weight": (0.21, "mimic user term.weight"),
    "towers.dual_augmented.item_weight": (0.22, "mimic item term.weight"),
    "towers.dual_augmented.category_alignment": (0.23, "category_alignment term.weight"),
    "towers.dual_augmented.dropout": (0.24, "AugmentedTable.dropout"),
    "towers.dual_augmented.cold": ("zero", "~AugmentedTable.groups"),
    "towers.counterpart.user_fields": ((), "counterpart.user_fields", "generated_fields.fields"),
    "towers.counterpart.item_fields": ((), "counterpart.item_fields", "generated_fields.fields"),
    "towers.counterpart.source": (
        "statistic", "~generated_fields.*", "~observed_fields.*", "~counterpart*", "~DecayingWeight.*", "~fit.saved"
    ),
    "towers.counterpart.weight": (0.375, "counterpart term.weight"),
    "towers.counterpart.decay": (0.32, "DecayingWeight.decay"),
    "training.epochs": (4, "fit.epochs"),
    "training.patience": (5, "EarlyStopping.patience"),
    "training.batch_size": (640, "BatchPlan.batch_size", "~hard_per_row.num_easy"),
    "training.optimizer": ("adagrad", "make_optimizer.name"),
    "training.learning_rate": (0.41, "make_optimizer.learning_rate"),
    "training.learning_rate_decay": (0.77, "fit.learning_rate_decay"),
    "training.user_balance": (0.42, "load_span.user_balance"),
    "training.log_q": ("none", "softmax.log_q", "positions.log_q", "~BatchPlan.correct"),
    "training.frequency": ("exact", "~StreamingFrequency.*", "~BatchPlan.frequency", "~fit.draws"),
    "training.streaming.num_hashes": (5, "StreamingFrequency.num_hashes"),
    "training.streaming.num_buckets": (512, "StreamingFrequency.num_buckets"),
    "training.streaming.rate": (0.43, "StreamingFrequency.rate"),
    "training.streaming.initial_gap": (44.0, "StreamingFrequency.initial_gap"),
    "training.negatives.num_uniform": (51, "uniform.num", "~hard_per_row.num_easy"),
    "training.negatives.num_random": (52, "random.num", "~hard_per_row.num_easy"),
    "training.negatives.queue_size": (53, "VectorQueue.size", "BatchPlan.queue_size"),
    "training.negatives.num_hard_in_batch": (2, "hard_in_batch.num_hard"),
    "training.negatives.hard_margin": (0.54, "hard_in_batch.margin"),
    "training.negatives.easy_per_hard": (55.0, "hard_per_row.easy_per_hard"),
    "training.negatives.hard_weight": (0.55, "BatchPlan.hard_weight"),
    "training.negatives.impressions": ("elsewhere", "~read_impressions.path"),
    "training.negatives.num_impressions": (56, "listed.num"),
    "training.negatives.extra_sources": ({"toy_source": {"num": 57}}, "~toy_source.num", "~BatchPlan.sources"),
    "training.reward": ("value", "load_span.reward"),
    "training.reward_power": (0.61, "load_span.reward_power"),
    "training.softmax_weight": (0.62, "softmax term.weight"),
    "training.extra_losses": (
        {"toy_loss": {"weight": 0.63, "arguments": {"num": 1}}},
        "~toy_loss term.weight", "~toy_loss.num",
    ),
    "training.hard_model_weight": (0.64, "concatenate.weight", "~concatenate.members"),
    "training.examples": ("all", "~load_span.only_first"),
    "training.example_days": (65, "days_with_examples.num_days"),
    "training.history_dropout": (0.35, "BatchPlan.history_dropout"),
    "training.context_dropout": (0.45, "BatchPlan.context_dropout", "sparcode BatchPlan.context_dropout"),
    "training.item_dropout": (0.25, "BatchPlan.item_dropout", "~build_two_tower.item_*"),
    "training.positions": (3, "BatchPlan.num_positions", "build_two_tower.num_positions"),
    "training.position_weight": (0.65, "positions term.weight"),
    "training.example_fade_days": (65.5, "Fade.days"),
    "training.shuffle_days": (66, "spans.size"),
    "training.keep_in_memory": (False, "~spans.held"),
    "training.validation_days": (6, "split_validation_days.num_days"),
    "training.checkpoint_every_minutes": (
        3.5, "fit.checkpoint_every_minutes", "sparcode fit.checkpoint_every_minutes"
    ),
    "sparcode.head_tokens": (3, "tokenizers.num_head_tokens"),
    "sparcode.interest_tokens": (4, "tokenizers.num_interest_tokens"),
    "sparcode.item_tokens": (5, "tokenizers.num_item_tokens", "MlpInteraction.num_item_tokens"),
    "sparcode.parts": (3, "ProductQuantizer.num_parts", "FactorToken.num_parts", "~*.width"),
    "sparcode.codes": (7, "ProductQuantizer.num_codes", "FactorToken.num_codes"),
    "sparcode.interaction": ("product", "~MlpInteraction.*", "~ProductInteraction.*"),
    "sparcode.hidden_units": (9, "MlpInteraction.hidden_units"),
    "sparcode.initial_bias": (0.71, "bias"),
    "sparcode.scale": (7.5, "MlpInteraction.scale"),
    "sparcode.commitment": (0.72, "SparCodeModel.commit_weight"),
    "sparcode.estimator": ("stop_gradient", "SparCodeModel.estimator"),
    "sparcode.decay": (0.73, "ProductQuantizer.decay"),
    "sparcode.restart_below": (0.74, "ProductQuantizer.restart_below"),
    "sparcode.log_q": ("none", "SparCodeModel.log_q", "~sparcode BatchPlan.correct"),
    "sparcode.epochs": (8, "sparcode fit.epochs"),
    "sparcode.choose_epochs": (False, "~sparcode fit.epochs"),
    "sparcode.batch_size": (75, "sparcode BatchPlan.batch_size"),
    "sparcode.num_uniform": (76, "sparcode uniform.num"),
    "sparcode.learning_rate": (0.77, "adam.learning_rate"),
}  # fmt: skip
CHANGED_ALONE: dict[str, tuple[dict[str, object], dict[str, Change]]] = {
    "everything": (EVERYTHING, FULL_FIT),
    "shared negatives": (
        {"training.negatives.num_uniform": 5},
        {"training.negatives.in_batch": (False, "BatchPlan.in_batch")},
    ),
    "several processes": (
        {},
        {"training.distribute": ("multi_worker", "~processes", "~fit.graph_of", "~fit.of_chief", "~fit.checkpoint*")},
    ),
    "another encoder": (
        {"towers.history_encoder": "toy_encoder", "towers.history_settings": {"num": 4}},
        {"towers.history_settings": ({"num": 5}, "~toy_encoder.num")},
    ),
    "several interests": (
        {"towers.interests": {}},
        {
            "towers.interests.num": (3, "build_two_tower.num_interests"),
            "towers.interests.local_weight": (0.45, "interests term.weight"),
            "towers.interests.local_temperature": (0.55, "interests.temperature"),
        },
    ),
    "three classes": (
        {"training.mobius": {}},
        {
            "training.mobius.irrelevant_quantile": (0.81, "three_classes.irrelevant_quantile"),
            "training.mobius.bad_per_click": (5, "three_classes.bad_per_click"),
            "training.mobius.unclick_per_click": (6, "three_classes.unclick_per_click"),
            "training.mobius.bad_weight": (0.82, "with_three_parts.bad_weight"),
        },
    ),
    "warm start": (
        {"sparcode": {}, "daily.holdout_share": 0.3},
        {
            "daily.epochs": (4, "fit.epochs", "sparcode fit.epochs"),
            "daily.replay_days": (6, "~days_with_examples.num_days"),
            "daily.holdout_share": (0.4, "HeldOut.share"),
        },
    ),
}
CHANGED_ALONE["a teacher"] = (
    {"training.distillation": {"denoise_above": 0.5}, "training.negatives.easy_per_hard": 50.0},
    {
        "training.distillation.teacher": ("item_knn", "~read_teacher_lists.folder"),
        "training.distillation.lists": (71, "~read_teacher_lists.folder"),
        "training.distillation.refresh_days": (72, "~read_teacher_lists.folder"),
        "training.distillation.temperature": (0.73, "read_teacher_lists.temperature"),
        "training.distillation.denoise_above": (0.74, "read_teacher_lists.denoise_above"),
        "training.distillation.loss": ("rank", "distillation.loss"),
        "training.distillation.weight": (0.75, "distillation term.weight"),
    },
)
CASES = [(name, key) for name, (_, changes) in CHANGED_ALONE.items() for key in changes]
MINING: dict[str, tuple[object, str]] = {
    "training.negatives.mined_band": ((3, 9), "band"),
    "training.negatives.mined_per_user": (4, "per_user"),
    "training.negatives.near_duplicate": (0.6, "near_duplicate"),
}
# Read by the nightly run, not by the fit.
NIGHTLY = {"daily.full_every_days", "daily.keep_exposure_days", "daily.detectable_fall"}


@cache
def unchanged(name: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = harness["arrivals"](CHANGED_ALONE[name][0], is_warm_start=name == "warm start")
    return found


@pytest.mark.parametrize(("name", "key"), CASES, ids=[key for _, key in CASES])
def test_a_key_reaches_the_parameters_that_it_names_and_no_others(name: str, key: str) -> None:
    base, changes = CHANGED_ALONE[name]
    value, *places = changes[key]
    before = unchanged(name)
    after = harness["arrivals"](base | {key: value} | WITH.get(key, {}), is_warm_start=name == "warm start")
    changed = {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}
    patterns = {str(place).removeprefix("~") for place in places}
    assert {place for place in changed if not any(fnmatch(place, pattern) for pattern in patterns)} == set()
    assert {pattern for pattern in patterns if not any(fnmatch(place, pattern) for place in changed)} == set()
    for place in places:
        if not str(place).startswith("~"):
            assert harness["plain"](value) in after[str(place)]


@pytest.mark.parametrize("key", MINING)
def test_a_key_of_mining_reaches_its_setting(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, (value, name) = MagicMock(side_effect=KeyboardInterrupt), MINING[key]
    monkeypatch.setattr(beam_steps, "previous_fit", MagicMock())
    monkeypatch.setattr(beam_steps, "IndexReport", MagicMock())
    monkeypatch.setattr(beam_steps.json, "loads", lambda text: {})
    monkeypatch.setattr(beam_steps.mine_negatives, "MiningSettings", settings)
    given = []
    for overrides in ({}, {key: value}):
        with pytest.raises(KeyboardInterrupt):
            beam_steps.mine(pick(MineSections, harness["config_of"](overrides)), MagicMock(), MagicMock())
        given.append(settings.call_args.kwargs)
    assert given[1] == given[0] | {name: value}
    assert given[1] != given[0]


def test_a_loss_that_is_not_finite_is_explained_in_each_fit() -> None:
    assert {"fit.cause_of", "sparcode fit.cause_of"} <= unchanged("everything").keys()


def keys_of(section: type[Section], prefix: str) -> Iterator[str]:
    """The dotted keys of a section and of those in it."""
    for name, field in section.model_fields.items():
        kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else [field.annotation]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        yield from keys_of(inner[0], f"{prefix}.{name}") if inner else [f"{prefix}.{name}"]


def test_every_key_of_the_fit_is_tried() -> None:
    sections = {"towers": TowerConfig, "training": TrainingConfig, "sparcode": SparCodeFitConfig, "daily": DailyConfig}
    every = {key for prefix, section in sections.items() for key in keys_of(section, prefix)}
    assert every == {key for _, key in CASES} | MINING.keys() | NIGHTLY
