"""Which of many differences are still no accident, when so many were looked at?

A comparisons.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def holm(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjusted p-values that keep the chance of even one false alarm among all comparisons.

        adjusted of the i-th smallest = max over j <= i of min(1, (A - j + 1) p_j)

    It holds however the comparisons depend on each other.

    Args:
        p_values: [A] float64; nan was not tested: it stays nan and is not one of the A.

    Returns:
        [A] float64; at most alpha where the comparison is rejected at a family-wise error rate of alpha.

    Raises:
        ValueError: A p-value is not between 0 and 1.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    adjusted, tested = _tested(p_values)
    order = np.argsort(adjusted[tested], kind="stable")
    raised = adjusted[tested][order] * np.arange(len(order), 0, -1)
    back = np.empty(len(order))
    back[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    adjusted[tested] = back
    return adjusted


def benjamini_hochberg(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjusted p-values that keep the expected share of false alarms among the alarms.

        adjusted of the i-th smallest = min over j >= i of min(1, A p_j / j)

    It holds for independent and for positively dependent comparisons.

    Args:
        p_values: [A] float64; nan was not tested: it stays nan and is not one of the A.

    Returns:
        [A] float64; at most alpha where the comparison is rejected at a false discovery rate of alpha.

    Raises:
        ValueError: A p-value is not between 0 and 1.

    Source: Benjamini and Hochberg, JRSS B 1995.
    """
    # Slow to import, and nothing else here needs it.
    from scipy.stats import false_discovery_control

    adjusted, tested = _tested(p_values)
    if tested.any():
        adjusted[tested] = false_discovery_control(adjusted[tested], method="bh")
    return adjusted


def _tested(p_values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """A copy to adjust in place, and which of them were tested."""
    copied = np.array(p_values, dtype=np.float64)
    tested = ~np.isnan(copied)
    bad = tested & ~((copied >= 0) & (copied <= 1))
    if bad.any():
        raise ValueError(f"{bad.sum()} p-values are not between 0 and 1, the first {copied[bad][0]}")
    return copied, tested
