"""`portable(network)`: a copy of a network that any Keras loads, without rst_tf."""

import keras

from rst_tf.layers import masked_layers, walk
from rst_tf.normalization import Normalization
from rst_tf.surgery import _check_model, baked
from rst_tf.trainer import RobustTrainer


def portable(network: keras.Model) -> keras.Model:
    """A plain copy of a network: baked, and with Keras' normalisation in place of rst_tf's.

    `rst_tf.Normalization` becomes `keras.layers.BatchNormalization`, which gives the same outputs
    at inference; trained further, it would follow the biased variance.

    Args:
        network: A Sequential or functional model of one input and one output, masked or not.

    Raises:
        ValueError: The network is a trainer, subclassed, not built, of several inputs or outputs,
            of a fixed batch size, or has another layer that is defined in rst_tf.
    """
    if isinstance(network, RobustTrainer):
        raise ValueError("network is a RobustTrainer; export trainer.network")
    _check_model(network, "export")
    _check_tensors(network)
    plain = baked(network) if masked_layers(network) else network
    pairs = []

    def convert(layer):
        pairs.append((layer, _without_rst_tf(layer)))
        return pairs[-1][1]

    copy = keras.models.clone_model(plain, clone_function=convert, recursive=True)
    for old, new in pairs:
        for source, target in zip(walk(old), walk(new), strict=True):
            store = {}  # Keras' own way: what a layer derives from its variables is derived again
            source.save_own_variables(store)
            target.load_own_variables(store)
    return keras.Model(copy.inputs[0], copy.outputs[0], name=network.name)


def weights(model: keras.Model) -> tuple[int, int]:
    """How many weights the kernels of a plain model have, and how many of them are 0."""
    kernels = [v.numpy() for v in model.weights if len(v.shape) > 1 and v.name != "bias"]
    return sum(k.size for k in kernels), sum(int((k == 0).sum()) for k in kernels)


def _without_rst_tf(layer):
    if type(layer) is Normalization:
        return keras.layers.BatchNormalization(
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            center=layer.affine,
            scale=layer.affine,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    if type(layer).__module__.partition(".")[0] == "rst_tf":
        kind = type(layer).__name__
        raise ValueError(f"layer {layer.name!r} ({kind}) has no plain Keras layer to stand for it")
    return type(layer).from_config(layer.get_config())


def _check_tensors(network) -> None:
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"network {network.name!r} must have one input and one output; received "
            f"{len(network.inputs)} and {len(network.outputs)}"
        )
    size = network.inputs[0].shape[0]
    if size is not None:
        raise ValueError(f"network {network.name!r} takes {size} images at a time, not any number")
