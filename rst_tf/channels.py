"""Channel pruning: whole filters, with the scale and the offset of the normalisation after them.

A channel can go where nothing but convolutions and dense layers reads it: convolution,
normalisation with scale and offset, ReLU, then readers, with pooling, padding, dropout or Flatten
on the way. What a sum reads stays: so the stream of a residual network does, and of its blocks the
inner convolutions are pruned; in a plain network all are.

A pruned channel has a filter masked to 0 and gamma = beta = 0, so the ReLU after it sees exactly 0,
where its derivative is 0 in TensorFlow: no gradient reaches gamma, beta, or a bias, weight decay
leaves zeros alone, and they stay 0 in any training that begins afterwards. (The momentum of one
that was under way would move them; `check_pruned` says so.) Weights that read the channel are
masked with it, for they multiply zeros: the kept weights are those of the network that
`rst.shrunk` makes.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import keras
import numpy as np
from keras.src.models import Functional  # no public name, as in `surgery`

from rst_tf import masks
from rst_tf.layers import MaskedConv1D, MaskedConv2D, MaskedDense, MaskedVariable
from rst_tf.normalization import Normalization
from rst_tf.traversal import acts_as, masked_kernels, walk

Importance = Literal["gamma", "filter"]

_CONVOLUTIONS = MaskedConv1D | MaskedConv2D
_NORMALIZATIONS = Normalization | keras.layers.BatchNormalization
_KEEPS_CHANNELS = (
    keras.layers.MaxPooling1D
    | keras.layers.MaxPooling2D
    | keras.layers.AveragePooling1D
    | keras.layers.AveragePooling2D
    | keras.layers.GlobalMaxPooling1D
    | keras.layers.GlobalMaxPooling2D
    | keras.layers.GlobalAveragePooling1D
    | keras.layers.GlobalAveragePooling2D
    | keras.layers.ZeroPadding1D
    | keras.layers.ZeroPadding2D
    | keras.layers.Dropout
    | keras.layers.SpatialDropout1D
    | keras.layers.SpatialDropout2D
    | keras.layers.Flatten
)


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels between a convolution and its readers.

    Args:
        kernel: Of the convolution that makes them.
        normalization: The layer after it, with `gamma` and `beta`.
        readers: The masked kernels that multiply them.
    """

    kernel: MaskedVariable
    normalization: keras.layers.Layer
    readers: tuple[MaskedVariable, ...]

    @property
    def number(self) -> int:
        """How many there are."""
        return self.kernel.shape[-1]

    @property
    def zeroed(self) -> list:
        """The variables with an entry per channel that is 0 where it is pruned."""
        bias = self.kernel.layer.bias
        offsets = [] if bias is None else [bias]
        return [self.normalization.gamma, self.normalization.beta, *offsets]

    @property
    def pruned(self) -> np.ndarray:
        """Which are: bool [number], True where the mask keeps nothing of the filter."""
        mask = self.kernel.mask.numpy()
        return ~mask.astype(bool).reshape(-1, mask.shape[-1]).any(axis=0)


def prune_channels(network, density: float, importance: Importance = "gamma") -> None:
    """Removes the least important channels, in place; see the module.

    Args:
        network: Functional or Sequential Keras model with masked layers.
        density: Fraction kept of the channels that can be pruned, in (0, 1].
        importance: See `kept_channels`.

    Raises:
        ValueError: No channel of the network can be pruned, or density is out of range.
    """
    remove_channels(network, kept_channels(network, density, importance))


def kept_channels(network, density: float, importance: Importance = "gamma") -> list[np.ndarray]:
    """Which channels to keep; every layer keeps at least one.

    Args:
        network: Functional or Sequential Keras model with masked layers.
        density: Fraction kept of the channels that can be pruned, in (0, 1].
        importance: gamma, the magnitude of the scale of the normalisation, under one threshold for
            all layers (Liu et al. 2017); or filter, the L1 norm of the filter, among those of its
            own layer (Li et al. 2017), for a norm grows with the size of the filter.

    Returns:
        For each of `prunable_channels`, bool [channels].

    Raises:
        ValueError: As in `prune_channels`.
    """
    masks.check_density(density)
    masks.check_choice(importance, get_args(Importance), "importance")
    found = prunable_channels(network)
    if not found:
        raise ValueError(
            f"network {network.name!r} has no channels that can be pruned: convolutions followed "
            "by normalisation with a scale, ReLU, and convolutions or dense layers alone"
        )
    if importance == "filter":
        return [_largest_filters(each, masks.count(each.number, density)) for each in found]
    scales = [_with_its_largest_held(each.normalization.gamma.numpy()) for each in found]
    total = sum(each.number for each in found)
    kept = masks.select(np.concatenate(scales), max(masks.count(total, density), len(found)))
    return np.split(kept, np.cumsum([each.number for each in found])[:-1])


def remove_channels(network, kept: Sequence[np.ndarray]) -> None:
    """Removes all channels but these, in place.

    Args:
        network: The network that `kept_channels` was given, or another of its kind.
        kept: For each of `prunable_channels`, bool [channels].
    """
    for channels, keep in zip(prunable_channels(network), kept, strict=True):
        own = channels.kernel.mask
        own.assign(own.numpy() * keep)
        for variable in channels.zeroed:
            variable.assign(variable.numpy() * keep)
        for reader in channels.readers:
            inputs = reader.mask.shape[-2]
            if inputs == reader.shape[-2]:  # a mask of whole filters cannot follow
                rows = np.tile(keep, inputs // channels.number)  # Flatten: place by place
                reader.mask.assign(reader.mask.numpy() * rows[:, None])


def check_pruned(network) -> None:
    """Raises FloatingPointError, naming the layer, where a pruned channel has come alive."""
    for channels in prunable_channels(network):
        for variable in channels.zeroed:
            if variable.numpy()[channels.pruned].any():
                raise FloatingPointError(f"{variable.path} moved where its channel is pruned")


def prunable_channels(network) -> list[Channels]:
    """The channels that can be pruned, by the convolution that makes them, in traversal order.

    Args:
        network: Functional or Sequential Keras model with masked layers; models nested in it are
            looked at by themselves.
    """
    graph = _Graph(network)
    found = (_channels(masked, graph) for masked in masked_kernels(network))
    return [channels for channels in found if channels is not None]


def _channels(masked: MaskedVariable, graph: "_Graph") -> Channels | None:
    conv = masked.layer
    if not isinstance(conv, _CONVOLUTIONS) or conv.activation is not keras.activations.linear:
        return None
    normalization = graph.only_reader(conv)
    if not isinstance(normalization, _NORMALIZATIONS) or not _affine(normalization, conv.filters):
        return None
    activation = graph.only_reader(normalization)
    if not _is_relu(activation):
        return None
    readers = _readers(activation, graph)
    if readers is None or any(reader.shape[-2] % conv.filters for reader in readers):
        return None
    if any(each.scores is not None for each in (masked, *readers)):  # then masks follow the scores
        return None
    return Channels(masked, normalization, tuple(readers))


def _readers(layer, graph: "_Graph") -> list[MaskedVariable] | None:
    """The kernels that read what a layer gives; None if anything else does."""
    following = graph.readers(layer)
    if not following:
        return None
    found: list[MaskedVariable] = []
    for each in following:
        if isinstance(each, _KEEPS_CHANNELS):
            further = _readers(each, graph)
        elif isinstance(each, MaskedDense) or (
            isinstance(each, _CONVOLUTIONS) and each.groups == 1
        ):
            further = list(each.masked.values())
        else:
            further = None
        if further is None or getattr(each, "data_format", None) == "channels_first":
            return None
        found += further
    return found


def _affine(normalization, channels: int) -> bool:
    variables = [getattr(normalization, name, None) for name in ("gamma", "beta")]
    return all(v is not None and tuple(v.shape) == (channels,) for v in variables)


def _is_relu(layer) -> bool:
    """Whether it is 0 with derivative 0 at 0, and below."""
    if acts_as(layer) is keras.layers.ReLU:
        return not (getattr(layer, "negative_slope", 0) or getattr(layer, "threshold", 0))
    return getattr(layer, "activation", None) is keras.activations.relu and isinstance(
        layer, keras.layers.Activation
    )


def _largest_filters(channels: Channels, kept: int) -> np.ndarray:
    kernel = channels.kernel.kernel.numpy()
    norms = np.abs(kernel).sum(axis=tuple(range(kernel.ndim - 1)), dtype=np.float32)
    return masks.select(norms, kept)


def _with_its_largest_held(scale: np.ndarray) -> np.ndarray:
    held = np.abs(scale)
    held[np.argmax(held)] = np.inf
    return held


class _Graph:
    """Who reads what a layer gives, in a model and those nested in it."""

    def __init__(self, network):
        self._calls, self._read, self._leaves = {}, {}, set()
        for graph in _graphs(network):
            self._leaves.update(id(tensor) for tensor in graph.outputs)
            for node in itertools.chain(*graph._nodes_by_depth.values()):
                self._calls.setdefault(id(node.operation), []).append(node)
                for tensor in node.input_tensors:
                    self._read.setdefault(id(tensor), []).append(node.operation)

    def readers(self, layer) -> list:
        """What reads the output of a layer; nothing if that leaves its model or has many calls."""
        calls = self._calls.get(id(layer), [])
        if len(calls) != 1 or id(calls[0].outputs[0]) in self._leaves:
            return []
        return self._read.get(id(calls[0].outputs[0]), [])

    def only_reader(self, layer):
        """What alone reads the output of a layer, or None."""
        following = self.readers(layer)
        return following[0] if len(following) == 1 else None


def _graphs(network) -> list[Functional]:
    """A model and those nested in it, as graphs, each once."""
    found = {}
    for layer in walk(network):
        graph = layer._functional if isinstance(layer, keras.Sequential) else layer
        if isinstance(graph, Functional):
            found[id(graph)] = graph
    return list(found.values())
