"""What is a row's own item compared with? All other candidates of the batch, the queue's and the row's private ones.

Shape letters: B rows of a batch, C shared candidates in it, Q columns of the queue, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from towers.two_tower import VECTOR
from training.losses import SOFTMAX, LogQ, two_tower_softmax, weighted_mean
from training.objective import Outputs, Term

Kernel = Callable[..., tf.Tensor]


def softmax_term(log_q: LogQ, *, kernel: Kernel = two_tower_softmax) -> Term:
    """The main loss: mean over rows of a sampled softmax, weighted by reward.

    Args:
        log_q: Correction of the sampling bias, one of `training.losses.SOFTMAX`.
        kernel: (users [B, D], items [C + Q, D], temperature=, log_q=, mask=, item_gradient=) -> [B], the same as
            `two_tower_softmax`; used wherever its inputs say it all: candidates are shared, and the own one is
            corrected like the others.

    Raises:
        ValueError: There is no such correction.
    """
    if log_q not in SOFTMAX:
        raise ValueError(f"log_q is {log_q!r}, expected one of: {', '.join(SOFTMAX)}")
    in_kernel = log_q in ("none", "yi2019")

    def term(outputs: Outputs) -> tf.Tensor:
        if in_kernel and outputs.private is None:
            losses = kernel(
                outputs.users[VECTOR],
                outputs.common,
                temperature=outputs.temperature,
                log_q=outputs.log_q if log_q == "yi2019" else None,
                mask=outputs.mask,
                item_gradient=outputs.item_gradient,
            )
        else:
            losses = SOFTMAX[log_q](outputs.scores, outputs.log_q, mask=outputs.mask)
        return weighted_mean(losses, outputs.weight)

    return term
