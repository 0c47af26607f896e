"""`operations(model)`: multiplications with additions of one image, layer by layer.

Counted from the built network, by the shapes that flow through it: every weight of a kernel is
used once at each place that the kernel is applied to. `analysis.operations` is another thing: an
estimate from a ticket alone, after Liu et al. (2022), with the operations of normalisation and
ReLU and without multiplications by signs.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from rst_tf.layers import MaskedKernel
from rst_tf.traversal import walk

_CONVOLUTIONS = keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D
_DEPTHWISE = keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D
_SEPARABLE = keras.layers.SeparableConv1D | keras.layers.SeparableConv2D
_SPATIAL = _CONVOLUTIONS | _DEPTHWISE | _SEPARABLE


@dataclasses.dataclass(frozen=True)
class LayerOperations:
    """Operations of one kernel for one image.

    Args:
        kernel: Layer and kernel, for people.
        places: Places the kernel is applied to, over all calls of its layer.
        weights: Its weights.
        kept: Weights that its mask keeps; without a mask, those that are not 0.
    """

    kernel: str
    places: int
    weights: int
    kept: int

    @property
    def dense(self) -> int:
        """Multiply-adds of all weights."""
        return self.places * self.weights

    @property
    def sparse(self) -> int:
        """Multiply-adds of the kept weights."""
        return self.places * self.kept


@dataclasses.dataclass(frozen=True)
class Operations:
    """Multiply-adds of one image through a network; twice as many floating-point operations.

    Args:
        layers: One for each kernel, in traversal order.
        uncounted: Variables of rank 2 or more of layers that are not understood, hence not in it.
    """

    layers: tuple[LayerOperations, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def dense(self) -> int:
        """Multiply-adds with all weights."""
        return sum(layer.dense for layer in self.layers)

    @property
    def sparse(self) -> int:
        """Multiply-adds with the kept weights; zeros save them only where a runtime skips them."""
        return sum(layer.sparse for layer in self.layers)

    @property
    def fraction(self) -> float:
        """`sparse` over `dense`."""
        return self.sparse / self.dense if self.dense else 1.0

    def recounted(self, model: keras.Model) -> "Operations":
        """The same of a network whose masks or weights changed since, without a pass through it.

        Args:
            model: The network that was counted.
        """
        now = [_weights(layer, attribute)[1] for layer, attribute in _rows(model)]
        layers = zip(self.layers, now, strict=True)
        return dataclasses.replace(
            self, layers=tuple(dataclasses.replace(layer, kept=kept) for layer, kept in layers)
        )

    def __str__(self) -> str:
        width = max([5, *(len(layer.kernel) for layer in self.layers)])
        row = f"{{:<{width}}}{{:>8}}{{:>13}}{{:>13}}{{:>16}}{{:>16}}".format
        lines = [row("kernel", "places", "weights", "kept", "dense", "sparse")]
        for each in self.layers:
            numbers = (each.places, each.weights, each.kept, each.dense, each.sparse)
            lines.append(row(each.kernel, *(f"{number:,}" for number in numbers)))
        lines.append(row("total", "", "", "", f"{self.dense:,}", f"{self.sparse:,}"))
        lines.append(
            f"multiply-adds of one image: {self.sparse / 1e9:.4g} G of {self.dense / 1e9:.4g} G "
            f"({self.fraction:.4g})"
        )
        if self.uncounted:
            lines.append(f"not counted: {', '.join(self.uncounted)}")
        return "\n".join(lines)


def operations(model: keras.Model, image_shape: Sequence[int] | None = None) -> Operations:
    """Multiply-adds of one image, with all weights and with those that are kept.

    Counted are the kernels of dense, convolutional, depthwise, separable and EinsumDense layers,
    wherever they are in a functional, Sequential or subclassed model. Biases, normalisation,
    activations, pooling and products of two activations (attention) are not, as usual. Padding
    counts as pixels, and what reads a pruned channel counts too: see `shrunk`.

    Args:
        model: Built Keras model, masked or not. One black image passes through it.
        image_shape: Of one image, without the batch; needed where the model does not tell.

    Raises:
        ValueError: The model is not built, or does not tell the shape of its images.
    """
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once or give an Input first")
    shape = _image_shape(model, image_shape)
    with _watched(model) as places:
        model(np.zeros((1, *shape), "float32"), training=False)
    counted = []
    for layer, attribute in _rows(model):
        name = f"{layer.name}/{attribute}"
        used = places.get((id(layer), attribute), 0)
        counted.append(LayerOperations(name, used, *_weights(layer, attribute)))
    return Operations(tuple(counted), tuple(_uncounted(model)))


def _rows(model) -> Iterator[tuple]:
    """Layers with the names of their kernels, in traversal order."""
    for layer in walk(model):
        for attribute in _kernels(layer):
            yield layer, attribute


def _image_shape(model, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    try:
        shape = model.input_shape[1:]
    except (AttributeError, ValueError):  # a subclassed model has none
        shape = (None,)
    if not all(isinstance(side, int) for side in shape):
        raise ValueError(
            f"image_shape is needed, for model {model.name!r} does not tell; received None"
        )
    return tuple(shape)


@contextlib.contextmanager
def _watched(model) -> Iterator[dict]:
    """Within it, calls of the model add up where kernels are applied, by (layer's id, kernel)."""
    places: dict[tuple[int, str], int] = {}
    watched = [layer for layer in walk(model) if _kernels(layer)]
    for layer in watched:
        layer.call = _counting(layer, layer.call, places)
    try:
        yield places
    finally:
        for layer in watched:
            del layer.call


def _counting(layer, call, places):
    def counted(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        for attribute in _kernels(layer):
            key = (id(layer), attribute)
            places[key] = places.get(key, 0) + _places(layer, inputs.shape, outputs.shape)
        return outputs

    return counted


def _kernels(layer) -> tuple[str, ...]:
    """The kernels of a layer that are understood, as attributes."""
    if isinstance(layer, _SEPARABLE):
        return ("depthwise_kernel", "pointwise_kernel")
    known = _CONVOLUTIONS | _DEPTHWISE | keras.layers.Dense | keras.layers.EinsumDense
    return ("kernel",) if isinstance(layer, known) else ()


def _places(layer, inputs, outputs) -> int:
    """Places that one call applies a kernel to, by the shapes of one image with its batch of 1."""
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_places(layer.equation, inputs)
    if not isinstance(layer, _SPATIAL):
        return math.prod(inputs[:-1])
    first = layer.data_format == "channels_first"
    return math.prod((outputs[0], *outputs[2:]) if first else outputs[:-1])


def _einsum_places(equation: str, inputs) -> int:
    """The product of the sizes along which no weight changes."""
    read, kernel = equation.split("->")[0].split(",")
    before, _, after = read.partition("...")
    middle = len(inputs) - len(before) - len(after) if "..." in read else 0
    letters = [*before, *[None] * middle, *after]
    fixed = {*kernel}
    return math.prod(n for n, letter in zip(inputs, letters, strict=True) if letter not in fixed)


def _weights(layer, attribute: str) -> tuple[int, int]:
    """How many weights a kernel has, and how many of them are kept."""
    if isinstance(layer, MaskedKernel):
        masked = layer.masked[attribute]
        size, mask = math.prod(masked.shape), np.asarray(masked.mask)
        return size, int((mask > 0).sum()) * (size // mask.size)
    kernel = np.asarray(getattr(layer, attribute))
    return kernel.size, int((kernel != 0).sum())


def _uncounted(model) -> Iterator[str]:
    """Paths of the variables of rank 2 or more that no counted layer has."""
    known = {id(v) for layer in walk(model) if _kernels(layer) for v in layer.weights}
    for variable in model.weights:
        if len(variable.shape) > 1 and id(variable) not in known:
            yield variable.path
