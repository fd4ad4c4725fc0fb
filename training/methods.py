"""Methods that the configuration chooses: parts that are added to the towers, and terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from features.encoding import NUMERIC_INPUT, Encoder
from features.schema import ENTITY_KEY, Tower
from towers.cold_items import ColdItems
from towers.counterpart import generated_fields, observed_fields
from towers.dual_augmented import AugmentedTable, augmented
from towers.two_tower import Part, TwoTower
from training.config import DualAugmentedConfig, TowerConfig, TrainingConfig
from training.losses import LOSSES
from training.losses.fused_softmax import fused_softmax
from training.losses.objective import DecayingWeight, Term, Terms


def additions(
    towers: TowerConfig,
    encoder: Encoder,
    *,
    categories: npt.NDArray[np.int32],
    trained_users: npt.NDArray[np.bool_],
    trained_items: npt.NDArray[np.bool_],
    cold: ColdItems | None = None,
) -> tuple[list[Part], list[Part]]:
    """What the configured methods add to the bottom of the user tower and of the item tower.

    Args:
        towers: Shape of the towers.
        encoder: The dataset's encoder.
        categories: [rows of items] int32, category of each item, for the fallback of cold ones.
        trained_users: [rows of users] bool, who has an example.
        trained_items: [rows of items] bool, likewise.
        cold: The state of items without events; None has none.
    """
    users: list[Part] = []
    items: list[Part] = []
    if (dual := towers.dual_augmented) is not None:
        alike, width = np.zeros(len(trained_users), np.int32), towers.embedding_dim
        users.append(_augmented(dual, encoder, "user", width=width, trained=trained_users, groups=alike))
        items.append(
            _augmented(dual, encoder, "item", width=width, trained=trained_items, groups=categories, cold=cold)
        )
    counterpart = towers.counterpart
    if counterpart is not None and counterpart.source == "generated":
        users.append(generated_fields(counterpart.item_fields))
        items.append(generated_fields(counterpart.user_fields))
    elif counterpart is not None:
        users.append(observed_fields({name: f"user_{name}_shares" for name in counterpart.item_fields}))
        items.append(observed_fields({name: f"item_{name}_shares" for name in counterpart.user_fields}))
    return users, items if cold is None else [*items, cold.content]


def cold_items(encoder: Encoder, towers: TowerConfig) -> ColdItems:
    """The state of items without events in the item tower."""
    none = float(encoder.without_events()[NUMERIC_INPUT["item"]][0])
    buckets = encoder.item_ids.bucket_of_row() if towers.id_buckets else None
    return ColdItems(encoder.input_specs("item"), none, buckets)


def terms(
    towers: TowerConfig, training: TrainingConfig, *, category: str | None, seed: int, teacher: TwoTower | None
) -> Terms:
    """What is minimised, with weights.

    Args:
        towers: Shape of the towers.
        training: How they are fitted.
        category: Column of the items' category, if there is one.
        seed: Of what a term samples.
        teacher: Whose student is fitted: the three-class loss then takes the place of the softmax. None fits no
            student.
    """
    negatives = training.negatives
    chosen: list[tuple[float | DecayingWeight, Term]] = [(training.softmax_weight, _main(training, seed, teacher))]
    if training.positions and teacher is None:
        chosen.append((training.position_weight, LOSSES["positions"](training.log_q, kernel=fused_softmax)))
    if training.distillation is not None:
        chosen.append((training.distillation.weight, LOSSES["distillation"](loss=training.distillation.loss)))
    if negatives.num_hard_in_batch:
        hard = LOSSES["hard_in_batch"](num_hard=negatives.num_hard_in_batch, margin=negatives.hard_margin)
        chosen.append((1.0, hard))
    dual = towers.dual_augmented
    if dual is not None:
        chosen += [(dual.user_weight, LOSSES["mimic"]("user")), (dual.item_weight, LOSSES["mimic"]("item"))]
        if dual.category_alignment and category is not None:
            chosen.append((dual.category_alignment, LOSSES["category_alignment"](category)))
    if towers.interests is not None and towers.num_interests > 1:
        apart = LOSSES["interests"](temperature=towers.interests.local_temperature)
        chosen.append((towers.interests.local_weight, apart))
    counterpart = towers.counterpart
    if counterpart is not None and counterpart.source == "generated":
        guesses = LOSSES["counterpart"](user_fields=counterpart.user_fields, item_fields=counterpart.item_fields)
        chosen.append((DecayingWeight(counterpart.weight, decay=counterpart.decay), guesses))
    chosen += [(extra.weight, LOSSES[name](**extra.arguments)) for name, extra in training.extra_losses.items()]
    return _positive(chosen)


def state_of(chosen: Terms) -> dict[str, tf.Module]:
    """What weights and terms remember from step to step, by a name for the checkpoint."""
    parts = [part for pair in chosen for part in pair if isinstance(part, tf.Module)]
    return {f"term_{number}": part for number, part in enumerate(parts)}


def _main(training: TrainingConfig, seed: int, teacher: TwoTower | None) -> Term:
    mobius = training.mobius
    if teacher is None or mobius is None:
        return LOSSES["softmax"](training.log_q, kernel=fused_softmax)
    return LOSSES["three_classes"](
        teacher,
        irrelevant_quantile=mobius.irrelevant_quantile,
        bad_per_click=mobius.bad_per_click,
        unclick_per_click=mobius.unclick_per_click,
        seed=seed,
    )


def _positive(chosen: Sequence[tuple[float | DecayingWeight, Term]]) -> Terms:
    """Without the terms whose weight is 0, which would be worked out for nothing."""
    return [(weight, term) for weight, term in chosen if isinstance(weight, DecayingWeight) or weight > 0]


def _augmented(
    settings: DualAugmentedConfig,
    encoder: Encoder,
    tower: Tower,
    *,
    width: int,
    trained: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.int32],
    cold: ColdItems | None = None,
) -> Part:
    ids = encoder.user_ids if tower == "user" else encoder.item_ids
    table = AugmentedTable(
        num_rows=ids.num_table_rows,
        width=width,
        trained=trained,
        groups=groups if settings.cold == "category_mean" else None,
        dropout=settings.dropout,
        name=f"{tower}_augmented",
    )
    are_cold = None if cold is None else lambda tensors: cold.are(tensors, "augmented")
    return augmented(table, id_name=ENTITY_KEY[tower], are_cold=are_cold)
