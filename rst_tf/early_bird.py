"""The early-bird test: a sparse mask that has stopped changing can be drawn before the end.

You et al. (2020) stop a training when the mask that pruning would give now hardly differs from
those of the last epochs; Robust Bird (Chen et al. 2022) does so in a cheap first training.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from rst_tf.masks import check_choice, check_density

Criterion = Literal["unstructured", "channel"]
_LIMITS = {"unstructured": 0.08, "channel": 0.1}


@dataclasses.dataclass(frozen=True)
class EarlyBird:
    """When a mask counts as found: it is near each of those of the epochs before.

    Args:
        criterion: What the masks are of: unstructured, the magnitudes of all convolution kernels
            (of all kernels in a network without convolutions); or channel, the magnitudes of the
            scales of all batch normalisations, under one threshold.
        window: Masks that are compared, the newest included, at least 2.
        threshold: Largest distance from the newest mask to an older one, as the fraction of
            places where they differ, in [0, 1]; none is .08, or .1 with `criterion=channel`.
    """

    criterion: Criterion = "unstructured"
    window: int = 5
    threshold: float | None = None

    def __post_init__(self):
        check_choice(self.criterion, get_args(Criterion), "criterion")
        if self.window < 2:
            raise ValueError(f"window must be at least 2; received window={self.window!r}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1]; received threshold={self.threshold!r}")

    @property
    def limit(self) -> float:
        """The largest distance of a mask that was found."""
        return _LIMITS[self.criterion] if self.threshold is None else self.threshold

    def mask(self, network, density: float) -> np.ndarray:
        """The mask that pruning would give now.

        Args:
            network: Keras model with masked layers.
            density: Fraction kept, in (0, 1].

        Returns:
            Bool [number of weights, or of channels].

        Raises:
            ValueError: The network has no masked layers, or for channels no normalisation with a
                scale.
        """
        return kept(np.concatenate([v.ravel() for v in self._ranked(network)]), density)

    def emerged(self, distances: Sequence[float]) -> bool:
        """Whether the newest mask is found.

        Args:
            distances: From it to the older masks of the window, as `MaskWindow.add` gives them.
        """
        return len(distances) == self.window - 1 and max(distances) <= self.limit

    def _ranked(self, network) -> list[np.ndarray]:
        from rst_tf.traversal import masked_kernels

        if self.criterion == "channel":
            return _scales(network)
        kernels = masked_kernels(network)
        convolutions = [masked for masked in kernels if masked.spatial_axes]
        return [masked.kernel.numpy() for masked in convolutions or kernels]


class MaskWindow:
    """The last masks, first in, first out.

    Args:
        length: How many it holds.
        size: Entries of a mask.

    Attributes:
        bits: The masks, eight entries a byte, the newest last: uint8 [length, ceil(size / 8)].
        seen: How many masks were ever added.
    """

    def __init__(self, length: int, size: int):
        self.size, self.seen = size, 0
        self.bits = np.zeros((length, math.ceil(size / 8)), np.uint8)

    def add(self, mask: np.ndarray) -> list[float]:
        """Takes in a mask.

        Args:
            mask: Bool [size].

        Returns:
            Its distances to the older masks that are held now, the oldest first.
        """
        self.bits = np.concatenate([self.bits[1:], np.packbits(mask)[None]])
        self.seen += 1
        older = self.bits[-min(self.seen, len(self.bits)) : -1]
        return [_differing(self.bits[-1], each) / self.size for each in older]


def kept(values: np.ndarray, density: float) -> np.ndarray:
    """The mask of an early-bird test: what lies strictly above a threshold.

    The threshold is the element at index floor(N * (1 - density)) in ascending order, so it and
    what ties with it are not kept. Pruning itself counts exactly: see `Ticket.prune`.

    Args:
        values: Numbers [N]; their magnitudes rank.
        density: Fraction kept, about, in (0, 1].

    Returns:
        Bool [N].
    """
    check_density(density)
    values = np.abs(np.asarray(values))
    sparsity = round(1 - density, 12)  # 1 - 0.9 is not 0.1
    place = min(math.floor(sparsity * values.size + 1e-9), values.size - 1)
    return values > np.partition(values, place)[place]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fraction of the places where two masks differ (normalised Hamming distance), in [0, 1].

    Args:
        first: Bool array.
        second: Bool array of the same shape.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have one shape; received {first.shape} and {second.shape}"
        )
    return _differing(np.packbits(first), np.packbits(second)) / first.size


def _differing(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.bitwise_count(first ^ second).sum(dtype=np.int64))


def _scales(network) -> list[np.ndarray]:
    """The gammas of a network's batch normalisations in traversal order."""
    import keras

    from rst_tf.normalization import Normalization
    from rst_tf.traversal import walk

    kinds = Normalization | keras.layers.BatchNormalization
    layers: list[Any] = [layer for layer in walk(network) if isinstance(layer, kinds)]
    scales = [layer.gamma for layer in layers if getattr(layer, "gamma", None) is not None]
    if not scales:
        raise ValueError(
            "criterion='channel' needs batch normalisation with a scale, as with affine=true; "
            f"received network {network.name!r}"
        )
    return [scale.numpy() for scale in scales]
