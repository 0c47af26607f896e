"""`shrunk(model)`: a network without the channels that pruning left without effect, so smaller.

Zeros inside a kernel make a file compress better and no image faster. A channel that is zero for
every image, or that nobody reads, can be left out of all layers it passes through: what remains
is a dense network of fewer channels, which every runtime computes faster.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras.src.models import Functional  # as in surgery

from rst_tf.normalization import Normalization
from rst_tf.surgery import baked, check_clonable, converted
from rst_tf.traversal import acts_as, masked_layers, walk

_plain = keras.layers
_BATCH = (Normalization, _plain.BatchNormalization)
_DEPTHWISE = (_plain.DepthwiseConv2D,)
_READERS = (_plain.Dense, _plain.Conv1D, _plain.Conv2D, _plain.Conv3D)
_BY_VALUE = (  # each number by itself, in all channels alike
    _plain.ReLU,
    _plain.LeakyReLU,
    _plain.Activation,
    _plain.Dropout,
    _plain.SpatialDropout1D,
    _plain.SpatialDropout2D,
    _plain.GaussianNoise,
)
_POOLING = (  # of what a channel has; a constant stays one
    *(_plain.MaxPooling1D, _plain.MaxPooling2D),
    *(_plain.AveragePooling1D, _plain.AveragePooling2D),
    *(_plain.GlobalMaxPooling1D, _plain.GlobalMaxPooling2D),
    *(_plain.GlobalAveragePooling1D, _plain.GlobalAveragePooling2D),
    *(_plain.UpSampling1D, _plain.UpSampling2D),
)
_PADDING = (_plain.ZeroPadding1D, _plain.ZeroPadding2D)
_OF_ONE = (*_BATCH, *_DEPTHWISE, *_READERS, *_BY_VALUE, *_POOLING, *_PADDING, _plain.Flatten)
_ACTIVATIONS = tuple(  # those that see each number by itself
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh"),
        *("sigmoid", "hard_sigmoid", "hard_silu", "softplus", "softsign", "exponential"),
    )
)


def shrunk(model: keras.Model) -> keras.Model:
    """A plain copy of a network without channels that have no effect: equal outputs, fewer weights.

    Left out are channels that every reader finds zero for all images (a filter of zeros without
    bias, a normalisation that gives 0, what ReLU leaves of a constant below 0), or has no weight
    for. Inputs of a sum keep the same channels. Every layer keeps at least one. Channels that a
    layer touches which is not understood (separable convolutions, shared layers, nested models,
    reshapes other than Flatten, ...) are all kept. Masks become zeros first, as in `baked`.

    Args:
        model: Built Sequential or functional model, masked or not.

    Raises:
        ValueError: The model is subclassed or not built.
    """
    check_clonable(model, "shrunk")
    plain = baked(model) if masked_layers(model) else model
    kept = _Channels(plain).kept()

    def convert(layer):
        return _resized(layer, kept[id(layer)][1] if id(layer) in kept else None)

    def copy(old, new):
        values = _sliced(old, *kept[id(old)]) if id(old) in kept else old.variables
        for variable, value in zip(new.variables, values, strict=True):
            variable.assign(value)

    return converted(plain, convert, copy)[0]


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a layer in the graph: the layer, its tensors, and whether it is understood."""

    layer: keras.layers.Layer
    inputs: Sequence
    outputs: Sequence
    known: bool


class _Channels:
    """Which channels of a plain network's tensors have an effect.

    Every channel of every tensor has a number; channels that have to stay or go together (those of
    a sum, before and after a ReLU, ...) have the same. A number is needed if somebody who mixes
    channels reads a value that is not zero under it.
    """

    def __init__(self, model):
        self._parent: list[int] = []
        self._numbers: dict[int, np.ndarray] = {}
        self._values: dict[int, np.ndarray] = {}
        graph = model
        if not isinstance(model, Functional):
            graph = keras.Model(model.inputs, model.outputs)
        self._calls = list(_calls(graph))
        for tensor in graph.inputs:
            self._fresh(tensor)
        for call in self._calls:
            self._follow(call)
        self._needed = np.zeros(len(self._parent), bool)
        self._roots = np.array([self._root(i) for i in range(len(self._parent))], int)
        for tensor in [*graph.inputs, *graph.outputs]:
            self._need(tensor)
        self._settle()

    def kept(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By the id of a layer whose weights belong to channels: those kept of input and output."""
        with_weights = (*_READERS, *_DEPTHWISE, *_BATCH)
        return {
            id(call.layer): (self._alive(call.inputs[0]), self._alive(call.outputs[0]))
            for call in self._calls
            if call.known and isinstance(call.layer, with_weights)
        }

    # ------------------------------------------------------------ forward: numbers and values

    def _fresh(self, tensor, values=None) -> None:
        """New numbers for a tensor's channels; its values vary unless they are given."""
        channels = (tensor.shape[-1] if len(tensor.shape) > 1 else 0) or 0
        first = len(self._parent)
        self._parent += range(first, first + channels)
        varying = np.full(channels, np.nan, "float32")
        self._set(tensor, np.arange(first, first + channels), varying if values is None else values)

    def _set(self, tensor, numbers, values) -> None:
        self._numbers[id(tensor)], self._values[id(tensor)] = numbers, values

    def _follow(self, call: _Call) -> None:
        """Numbers and constant values (NaN: they vary) of what a layer gives."""
        layer, outputs = call.layer, call.outputs
        if not call.known:
            for tensor in outputs:
                self._fresh(tensor)
            return
        numbers = [self._numbers[id(tensor)] for tensor in call.inputs]
        values = [self._values[id(tensor)] for tensor in call.inputs]
        x = values[0]
        if isinstance(layer, _READERS):
            read = _uses(layer)[x != 0].any(axis=0)  # NaN differs from 0
            self._fresh(outputs[0], np.where(read, np.nan, _at_zero(layer, len(read))))
        elif isinstance(layer, _DEPTHWISE):
            read = (_uses(layer) & (x != 0)[:, None]).reshape(-1)
            found = np.where(read, np.nan, _at_zero(layer, len(read)))
            self._set(outputs[0], numbers[0].repeat(layer.depth_multiplier), found)
        elif acts_as(layer) is _plain.Add:
            for other in numbers[1:]:
                self._join(numbers[0], other)
            self._set(outputs[0], numbers[0], np.sum(values, axis=0))
        elif isinstance(layer, _plain.Concatenate):
            self._set(outputs[0], np.concatenate(numbers), np.concatenate(values))
        elif isinstance(layer, _plain.Flatten):
            places = outputs[0].shape[-1] // len(x)
            self._set(outputs[0], np.tile(numbers[0], places), np.tile(x, places))
        else:
            found = _constants(layer, x, len(call.inputs[0].shape))
            self._set(outputs[0], numbers[0], found)

    def _join(self, numbers, others) -> None:
        for one, other in zip(numbers, others, strict=True):
            self._parent[self._root(other)] = self._root(one)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    # ------------------------------------------------------------ backward: what is needed

    def _settle(self) -> None:
        before = -1
        while before != self._needed.sum():
            before = self._needed.sum()
            for call in reversed(self._calls):
                self._read(call)
        for tensor_numbers in self._numbers.values():  # no layer may be left without a channel
            if len(tensor_numbers) and not self._needed[self._roots[tensor_numbers]].any():
                self._needed[self._roots[tensor_numbers[0]]] = True

    def _read(self, call: _Call) -> None:
        """Marks what a layer reads that mixes channels, or is not understood."""
        if not call.known:
            for tensor in [*call.inputs, *call.outputs]:
                self._need(tensor)
        elif isinstance(call.layer, _READERS):
            alive = self._alive(call.outputs[0])
            used = _uses(call.layer)[:, alive].any(axis=1)
            self._need(call.inputs[0], used & (self._values[id(call.inputs[0])] != 0))

    def _need(self, tensor, which=slice(None)) -> None:
        self._needed[self._roots[self._numbers[id(tensor)][which]]] = True

    def _alive(self, tensor) -> np.ndarray:
        return self._needed[self._roots[self._numbers[id(tensor)]]]


def _calls(graph) -> Iterator[_Call]:
    """The calls of a functional model's layers, each after those that it needs."""
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)  # no public name
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]
    often = Counter(id(node.operation) for node in nodes)
    for model in (node.operation for node in nodes if isinstance(node.operation, keras.Model)):
        often.update(id(layer) for layer in walk(model))  # it may share layers with this one
    for node in nodes:
        inputs, outputs = node.input_tensors, node.outputs
        known = often[id(node.operation)] == 1 and _called_plainly(node)
        known = known and _known(node.operation, inputs, outputs)
        yield _Call(node.operation, inputs, outputs, known)


def _called_plainly(node) -> bool:
    """Whether a layer was called on tensors of the graph alone: no constant, no training=True."""
    given = keras.tree.flatten(node.arguments.args)
    options = [value for value in node.arguments.kwargs.values() if value not in (None, False)]
    return len(given) == len(node.input_tensors) and not options


def _known(layer, inputs, outputs) -> bool:
    """Whether what a layer does to channels, the last axis, is understood."""
    shapes = [tuple(tensor.shape) for tensor in [*inputs, *outputs]]
    if len(outputs) != 1 or any(len(shape) < 2 or shape[-1] is None for shape in shapes):
        return False
    kind, last = acts_as(layer), (-1, len(shapes[0]) - 1)
    if kind is _plain.Add:
        return len(set(shapes)) == 1
    if kind is _plain.Concatenate:
        return layer.axis in last
    settings = layer.get_config() if kind in _OF_ONE else {}
    return (
        kind in _OF_ONE
        and settings.get("data_format") != "channels_first"
        and settings.get("groups", 1) == 1
        and settings.get("axis", -1) in last
        and getattr(layer, "activation", keras.activations.linear) in _ACTIVATIONS
    )


def _uses(layer) -> np.ndarray:
    """Whether an output has a weight for an input, [input channels, output channels]."""
    kernel = layer.kernel.numpy() != 0
    return kernel.reshape(-1, *kernel.shape[-2:]).any(axis=0)


def _at_zero(layer, channels: int) -> np.ndarray:
    """What a layer gives where it reads nothing: the activation of its bias, [channels]."""
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(channels, "float32")
    return np.asarray(layer.activation(bias))


def _constants(layer, values: np.ndarray, rank: int) -> np.ndarray:
    """Constant values of channels, NaN where they vary, after a layer that keeps these apart."""
    varying = np.isnan(values)
    if isinstance(layer, _PADDING):
        return np.where(values == 0, values, np.nan)
    if isinstance(layer, _POOLING):
        return values
    one = np.where(varying, 0, values).reshape(*[1] * (rank - 1), -1)
    found = np.where(varying, np.nan, np.asarray(layer(one)).reshape(-1))
    if isinstance(layer, _BATCH):
        named = {variable.name: variable.numpy() for variable in layer.variables}
        stuck = named.get("gamma", np.ones_like(values)) == 0
        found = np.where(stuck, named.get("beta", np.zeros_like(values)), found)
    return found


def _resized(layer, kept: np.ndarray | None):
    """A layer of so many output channels, not built."""
    config = layer.get_config()
    size = next((name for name in ("filters", "units") if name in config), None)
    if kept is not None and size is not None:
        config[size] = int(kept.sum())
    return type(layer).from_config(config)


def _sliced(layer, before: np.ndarray, after: np.ndarray) -> list[np.ndarray]:
    """The variables of a layer, of these input and output channels only."""
    found = [variable.numpy() for variable in layer.variables]
    if isinstance(layer, _BATCH):
        return [value[after] for value in found]
    kernel, *bias = found
    kernel = kernel[..., before, :]
    if isinstance(layer, _READERS):
        kernel = kernel[..., after]
    return [kernel, *(value[after] for value in bias)]
