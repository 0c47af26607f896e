"""The running mean of trained weights: SWA, Izmailov et al. 2018; here as Chen et al. 2021."""

import contextlib
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from rst_tf.normalization import Normalization
from rst_tf.traversal import masked_layers, trained_variables, walk


class WeightAverage:
    """The mean of what a training moved, over the moments it was told to add.

    Args:
        network: Built Keras model, masked or not, that does not search.

    Attributes:
        variables: The means, float32; they and `count` are the whole state.
        count: Moments so far.

    Raises:
        ValueError: The network searches: what is trained are scores, and no weights.
    """

    def __init__(self, network):
        kernels = [m for layer in masked_layers(network) for m in layer.masked.values()]
        if any(masked.scores is not None for masked in kernels):
            raise ValueError(
                f"weights are averaged where weights are trained; network {network.name!r} searches"
            )
        self.network, self.count = network, 0
        self._trained = trained_variables(network)
        self._masks = {id(masked.kernel): masked.mask for masked in kernels}
        self._statistics = Statistics(network)
        self.variables = [
            keras.Variable(np.zeros(v.shape, np.float32), trainable=False, name="mean")
            for v in self._trained
        ]

    def add(self) -> None:
        """Counts the weights as they are into the mean."""
        self.count += 1
        for mean, variable in zip(self.variables, self._trained, strict=True):
            mean.assign_add((tf.cast(variable.value, tf.float32) - mean) / self.count)

    @contextlib.contextmanager
    def shown(self, images: Iterable) -> Iterator[None]:
        """Within it, the network has the mean weights, and statistics estimated with them.

        Pruned weights keep their stored bits. Afterwards every variable has the bits it had.

        Args:
            images: Batches [n, H, W, C] for the statistics of normalisation.
        """
        before = [variable.numpy() for variable in self.network.variables]
        try:
            for mean, variable in zip(self.variables, self._trained, strict=True):
                mask = self._masks.get(id(variable))
                value = mean.value if mask is None else tf.where(mask > 0, mean, variable)
                variable.assign(value)
            self._statistics.estimate(images)
            yield
        finally:
            for variable, value in zip(self.network.variables, before, strict=True):
                variable.assign(value)


class Statistics:
    """The running statistics of a network's normalisation layers, for weights set by hand.

    Args:
        network: Built Keras model.
    """

    def __init__(self, network):
        kinds = Normalization | keras.layers.BatchNormalization
        self._layers = [layer for layer in walk(network) if isinstance(layer, kinds)]

        @tf.function(reduce_retracing=True)
        def forward(images, keep):
            with _momentum(self._layers, keep):
                network(images, training=True)

        self._forward = forward

    def estimate(self, images: Iterable) -> None:
        """Sets them to the mean over batches, every batch with the same weight.

        Each layer sees what the layers before it give in training mode, so nothing of the old
        statistics is left. Without normalisation layers nothing is read.

        Args:
            images: Batches [n, H, W, C], at least one.
        """
        for number, batch in enumerate(images if self._layers else ()):
            self._forward(batch, tf.constant(number / (number + 1), tf.float32))


@contextlib.contextmanager
def _momentum(layers, value) -> Iterator[None]:
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = value
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.momentum = old
