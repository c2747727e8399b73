"""Stateless random numbers: each draw is a function of a key, such as (seed, epoch, image, view).

A draw is therefore the same in any worker, on any rank and after any restart, and there is no generator state to save.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the increment of SplitMix64


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers by SplitMix64's output function, a bijection (Steele, Lea & Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(*key: ArrayLike, draws: int) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1). The same key always gives the same numbers.

    Args:
        key: non-negative integers or arrays of them; they are broadcast to one shape S.
        draws: how many numbers to return for each key.

    Returns:
        Array of shape [*S, draws].
    """
    state = np.zeros(np.broadcast_shapes(*(np.shape(part) for part in key)), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64 by design
        for part in key:
            state = _mix((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
        steps = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(state[..., None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(*key: int, length: int) -> NDArray[np.int64]:
    """Return a random permutation of 0 … `length` − 1. The same key always gives the same permutation."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(length)
