"""`portable(network)`: a plain copy of a network that can be loaded without rst_tf."""

import keras
import numpy as np

from rst_tf.binary_connect import BinaryActivation
from rst_tf.normalization import Normalization
from rst_tf.surgery import baked, check_clonable
from rst_tf.trainer import RobustTrainer
from rst_tf.traversal import masked_layers


def portable(network: keras.Model) -> keras.Model:
    """A plain copy of a network: baked, and with layers that every format can hold.

    `rst_tf.Normalization` becomes `keras.layers.BatchNormalization`, which gives the same outputs
    at inference; trained further, it would follow the biased variance. An adapted
    `keras.layers.Normalization` becomes `keras.layers.Rescaling`, a binary activation a model of
    three layers.

    Args:
        network: A Sequential or functional model of one input and one output, masked or not.

    Raises:
        ValueError: The network is a trainer, subclassed, not built, of several inputs or outputs,
            of a fixed batch size, or has another layer that is defined in rst_tf.
    """
    if isinstance(network, RobustTrainer):
        raise ValueError("network is a RobustTrainer; export trainer.network")
    check_clonable(network, "export")
    _check_tensors(network)
    plain = baked(network) if masked_layers(network) else network
    pairs = []

    def convert(layer):
        pairs.append((layer, _without_rst_tf(layer)))
        return pairs[-1][1]

    copy = keras.models.clone_model(plain, clone_function=convert, recursive=True)
    for old, new in pairs:
        if new.weights:
            new.set_weights(old.get_weights())
    return keras.Model(copy.inputs[0], copy.outputs[0], name=network.name)


def count_weights(model: keras.Model) -> tuple[int, int]:
    """How many weights the kernels of a plain model have, and how many of them are 0."""
    kernels = [v.numpy() for v in model.weights if len(v.shape) > 1 and v.name != "bias"]
    return sum(k.size for k in kernels), sum(int((k == 0).sum()) for k in kernels)


def _without_rst_tf(layer):
    if type(layer) is keras.layers.Normalization:
        return _rescaling(layer)
    if type(layer) is Normalization:
        return keras.layers.BatchNormalization(
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            center=layer.affine,
            scale=layer.affine,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    if type(layer) is BinaryActivation:
        return _steep(layer)
    if type(layer).__module__.partition(".")[0] == "rst_tf":
        kind = type(layer).__name__
        raise ValueError(f"layer {layer.name!r} ({kind}) has no plain Keras layer to stand for it")
    return type(layer).from_config(layer.get_config())


def _rescaling(layer):
    """Keras' preprocessing with its statistics as constants of the graph; ONNX would lose them."""
    mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return keras.layers.Rescaling(scale, offset, name=layer.name, dtype=layer.dtype_policy)


def _steep(layer):
    """Signs from operations that every format has: exact but for numbers within 1e-30 below 0."""
    steps = [
        keras.layers.Rescaling(1e30, 1.0),
        keras.layers.ReLU(max_value=1.0),
        keras.layers.Rescaling(2.0, -1.0),
    ]
    return keras.Sequential(steps, name=layer.name)


def _check_tensors(network) -> None:
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"network {network.name!r} must have one input and one output; received "
            f"{len(network.inputs)} and {len(network.outputs)}"
        )
    size = network.inputs[0].shape[0]
    if size is not None:
        raise ValueError(f"network {network.name!r} takes {size} images at a time, not any number")
