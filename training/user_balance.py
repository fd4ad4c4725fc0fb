"""How much does each example of a user count, when users are to count alike?

Shape letters: E examples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def balanced(weight: Floats, users: npt.NDArray[np.int64], power: float) -> Floats:
    """Divides each example's weight by the number of its user's examples, to a power.

        w_i <- w_i n_u(i)^-power / mean

    Recall is a mean over users, the loss a sum over examples; without this a tenth of the users decides what is
    learned.

    Args:
        weight: [E] float32, the rewards.
        users: [E] int64, the user of each example.
        power: 0 leaves examples alike, 1 makes users count alike.

    Returns:
        [E] float32 of the same mean.
    """
    if not len(weight) or power == 0:
        return weight
    changed = weight * np.bincount(users)[users].astype(np.float64) ** -power
    total = changed.sum()
    return np.asarray(changed * (weight.sum() / total if total else 1.0), dtype=np.float32)
