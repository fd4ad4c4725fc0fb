"""Business weights of items, which scale their vectors so that one inner product ranks by relevance and value.

    score = w_i cos(u, v_i) = <u, w_i v_i>,   w_i = value_i^power / max_j value_j^power

N items of the catalogue, D vector width, B queries. An index holds the weighted vectors in one of two forms: `ip` as
they are, `augmented` with the length that each one lacks in one more coordinate, which makes the nearest in Euclidean
distance those with the largest inner product.

Source: the weight inside the search, Fan et al. (MOBIUS), KDD 2019; the extra coordinate, Bachrach et al., RecSys
2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from serving.retrieval.ranking import Scores

WEIGHTS_FILE = "item_weights.npy"
Form = Literal["ip", "augmented"]
FORMS: tuple[Form, ...] = get_args(Form)
# Values below this quantile of the positive ones are raised to it: the logarithm of next to nothing has no bottom.
FLOOR_QUANTILE = 0.01
LENGTH_TOLERANCE = 1e-3
# Of 92,348 learned vectors of width 64, with 500 users as queries, recall@100 at ef 400, 32 links, beam 400 at build:
#   spread of the log weights   0.1   0.2   0.4   0.6   0.8   1.2
#   augmented                  .999  .976  .967  .968  .952  .948
#   ip                         .668  .332  .086  .083  .062  .017
# Vectors without any direction in common are another matter (.8: ip .976, augmented .279), hence the second try of the
# job that builds.
AUGMENTED_UP_TO = 1.2
# With 16 links and a beam of 200 the augmented form loses up to .03 of that.
MIN_LINKS, MIN_EF_CONSTRUCTION = 32, 400


@dataclass(frozen=True)
class PositiveValues:
    """Business values that can be raised to a power and have a logarithm.

    Attributes:
        values: [N] float64, above 0.
        num_missing: How many were missing and count as the median.
        num_raised: How many were raised to the floor, zeros and negative ones among them.
    """

    values: npt.NDArray[np.float64]
    num_missing: int
    num_raised: int


def positive(values: npt.NDArray[np.floating]) -> PositiveValues:
    """Replaces what has no logarithm.

    What is missing (nan) counts as the median of the positive values, so that an item without purchases is
    neither favoured nor suppressed. Zeros, losses and everything else below the floor, the 1% quantile of the positive
    values, are raised to it.

    Args:
        values: [N] floating, in any unit.

    Returns:
        The values, and how many were replaced.

    Raises:
        ValueError: A value is infinite, or there are values and none is positive.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if np.isinf(known).any():
        raise ValueError(
            f"{int(np.isinf(known).sum())} of {len(values)} business values are infinite; expected numbers"
        )
    above_zero = known[known > 0]
    if len(values) and not len(above_zero):
        raise ValueError(
            f"0 of {len(values)} business values are positive, expected at least one; fill in the values of the "
            "events or items, or configure no weight"
        )
    if not len(values):
        return PositiveValues(values.astype(np.float64), 0, 0)
    floor = np.quantile(above_zero, FLOOR_QUANTILE)
    missing = np.isnan(values)
    filled = np.where(missing, np.median(above_zero), values.astype(np.float64))
    return PositiveValues(np.maximum(filled, floor), int(missing.sum()), int((filled < floor).sum()))


def log_weight_spread(weights: npt.NDArray[np.floating]) -> float:
    """Standard deviation of the natural logarithm of the weights, by which forms of an index differ.

    Args:
        weights: [N] floating, above 0, N >= 1.

    Raises:
        ValueError: There is no weight, or one is not positive.
    """
    if not len(weights) or not (weights > 0).all():
        raise ValueError(
            f"{int((weights > 0).sum())} of {len(weights)} weights are positive, expected all, at least one"
        )
    return float(np.log(weights.astype(np.float64)).std())


def item_weights(values: npt.NDArray[np.float64], *, power: float) -> npt.NDArray[np.float32]:
    """Tempered weights of items, the largest being 1.

    Args:
        values: [N] float64, above 0; see `positive`.
        power: Exponent (kappa): 1 ranks by the value as it is, 0 ignores it.

    Returns:
        [N] float32.
    """
    # Divided first: the power of a large value may have no float32.
    weights: npt.NDArray[np.float32] = ((values / values.max()) ** power).astype(np.float32)
    return weights


def load_weights(path: Path, *, num_items: int) -> npt.NDArray[np.float32]:
    """Reads the weights in the folder of an index: [N] float32.

    Raises:
        ValueError: The file holds anything else than `num_items` positive float32 numbers.
    """
    weights: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    if weights.shape != (num_items,) or weights.dtype != np.float32:
        raise ValueError(
            f"{path}: holds {weights.dtype} of shape {list(weights.shape)}, expected float32 of shape [{num_items}]; "
            "build the index again"
        )
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        raise ValueError(
            f"{path}: the weight of item {int(np.argmax(bad))} is {weights[np.argmax(bad)]}, expected a positive "
            "number; build the index again"
        )
    return weights


def weighted(vectors: Scores, weights: npt.NDArray[np.float32]) -> Scores:
    """Vectors whose inner product with a user's is the weighted cosine: w_i v_i.

    Args:
        vectors: [N, D] float32 of length one: another length would act as another weight.
        weights: [N] float32.

    Returns:
        [N, D] float32.

    Raises:
        ValueError: The numbers of vectors and weights differ, or a vector is not of length one.
    """
    if len(vectors) != len(weights):
        raise ValueError(f"{len(vectors)} vectors and {len(weights)} weights, expected one weight for each vector")
    lengths = np.linalg.norm(vectors, axis=1)
    off = np.abs(lengths - 1) > LENGTH_TOLERANCE
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(
            f"vector {row} has length {lengths[row]:.4f}, expected 1: its length would count as a weight; "
            "normalise the item tower's output, or index without weights"
        )
    product: Scores = vectors * weights[:, None]
    return product


def augmented(vectors: Scores) -> Scores:
    """Vectors of one common length L, which is that of the longest: [x; sqrt(L^2 - |x|^2)].

    Against queries [u; 0] the squared distance is |u|^2 + L^2 - 2 <u, x>: the order is that of the inner products.

    Args:
        vectors: [N, D] float32 of any lengths.

    Returns:
        [N, D + 1] float32.
    """
    squares = np.square(vectors, dtype=np.float64).sum(axis=1)
    missing = np.sqrt(squares.max() - squares)
    return np.hstack([vectors, missing[:, None].astype(np.float32)])


def augmented_queries(query_embeddings: Scores) -> Scores:
    """Queries for augmented vectors: [B, D] -> [B, D + 1], with 0 in the last coordinate."""
    return np.hstack([query_embeddings, np.zeros((len(query_embeddings), 1), np.float32)])


def choose_form(spread: float) -> Form:
    """The form of the index that is tried first: for vectors of equal length `ip`, which needs no further coordinate.

    Args:
        spread: See `log_weight_spread`; 0 where there are no weights.
    """
    return "augmented" if 0 < spread <= AUGMENTED_UP_TO else "ip"
