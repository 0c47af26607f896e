"""`folded(model)`: normalisation as part of the kernel before it, which saves passes over memory.

At inference a batch normalisation is a scale and an offset per channel, and a convolution with a
scaled kernel and a bias gives the same numbers, up to rounding. TensorFlow computes convolution,
bias, sum and ReLU in one pass, forward and, for the gradient of the input, backward.
"""

from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
from keras.src.models import Functional  # as in surgery

from rst_tf.normalization import Normalization
from rst_tf.surgery import converted
from rst_tf.traversal import walk

_NORMS = (Normalization, keras.layers.BatchNormalization)
_KERNELS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
)


def folded(model: keras.Model) -> keras.Model:
    """A copy for inference whose normalisations stand in the kernels and biases before them.

    Folded are `rst_tf.Normalization` and `keras.layers.BatchNormalization` over channels that
    alone read a Dense, Conv1D, Conv2D or DepthwiseConv2D layer without activation, in nested
    models too. Outputs differ by rounding. The copy is not for training: its statistics are gone.

    Args:
        model: Any Keras model. One without such a pair, a subclassed one, and one with layers that
            are neither Keras' nor ours (nobody knows what a copy of them is) is returned as it is.
    """
    if not _copyable(model):
        return model
    norm_of = {id(kernel): norm for kernel, norm in _pairs(model)}
    if not norm_of:
        return model
    norms = {id(norm) for norm in norm_of.values()}

    def convert(layer):
        if id(layer) in norms:
            return keras.layers.Activation("linear", name=layer.name)
        config = layer.get_config()
        if id(layer) in norm_of:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def copy(old, new):
        if id(old) in norms:
            return
        values = old.variables
        if id(old) in norm_of:
            values = _scaled(old, norm_of[id(old)])
        for variable, value in zip(new.variables, values, strict=True):
            variable.assign(value)

    return converted(model, convert, copy)[0]


def _copyable(model) -> bool:
    """Whether a copy of a model is known to be the same model."""
    if not isinstance(model, keras.Sequential | Functional) or not model.built:
        return False
    return all(
        type(layer).__module__.partition(".")[0] in ("keras", "rst_tf")
        and not isinstance(layer, keras.layers.Lambda)
        and (layer is model or not isinstance(layer, keras.Model) or _graph(layer) is not None)
        for layer in walk(model)
    )


def _pairs(model) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Layers with a kernel, and the normalisation that alone reads each."""
    graphs = [_graph(layer) for layer in walk(model) if isinstance(layer, keras.Model)]
    nodes = {id(node): node for graph in graphs for node in _nodes(graph)}.values()
    often = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    readers.update(id(tensor) for graph in graphs for tensor in graph.outputs)
    for node in nodes:
        norm = node.operation
        told = [value for value in node.arguments.kwargs.values() if value not in (None, False)]
        if not isinstance(norm, _NORMS) or told:  # of a training, say
            continue
        (x,) = node.input_tensors
        kernel = x._keras_history.operation
        if (
            type(kernel) in _KERNELS
            and (readers[id(x)], often[id(kernel)], often[id(norm)]) == (1, 1, 1)
            and _fits(kernel, norm, len(x.shape))
        ):
            yield kernel, norm


def _graph(model):
    """A model as a functional one, or None if it is subclassed."""
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs)
    return model if isinstance(model, Functional) else None


def _nodes(graph):
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes]  # not public
    return [node for node in calls if not node.is_input]


def _fits(kernel, norm, rank: int) -> bool:
    """Whether both speak of the last axis, linearly and in one precision."""
    return (
        kernel.activation is keras.activations.linear
        and getattr(kernel, "data_format", "channels_last") == "channels_last"
        and getattr(norm, "axis", -1) in (-1, rank - 1)
        and kernel.compute_dtype == norm.compute_dtype == "float32"
    )


def _scaled(layer, norm) -> list[np.ndarray]:
    """Kernel and bias of a layer with its normalisation in them, formed in float64."""
    of = {variable.name: np.asarray(variable, np.float64) for variable in norm.variables}
    scale = of.get("gamma", 1) / np.sqrt(of["moving_variance"] + norm.epsilon)
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else 0
    kernel = np.asarray(layer.kernel, np.float64)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    by_output = scale.reshape(kernel.shape[-2:]) if depthwise else scale
    return [kernel * by_output, of.get("beta", 0) + (bias - of["moving_mean"]) * scale]
