"""What each method needs of the others and of the dataset, checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from features.kinds import Kind
from features.schema import Schema, Tower
from training.config import CounterpartConfig, TowerConfig, TrainingConfig


def check_methods(towers: TowerConfig, training: TrainingConfig, dataset: Schema) -> None:
    """Refuses methods that lack what they need.

    Raises:
        ValueError: One does.
    """
    _check_registries(towers, training)
    _check_negatives(training)
    if training.distribute != "none":
        _check_distributed(towers, training)
    if towers.id_dropout and not towers.id_buckets:
        raise ValueError(
            f"towers.id_dropout is {towers.id_dropout} and id_buckets is 0: there is no bucket to replace an id by; "
            "set id_buckets too"
        )
    if training.mobius is not None:
        _check_mobius(towers, training)
    if training.distillation is not None:
        _check_distillation(training)
    if towers.num_interests > 1:
        _check_interests(towers, training)
    dual, counterpart = towers.dual_augmented, towers.counterpart
    if dual is not None and dual.category_alignment:
        _check_category(dataset)
    if counterpart is not None:
        _check_counterpart(counterpart, dataset)
    _check_shares(counterpart, dataset)


def method_warnings(towers: TowerConfig, training: TrainingConfig) -> list[str]:
    """Methods that lack what they presume, and so have little or no effect; a sentence each."""
    found = []
    for key in ("dual_augmented", "counterpart"):
        if getattr(towers, key) is not None and not towers.hidden_units and towers.head == "residual":
            found.append(
                f"towers.{key} is added to towers without hidden layers: nothing crosses; set towers.hidden_units"
            )
    if towers.id_buckets and not towers.id_dropout:
        found.append(
            f"towers.id_buckets is {towers.id_buckets} and id_dropout is 0: no bucket is ever trained; set id_dropout, "
            "0.1 for instance"
        )
    return found + _warnings_of_negatives(training)


def _warnings_of_negatives(training: TrainingConfig) -> list[str]:
    negatives, found = training.negatives, []
    private = {key: getattr(negatives, key) for key in ("easy_per_hard", "num_impressions") if getattr(negatives, key)}
    # A source of one's own may draw by popularity, too.
    biased = negatives.in_batch or negatives.queue_size or negatives.extra_sources
    if training.mobius is not None:
        private |= {key: getattr(negatives, key) for key in ("queue_size", "num_random") if getattr(negatives, key)}
        for key, value in private.items():
            found.append(f"training.negatives.{key} is {value}, and training.mobius does not read it; leave one out")
    elif training.log_q != "none" and not biased:
        found.append(
            f"training.log_q is {training.log_q}, and no negative is drawn by popularity: there is no bias to correct; "
            "set training.negatives.in_batch: true, or training.log_q: none"
        )
    elif training.log_q == "yi2019" and negatives.hard_weight is None:
        for key, value in private.items():
            found.append(
                f"training.negatives.{key} is {value}, and log_q yi2019 corrects the own item but not these negatives, "
                "which then weigh little; set training.negatives.hard_weight, 1 for instance"
            )
    first, last = negatives.mined_band
    if negatives.easy_per_hard is not None and last - first + 1 < negatives.mined_per_user:
        found.append(
            f"training.negatives.mined_band is {negatives.mined_band}: {last - first + 1} ranks, and mined_per_user "
            f"asks for {negatives.mined_per_user} items of them; widen the band"
        )
    return found


def _check_registries(towers: TowerConfig, training: TrainingConfig) -> None:
    """Refuses names that are not registered, arguments that these do not take, and a fit without any loss."""
    # Registries are imported where one of their names is not built in: they import TensorFlow.
    if towers.history_encoder != "mean":
        from towers.history import HISTORY_ENCODERS

        key = "towers.history_encoder"
        check_registered(HISTORY_ENCODERS, towers.history_encoder, towers.history_settings, key=key)
        try:
            HISTORY_ENCODERS[towers.history_encoder](**towers.history_settings)
        except ValueError as error:
            raise ValueError(f"towers.history_settings of {towers.history_encoder}: {error}") from None
        length = towers.history_settings.get("length")
        if isinstance(length, int) and training.positions >= length:
            raise ValueError(
                f"training.positions is {training.positions}, and towers.history_settings has a length of {length}: "
                "each position needs a place to read; lower the one, or raise the other"
            )
    elif towers.history_settings:
        raise ValueError(
            f"towers.history_settings has {', '.join(towers.history_settings)}, and history_encoder is mean, which "
            "takes history_power and history_decay_days; set those, or name another encoder"
        )
    if training.negatives.extra_sources:
        from training.negatives import NEGATIVE_SOURCES

        for name, given in training.negatives.extra_sources.items():
            check_registered(NEGATIVE_SOURCES, name, given, key="training.negatives.extra_sources")
    if not training.softmax_weight and not training.extra_losses:
        raise ValueError("training.softmax_weight is 0 and extra_losses names no loss; set one of them")
    if training.extra_losses:
        from training.losses import LOSSES

        for name, extra in training.extra_losses.items():
            check_registered(LOSSES, name, extra.arguments, key="training.extra_losses")
            if (needed := _PART_OF_LOSS.get(name)) is not None and not _is_set(towers, training, needed):
                raise ValueError(
                    f"training.extra_losses names {name!r}, which reads what {needed} adds to the towers; set {needed}"
                    ", or leave the loss out"
                )


_PART_OF_LOSS = {
    "mimic": "towers.dual_augmented",
    "counterpart": "towers.counterpart",
    "interests": "towers.interests",
    "positions": "training.positions",
    "distillation": "training.distillation",
    "three_classes": "training.mobius",
}
"""Losses that read a part of the towers -> the key without which the part is not there."""


def _is_set(towers: TowerConfig, training: TrainingConfig, key: str) -> bool:
    if key == "towers.interests":
        return towers.num_interests > 1
    section, name = key.split(".")
    return bool(getattr({"towers": towers, "training": training}[section], name))


def check_registered(
    registry: Mapping[str, Callable[..., object]], name: str, arguments: Mapping[str, object], *, key: str
) -> None:
    """Refuses a name that is not registered, and arguments that it does not take.

    Args:
        registry: What can be named.
        name: What is named.
        arguments: What it is made of, by name.
        key: Where the name is in the configuration.

    Raises:
        ValueError: Either is the case.
    """
    if name not in registry:
        raise ValueError(f"{key} names {name!r}, which is not registered; expected one of: {', '.join(registry)}")
    taken = inspect.signature(registry[name])
    try:
        taken.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{key}: {name} takes {taken}, found {dict(arguments)}: {error}") from None


def _check_negatives(training: TrainingConfig) -> None:
    negatives = training.negatives
    first, last = negatives.mined_band
    if first > last:
        raise ValueError(f"training.negatives.mined_band is {negatives.mined_band}, expected its first rank first")
    if bool(negatives.num_impressions) != (negatives.impressions is not None):
        raise ValueError(
            f"training.negatives.impressions is {negatives.impressions} and num_impressions is "
            f"{negatives.num_impressions}; set both or neither"
        )
    if training.hard_model_weight is not None and negatives.easy_per_hard is None:
        raise ValueError(
            f"training.hard_model_weight is {training.hard_model_weight}, which asks for a model with mined negatives, "
            "and training.negatives.easy_per_hard takes none; set it too, 100 for instance"
        )
    if negatives.num_hard_in_batch and not negatives.in_batch:
        raise ValueError(
            f"training.negatives.num_hard_in_batch is {negatives.num_hard_in_batch} and in_batch is false: the other "
            "rows' items are no negatives; set in_batch: true, or num_hard_in_batch: 0"
        )
    drawn = (negatives.num_uniform, negatives.num_random, negatives.queue_size, negatives.easy_per_hard or 0)
    if not negatives.in_batch and not any(drawn) and not negatives.extra_sources:
        raise ValueError(
            "training.negatives names no source; set in_batch, num_uniform, num_random, queue_size, easy_per_hard or "
            "extra_sources"
        )


def _check_distributed(towers: TowerConfig, training: TrainingConfig) -> None:
    """Refuses what looks at all rows of a batch, keeps vectors from batch to batch, or draws at random in the model."""
    dual, negatives = towers.dual_augmented, training.negatives
    found: dict[str, tuple[object, object]] = {
        "towers.id_dropout": (towers.id_dropout, 0),
        "towers.dual_augmented.dropout": (dual.dropout if dual is not None else 0, 0),
        "towers.history_settings.dropout": (towers.history_settings.get("dropout", 0), 0),
        "training.positions": (training.positions, 0),
        "training.negatives.queue_size": (negatives.queue_size, 0),
        "training.negatives.num_hard_in_batch": (negatives.num_hard_in_batch, 0),
        "training.mobius": (training.mobius, None),
        # A term of one's own may look at all rows, too.
        "training.extra_losses": (dict(training.extra_losses), {}),
    }
    for name, (value, off) in found.items():
        if value != off:
            given = value if off == 0 else "set"
            raise ValueError(
                f"{name} is {given} and training.distribute is {training.distribute}: several processes would not fit "
                f"what one fits; set {name}: {'null' if off is None else off}, or training.distribute: none"
            )


def _check_mobius(towers: TowerConfig, training: TrainingConfig) -> None:
    if training.hard_model_weight is not None:
        raise ValueError("training.hard_model_weight and training.mobius both fit a second model; choose one")
    if towers.embedding_dim < 3:
        raise ValueError(
            f"towers.embedding_dim is {towers.embedding_dim}, expected at least 3: training.mobius cuts vectors into "
            "three parts"
        )
    if not training.negatives.in_batch and not training.negatives.num_uniform:
        raise ValueError(
            "training.mobius samples its pairs from the batch, and training.negatives has neither in_batch nor "
            "num_uniform; set one of them"
        )


def _check_distillation(training: TrainingConfig) -> None:
    settings = training.distillation
    assert settings is not None
    if training.mobius is not None:
        raise ValueError(
            "training.distillation and training.mobius are both set: the three classes have no list of candidates to "
            "imitate a teacher on; choose one"
        )
    mined = training.negatives.easy_per_hard
    if settings.denoise_above is not None and mined is None:
        raise ValueError(
            f"training.distillation.denoise_above is {settings.denoise_above}, which drops mined negatives, and "
            "training.negatives.easy_per_hard takes none; set it too, 100 for instance"
        )
    if not settings.weight and settings.denoise_above is None:
        raise ValueError(
            "training.distillation.weight is 0 and denoise_above is null: the teacher would do nothing; set one of "
            "them, or distillation: null"
        )


def _check_interests(towers: TowerConfig, training: TrainingConfig) -> None:
    """Refuses what has no meaning for several vectors of a user."""
    found: list[tuple[str, object, str, str]] = [
        ("training.mobius", training.mobius and "set", "null", "its three classes are parts of one vector of a user"),
        (
            "training.hard_model_weight", training.hard_model_weight, "null",
            "the interests of two models have no common order to be joined in",
        ),
        ("training.positions", training.positions, "0", "interests are read at the end of a history alone"),
        (
            "towers.history_settings.means", towers.history_settings.get("means"), "[]",
            "interests read the state at each place, not means",
        ),
    ]  # fmt: skip
    for name, value, off, why in found:
        if value:
            raise ValueError(
                f"{name} is {value} and towers.interests.num is {towers.num_interests}: {why}; set {name}: {off}, or "
                "towers.interests: null"
            )


def _check_category(dataset: Schema) -> None:
    category = dataset.item_category
    if category not in dataset.columns_of_kind("item", Kind.CATEGORICAL):
        found = "which is not set" if category is None else f"{category!r}, which is not categorical"
        raise ValueError(
            f"towers.dual_augmented.category_alignment needs dataset.item_category, {found}; set it to a categorical "
            "item column, or category_alignment: 0"
        )


def _check_counterpart(counterpart: CounterpartConfig, dataset: Schema) -> None:
    if not counterpart.user_fields and not counterpart.item_fields:
        raise ValueError("towers.counterpart names no fields; set user_fields or item_fields, or counterpart: null")
    sides: tuple[tuple[Tower, tuple[str, ...]], ...] = (
        ("user", counterpart.user_fields),
        ("item", counterpart.item_fields),
    )
    for tower, fields in sides:
        allowed = dataset.columns_of_kind(tower, Kind.CATEGORICAL)
        if wrong := [name for name in fields if name not in allowed]:
            raise ValueError(
                f"towers.counterpart.{tower}_fields names {wrong[0]!r}, expected categorical {tower} columns: "
                f"{', '.join(allowed) or '(none declared)'}"
            )
        if repeated := [name for name in fields if fields.count(name) > 1]:
            raise ValueError(f"towers.counterpart.{tower}_fields names {repeated[0]!r} more than once; name it once")
        # Those of users are counted among the buyers of an item, and the other way round.
        other: Tower = "item" if tower == "user" else "user"
        counted = [shares.column for shares in dataset.shares_of(other)]
        if counterpart.source == "statistic" and (wrong := [name for name in fields if name not in counted]):
            raise ValueError(
                f"towers.counterpart.source is statistic, and dataset.{other}_statistics_of lacks {wrong[0]!r}; "
                "list it there"
            )


def _check_shares(counterpart: CounterpartConfig | None, dataset: Schema) -> None:
    """Refuses shares that are computed every day and read by no tower."""
    reads = counterpart if counterpart is not None and counterpart.source == "statistic" else CounterpartConfig()
    sides: tuple[tuple[Tower, Tower, tuple[str, ...]], ...] = (
        ("user", "item", reads.item_fields),
        ("item", "user", reads.user_fields),
    )
    for tower, other, read_fields in sides:
        for shares in dataset.shares_of(tower):
            if shares.column not in read_fields:
                raise ValueError(
                    f"dataset.{tower}_statistics_of names {shares.column!r}, and no tower reads its shares; set "
                    f"towers.counterpart: {{source: statistic, {other}_fields: [{shares.column}]}}, or remove it there"
                )
