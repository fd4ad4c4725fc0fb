"""Losses: one family a file, pure functions and the terms made of them.

Another loss is a file of its own here and an entry of `LOSSES`; `training.extra_losses` in the configuration names it
and gives its weight and its arguments.
"""

from collections.abc import Callable

from training.losses.counterpart import counterpart_term
from training.losses.distillation import distillation_term
from training.losses.dual_augmented import category_alignment_term, mimic_term
from training.losses.hard_in_batch import hard_in_batch_term
from training.losses.interests import interests_term
from training.losses.mobius import ThreeClassLoss
from training.losses.objective import Term
from training.losses.positions import positions_term
from training.losses.softmax import softmax_term

LOSSES: dict[str, Callable[..., Term]] = {
    "softmax": softmax_term,
    "hard_in_batch": hard_in_batch_term,
    "mimic": mimic_term,
    "category_alignment": category_alignment_term,
    "counterpart": counterpart_term,
    "interests": interests_term,
    "distillation": distillation_term,
    "positions": positions_term,
    "three_classes": ThreeClassLoss,
}
"""Terms of the loss by name: from plain values to a function of `Outputs`."""
