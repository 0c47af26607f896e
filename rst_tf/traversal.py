"""A network from outside: its layers, masked kernels and trained variables, in a fixed order."""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from rst_tf.layers import MaskedKernel, MaskedVariable, formed
from rst_tf.masks import check_density
from rst_tf.normalization import Normalization


def walk(network) -> Iterator[keras.layers.Layer]:
    """A network and all its sublayers in traversal order, each once."""
    seen, stack = set(), [network]
    while stack:
        layer = stack.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            stack.extend(reversed(layer._layers))  # Keras' list of direct sublayers, in order


def masked_layers(network) -> list[MaskedKernel]:
    """The masked layers of a network in traversal order, each once."""
    return [layer for layer in walk(network) if isinstance(layer, MaskedKernel)]


def masked_kernels(network) -> list[MaskedVariable]:
    """The masked kernels of a network in traversal order; ValueError if it has none."""
    found = [masked for layer in masked_layers(network) for masked in layer.masked.values()]
    if not found:
        raise ValueError(
            f"network {network.name!r} has no masked layers, or is not built; "
            "use rst.masked(model) or build it with masked layers"
        )
    return found


def trained_variables(network) -> list:
    """What a training step moves: the scores if the network has any, else what is trainable."""
    scores = [m.scores for layer in masked_layers(network) for m in layer.masked.values()]
    return [s for s in scores if s is not None] or network.trainable_variables


def set_density(network, density: float) -> None:
    """In a search: the fraction that every kernel with scores keeps from now on.

    A training function that was traced before keeps the old number: trace it anew.
    """
    check_density(density)
    for masked in masked_kernels(network):
        if masked.scores is not None:
            masked.layer.density = density
            masked.refresh()


def finalize_statistics(network) -> None:
    """Lets adapted `keras.layers.Normalization` layers see variables that were assigned to them."""
    for layer in walk(network):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def reset_statistics(network) -> None:
    """Sets the running statistics of every batch normalisation to those before any training."""
    for layer in walk(network):
        if isinstance(layer, Normalization | keras.layers.BatchNormalization):
            layer.moving_mean.assign(ops.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(ops.ones_like(layer.moving_variance))


@contextlib.contextmanager
def kernels_formed_once(network) -> Iterator[None]:
    """Within this context `kernel * mask` is formed once, not at every call of the network.

    For the loop of an attack, during which neither changes. No gradient reaches the weights.
    """
    outside = formed.__dict__.get("kernels", {})
    formed.kernels = outside | {
        (id(layer), name): ops.stop_gradient(masked.effective())
        for layer in masked_layers(network)
        for name, masked in layer.masked.items()
    }
    try:
        yield
    finally:
        formed.kernels = outside
