"""A network from outside: its layers, masked kernels and trained variables, in a fixed order."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from rst_tf import masks
from rst_tf.layers import MaskedKernel, MaskedVariable, formed
from rst_tf.normalization import Normalization

_LAYER_OF = {  # by the names of Keras' classes of operations, which are not public
    "Relu": keras.layers.ReLU,
    "ReLU": keras.layers.ReLU,
    "Add": keras.layers.Add,
}


def walk(network) -> Iterator[keras.layers.Layer]:
    """A network and all its sublayers in traversal order, each once."""
    seen, stack = set(), [network]
    while stack:
        layer = stack.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            stack.extend(reversed(layer._layers))  # Keras' list of direct sublayers, in order


def acts_as(operation) -> type:
    """The class of layer that a step of a functional model acts as.

    `keras.ops.relu(x)`, `keras.activations.relu(x)` and `x + y` are operations of the graph and no
    layers; one that acts as no layer, is one, or is not of Keras, has its own class.
    """
    own = type(operation)
    if isinstance(operation, keras.layers.Layer) or not own.__module__.startswith("keras."):
        return own
    return _LAYER_OF.get(own.__name__, own)


def masked_layers(network) -> list[MaskedKernel]:
    """The masked layers of a network in traversal order, each once."""
    return [layer for layer in walk(network) if isinstance(layer, MaskedKernel)]


def masked_kernels(network) -> list[MaskedVariable]:
    """The masked kernels of a network in traversal order; ValueError if it has none."""
    found = _every_masked(network)
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


def set_density(network, density: float, power: float | None = None) -> None:
    """In a search: the fraction that is kept of the kernels with scores from now on.

    A training function that was traced before keeps the old number: trace it anew.

    Args:
        network: A network that searches.
        density: Fraction of each kernel, or of all together where one threshold is for all of them
            or `power` is given.
        power: Gives each layer a density of its own, as `masks.adaptive_densities` does.
    """
    masks.check_density(density)
    kernels = masked_kernels(network)
    layers = [layer for layer in masked_layers(network) if layer.search]
    sizes = [sum(masked.size for masked in layer.masked.values()) for layer in layers]
    own = [density] * len(layers)
    if power is not None:
        own = masks.adaptive_densities(sizes, density, power)
    for layer, fraction in zip(layers, own, strict=True):
        layer.density = fraction
    refresh_masks(kernels)


def refresh_masks(kernels: Sequence[MaskedVariable], static: bool = True) -> None:
    """In a search: forms all masks anew from the scores. Call it whenever they moved.

    One after the other, so that what they need on the way is not needed for all at once.

    Args:
        kernels: The masked kernels of a network; those without scores are left alone.
        static: As in `masks.select_in_graph`; needed where XLA compiles the call.
    """
    before: list = []
    for masked in kernels:
        if masked.scores is not None and not masked.pooled:
            with tf.control_dependencies(before):
                before = [masked.refresh(static=static)]
    pooled = [masked for masked in kernels if masked.pooled]
    if pooled:
        with tf.control_dependencies(before):
            _refresh_pooled(pooled, static)


def _refresh_pooled(kernels: Sequence[MaskedVariable], static: bool) -> None:
    layer = kernels[0].layer
    floored = layer.allocation == "global_floor"
    kept = masks.count(sum(m.size for m in kernels), layer.density, layer.count)
    least = [masks.floor_of(m.size, layer.density) if floored else 0 for m in kernels]
    scores = [masked.scores.value for masked in kernels]
    chosen = masks.select_across_in_graph(scores, kept, least, static=static)
    for masked, mask in zip(kernels, chosen, strict=True):
        masked.mask.assign(mask)


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
    kernels = _every_masked(network)
    with kernels_given(kernels, [ops.stop_gradient(masked.effective()) for masked in kernels]):
        yield


@contextlib.contextmanager
def kernels_given(kernels: Sequence[MaskedVariable], values: Sequence) -> Iterator[None]:
    """Within this context layers see these tensors in place of their masked kernels.

    Args:
        kernels: Masked kernels of a network.
        values: For each of them a tensor of its shape.
    """
    outside = formed.__dict__.get("kernels", {})
    given = {
        (id(masked.layer), masked.attribute): value
        for masked, value in zip(kernels, values, strict=True)
    }
    formed.kernels = outside | given
    try:
        yield
    finally:
        formed.kernels = outside


def dense_gradients(network, loss: Callable[[], Any]) -> list:
    """Gradients with respect to what layers see of their kernels, for kept and pruned alike.

    A masked kernel is `w * m`, so the gradient of the mask is this one times `w`, and that of the
    stored kernel this one times `m`: at a pruned weight it is what a regrown one would feel.

    Args:
        network: Keras model with masked layers.
        loss: Runs the network and returns a scalar; called once.

    Returns:
        Per masked kernel in traversal order, a tensor of its shape; 0 where nothing reaches it.
    """
    kernels = masked_kernels(network)
    values = [tf.convert_to_tensor(masked.effective()) for masked in kernels]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        with kernels_given(kernels, values):
            scalar = loss()
    return tape.gradient(scalar, values, unconnected_gradients="zero")


def _every_masked(network) -> list[MaskedVariable]:
    return [masked for layer in masked_layers(network) for masked in layer.masked.values()]
