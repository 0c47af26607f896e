"""`folded(model)`: normalisation as part of the kernel before it, which saves passes over memory.

At inference a batch normalisation is a scale and an offset per channel, and a convolution with a
scaled kernel and a bias gives the same numbers, up to rounding. TensorFlow computes convolution,
bias and ReLU in one pass over memory.
"""

from collections import Counter
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras import ops
from keras.src.models import Functional  # as in surgery

from rst_tf.normalization import Normalization
from rst_tf.surgery import converted
from rst_tf.traversal import walk

_NORMS = (Normalization, keras.layers.BatchNormalization)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D)
_KERNELS = (*_CONVOLUTIONS, keras.layers.Dense, keras.layers.DepthwiseConv2D)


def folded(model: keras.Model) -> keras.Model:
    """The same network for inference, whose normalisations stand in the kernels before them.

    Folded are `rst_tf.Normalization` and `keras.layers.BatchNormalization` over channels that
    alone read a Dense, Conv1D, Conv2D or DepthwiseConv2D layer without activation, in float32, in
    nested models too. All layers and variables are the model's own, so weights that change later
    are seen; outputs differ by rounding. It is not for training.

    Args:
        model: Any Keras model. A subclassed one, or one without such a pair, is returned as it is.
    """
    pairs = dict(_pairs(model))
    if not pairs:
        return model
    norms = {id(norm) for norm in pairs.values()}
    by_kernel = {id(kernel): norm for kernel, norm in pairs.items()}

    def convert(layer):
        if id(layer) in norms:
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return _Folded(layer, by_kernel[id(layer)]) if id(layer) in by_kernel else layer

    return converted(model, convert, copy=lambda old, new: None)[0]


class _Folded(keras.layers.Layer):
    """A layer with a kernel, and the normalisation of what it gives, as one."""

    def __init__(self, kernel, norm):
        super().__init__(name=kernel.name, dtype=kernel.dtype_policy, trainable=False)
        self.kernel_layer, self.norm = kernel, norm
        self.built = True

    def call(self, x):
        """As both at inference."""
        layer, norm = self.kernel_layer, self.norm
        of = {variable.name: tf.convert_to_tensor(variable) for variable in norm.variables}
        scale = of.get("gamma", 1.0) * tf.math.rsqrt(of["moving_variance"] + norm.epsilon)
        bias = layer.bias if layer.use_bias else 0.0
        offset = of.get("beta", 0.0) + (bias - of["moving_mean"]) * scale
        kernel = tf.convert_to_tensor(layer.kernel)
        return tf.nn.bias_add(self._product(x, kernel, scale), offset)

    def _product(self, x, kernel, scale):
        layer = self.kernel_layer
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            kernel = kernel * tf.reshape(scale, kernel.shape[-2:])
            settings = {"strides": layer.strides, "dilation_rate": layer.dilation_rate}
            return ops.depthwise_conv(x, kernel, padding=layer.padding, **settings)
        if isinstance(layer, keras.layers.Dense):
            return ops.matmul(x, kernel * scale)
        return layer.convolution_op(x, kernel * scale)


def _pairs(model) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Layers with a kernel, and the normalisation that alone reads each."""
    inside = [layer for layer in walk(model) if isinstance(layer, keras.Sequential | Functional)]
    if not inside or inside[0] is not model or not all(graph.built for graph in inside):
        return
    graphs = [_graph(layer) for layer in inside]
    nodes = list({id(node): node for graph in graphs for node in _nodes(graph)}.values())
    often = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    readers.update(id(tensor) for graph in graphs for tensor in graph.outputs)
    if any(isinstance(node.operation, keras.Model) and _told(node) for node in nodes):
        return  # a model inside that is told to train, say
    for node in nodes:
        norm = node.operation
        if type(norm) not in _NORMS or _told(node):
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
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs, model.outputs)
    return model


def _nodes(graph) -> list:
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes]  # not public
    return [node for node in calls if not node.is_input]


def _told(node) -> bool:
    """Whether a layer is called with more than tensors, such as training=True."""
    return any(value not in (None, False) for value in node.arguments.kwargs.values())


def _fits(kernel, norm, rank: int) -> bool:
    """Whether both speak of the last axis, linearly, in one precision, of plain variables."""
    return (
        kernel.activation is keras.activations.linear
        and getattr(kernel, "data_format", "channels_last") == "channels_last"
        and getattr(norm, "axis", -1) in (-1, rank - 1)
        and kernel.compute_dtype == norm.compute_dtype == "float32"
        and kernel.quantization_mode is None
        and not getattr(kernel, "lora_enabled", False)
    )
