"""One update of a layer's mask: the smallest weights go, others may grow. Pure functions, no state.

Sparse evolutionary training (Mocanu et al. 2018), RigL (Evci et al. 2020) and Flying Bird (Chen et
al. 2022) differ in how much is pruned, when, and which positions hold most promise.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from rst_tf import masks, random

Growth = Literal["random", "gradient", "momentum"]
Regrown = Literal["keep", "zero"]

_ROUNDING = 1e-9  # .07 * 100 is 7.000000000000001


class Rewired(NamedTuple):
    """A layer's mask after an update.

    Attributes:
        mask: Bool array, True where a weight is live.
        fresh: Bool array, True where a live weight begins anew: at 0 and without a past.
    """

    mask: np.ndarray
    fresh: np.ndarray


def share(number: int, rate: float) -> int:
    """`rate` of a number, rounded up as the published code does."""
    return math.ceil(rate * number - _ROUNDING)


def enlarged(number: int, rate: float) -> int:
    """A number and `rate` of it more, rounded down."""
    return math.floor(number * (1 + rate) + _ROUNDING)


def promise(
    growth: Growth, shape: tuple[int, ...], memory: np.ndarray | None, *key: int
) -> np.ndarray:
    """What ranks the positions of a layer where a weight may grow.

    Args:
        growth: random; gradient, the largest |gradient| of the last batch; or momentum, the
            largest |mean gradient| (Dettmers & Zettlemoyer 2019).
        shape: Of the mask.
        memory: Gradient of what the layer sees of its kernel, or its running mean, of the kernel's
            shape; random needs none.
        *key: Seed, layer and step, of which random noise is a function.

    Returns:
        Float32 array of the mask's shape.
    """
    if growth == "random":
        seed, *place = key
        return random.uniform(shape, seed, "growth", *place).astype(np.float32)
    return masks.grouped(np.abs(memory), shape)


def rewired(
    importance: np.ndarray,
    mask: np.ndarray,
    promising: np.ndarray,
    pruned: int,
    grown: int,
    regrown: Regrown = "keep",
) -> Rewired:
    """Prunes the least important live weights, then grows the most promising of all zeros.

    Those that were just pruned are zeros too, and may grow again. Counts are exact; ties are
    broken as `masks.select` does.

    Args:
        importance: |w| of every weight (or group), of the mask's shape.
        mask: Bool array.
        promising: Ranks the zeros, of the mask's shape; its absolute value counts.
        pruned: How many live weights go, at most all.
        grown: How many grow, at most as many as there are zeros then.
        regrown: A weight that is pruned and grown in one update keeps its value and its past, as
            the published code does; or begins anew at zero.

    Returns:
        The new mask, and which of its weights begin anew.
    """
    live = int(np.count_nonzero(mask))
    survivors = _largest(importance, mask, live - pruned)
    new = _largest(promising, ~survivors, grown)
    return Rewired(survivors | new, new & ~mask if regrown == "keep" else new)


def _largest(values: np.ndarray, among: np.ndarray, number: int) -> np.ndarray:
    places = np.flatnonzero(among)
    chosen = np.zeros(among.size, bool)
    chosen[places[masks.select(values.ravel()[places], number)]] = True
    return chosen.reshape(among.shape)
