"""An estimate of the operations of one image, forward and backward, after Liu et al. (2022).

With W weights of a layer, of which the share k is kept, on maps of s x s places and r output
channels, for convolutions:

    binary          forward  k W s^2 + 11 r s^2    backward  3 k W s^2 + 4 r s^2
    full precision  forward 2k W s^2 + 11 r s^2    backward  4 k W s^2 + 4 r s^2 + W

A product with +-1 is a sign, so only sums are counted of binary weights; the other terms are
normalisation and ReLU. Dense layers have s = 1 and the constants 10 and 3.

It needs a ticket's masks alone. `rst_tf.multiply_adds` counts the products of a network that is
there, at the sizes of its maps; those counts are what `costs.json` holds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rst_tf.analysis.mask_counts import LayerMask

PUBLISHED_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Operations:
    """Operations of one layer for one image.

    Args:
        layer: Its name.
        side: Places along a side of its output maps; 1 for a dense layer.
        kept: Kept weights.
        binary: Forward and backward, of kept weights that are +-1.
        full: The same of kept weights in full precision.
        dense: The same of all weights in full precision.
    """

    layer: str
    side: int
    kept: int
    binary: tuple[int, int]
    full: tuple[int, int]
    dense: tuple[int, int]


def estimate(layers: Sequence[LayerMask], image_side: int) -> tuple[Operations, ...]:
    """The operations of each layer.

    Tickets do not hold the size of maps. It is taken to halve where the channels double, as in the
    published rule s = 2048 / r: basic residual networks of 64 channels on images of side 32.

    Args:
        layers: Of a network whose first convolution keeps the image's size.
        image_side: Of the images.
    """
    widest = next((layer.outputs for layer in layers if len(layer.shape) > 2), 1)
    return tuple(_of_layer(layer, _side(layer, image_side, widest)) for layer in layers)


def total(operations: Sequence[Operations]) -> dict[str, tuple[int, int]]:
    """Forward and backward operations of all layers: binary, full and dense."""
    return {
        name: tuple(sum(getattr(each, name)[way] for each in operations) for way in (0, 1))
        for name in ("binary", "full", "dense")
    }


def image_side(network: Mapping[str, Any] | None) -> int | None:
    """The side of the images of a described network, None if it does not tell."""
    if not network:
        return None
    if "input_shape" in network:
        return int(network["input_shape"][0])
    layers = network.get("keras", {}).get("config", {}).get("layers", [])
    shapes = [each.get("config", {}).get("batch_shape") for each in layers]
    return next((shape[1] for shape in shapes if shape and len(shape) == 4), None)


def _side(layer: LayerMask, image: int, first: int) -> int:
    if len(layer.shape) == 2:
        return 1
    return min(image, max(1, image * first // layer.outputs))


def _of_layer(layer: LayerMask, side: int) -> Operations:
    places, weights, kept = side**2, layer.size, layer.kept
    forward, backward = (10, 3) if len(layer.shape) == 2 else (11, 4)
    forward, backward = forward * layer.outputs * places, backward * layer.outputs * places
    return Operations(
        layer.name,
        side,
        kept,
        binary=(kept * places + forward, 3 * kept * places + backward),
        full=(2 * kept * places + forward, 4 * kept * places + backward + weights),
        dense=(2 * weights * places + forward, 4 * weights * places + backward + weights),
    )
