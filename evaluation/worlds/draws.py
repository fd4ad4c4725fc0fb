"""Random numbers that depend on what they are for and not on what was drawn before them.

A number is a hash of the seed, of a purpose, and of counters such as user and day. So a block of users, or one day, can
be made by itself, in any order, and comes out the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The constants of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniforms(seed: int, purpose: str, *counters: npt.ArrayLike) -> Floats:
    """Numbers drawn evenly between 0 and 1, neither of them included.

    Args:
        seed: Of the world.
        purpose: What they are for; another purpose gives independent numbers.
        counters: Integers of 0 and more, broadcast against each other.

    Returns:
        float64 of the broadcast shape.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    state = np.array(int.from_bytes(digest, "little"), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            state = _mixed(state + _STEP * (np.asarray(counter).astype(np.uint64) + np.uint64(1)))
        state = _mixed(state + _STEP)
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def normals(seed: int, purpose: str, *counters: npt.ArrayLike) -> Floats:
    """The same, of a normal distribution with mean 0 and standard deviation 1."""
    found: Floats = ndtri(uniforms(seed, purpose, *counters))
    return found


def integers(seed: int, purpose: str, below: int, *counters: npt.ArrayLike) -> Ints:
    """The same, integers of 0 to `below` - 1."""
    return (uniforms(seed, purpose, *counters) * below).astype(np.int64)


def chosen(draw: npt.ArrayLike, weights: Floats) -> Ints:
    """Which of several alternatives each draw falls to.

    Args:
        draw: [n] between 0 and 1.
        weights: [n, m] or [m], nonnegative with a positive sum; probabilities up to a factor.

    Returns:
        [n] int64, 0 to m - 1.
    """
    edges = np.cumsum(weights, axis=-1)
    target = np.asarray(draw)[..., None] * edges[..., -1:]
    found: Ints = np.minimum((target >= edges).sum(axis=-1), edges.shape[-1] - 1)
    return found


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
