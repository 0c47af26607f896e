"""Layers that see only the signs of the weights they train, and activations that are signs.

BinaryConnect (Courbariaux, Bengio & David 2015): a step moves latent real weights, which are kept
in [-1, 1], by the gradient of their signs. Binary activations have the gradient of Bi-Real Net
(Liu et al. 2018), as Diffenderfer & Kailkhura (2021) use it.
"""

import keras
from keras import ops

from rst_tf import layers

_package = keras.saving.register_keras_serializable(package="rst_tf")


def signs(x):
    """-1 where x is below 0, else +1; the gradient is that of x itself.

    Args:
        x: Tensor of any shape.
    """

    @ops.custom_gradient
    def replaced(x):
        return _signs(x), lambda upstream: upstream

    return replaced(ops.convert_to_tensor(x))


def drawn_signs(x, seed):
    """+1 with probability (x + 1) / 2, else -1; the gradient is that of this probability.

    Args:
        x: Tensor of any shape; beyond [-1, 1] the sign is certain and the gradient 0.
        seed: `keras.random.SeedGenerator`.
    """
    x = ops.convert_to_tensor(x)
    noise = keras.random.uniform(x.shape, dtype=x.dtype, seed=seed)

    @ops.custom_gradient
    def replaced(chance):
        one = ops.ones_like(chance)
        return ops.where(noise < chance, one, -one), lambda upstream: upstream

    return replaced(ops.clip((x + 1) / 2, 0, 1))


def _signs(x):
    one = ops.ones_like(x)
    return ops.where(x < 0, -one, one)


@_package
class Within(keras.constraints.Constraint):
    """Keeps every weight in [-1, 1]."""

    def __call__(self, value):
        """The nearest values in [-1, 1]."""
        return ops.clip(value, -1, 1)


class BinaryKernel:
    """Mixin for a masked layer whose mask stays one: the layer sees the signs of its kernel.

    Args:
        stochastic: In training, a weight w is +1 with probability (w + 1) / 2, drawn at each pass;
            attacks and inference see the signs.
    """

    def __init__(self, *args, stochastic=False, **kwargs):
        super().__init__(*args, **kwargs)
        if self.search or self.gain != "none":
            raise ValueError(
                "binary weights are trained and have no gain; received "
                f"search={self.search!r}, gain={self.gain!r}"
            )
        self.stochastic = stochastic
        self.seed_generator = keras.random.SeedGenerator() if stochastic else None

    def add_weight(self, *args, **kwargs):
        """As in Keras; the kernel is kept in [-1, 1] by whatever optimiser trains it."""
        if kwargs.get("name") in self.kernel_attributes:
            kwargs["constraint"] = Within()
        return super().add_weight(*args, **kwargs)

    def seen(self, value, mask):
        """Signs of a kernel, 0 where it is pruned."""
        return signs(value) * mask

    def call(self, inputs, training=False):
        """As in Keras, with signs that are drawn if `training` and stochastic."""
        outside = layers.formed.__dict__.get("kernels", {})
        missing = [m for m in self.masked.values() if (id(self), m.attribute) not in outside]
        if not (training and self.stochastic and missing):
            return super().call(inputs)
        layers.formed.kernels = outside | {
            (id(self), m.attribute): drawn_signs(m.kernel, self.seed_generator) * m.mask
            for m in missing
        }
        try:
            return super().call(inputs)
        finally:
            layers.formed.kernels = outside

    def get_config(self):
        """The masked layer's configuration, and how signs are formed."""
        return {**super().get_config(), "stochastic": self.stochastic}


@_package
class BinaryDense(BinaryKernel, layers.MaskedDense):
    """`keras.layers.Dense` with weights +1 and -1; see `BinaryKernel`."""


@_package
class BinaryConv2D(BinaryKernel, layers.MaskedConv2D):
    """`keras.layers.Conv2D` with weights +1 and -1; see `BinaryKernel`."""


@_package
class BinaryDepthwiseConv2D(BinaryKernel, layers.MaskedDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with weights +1 and -1; see `BinaryKernel`."""


BINARY_CLASS = {
    keras.layers.Dense: BinaryDense,
    keras.layers.Conv2D: BinaryConv2D,
    keras.layers.DepthwiseConv2D: BinaryDepthwiseConv2D,
}
"""Which binary class stands for which Keras class."""


@_package
class BinaryActivation(keras.layers.Layer):
    """-1 below 0, else +1; the gradient is 2 (1 - |x|) within [-1, 1] and 0 beyond."""

    def call(self, inputs):
        """Signs of the inputs."""

        @ops.custom_gradient
        def replaced(x):
            slope = 2 * ops.relu(1 - ops.abs(x))
            return _signs(x), lambda upstream: upstream * slope

        return replaced(ops.convert_to_tensor(inputs))

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape


def clamp(network) -> None:
    """Brings the trained weights of binary layers into [-1, 1], as every step does."""
    from rst_tf.traversal import masked_kernels

    for masked in masked_kernels(network):
        if isinstance(masked.layer, BinaryKernel):
            masked.kernel.assign(ops.clip(masked.kernel, -1, 1))
