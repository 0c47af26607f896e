"""What a ticket's masks keep by channel and by kernel, and what random masks would keep.

Kernels have the shape (..., inputs, outputs). A random mask keeps as many entries as the layer's
own, all places alike, drawn without replacement.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rst_tf.ticket import Ticket

DRAWS = 500  # random masks behind a mean of sorted counts
Side = Literal["output", "input"]
_AXIS = {"output": -1, "input": -2}


@dataclasses.dataclass(frozen=True, eq=False)
class LayerMask:
    """The mask of one kernel.

    Args:
        position: In traversal order, from 0.
        name: The layer's, for people.
        shape: Kernel shape (..., inputs, outputs).
        mask: Bool array of the group's shape (broadcasts to `shape`); True is kept.
    """

    position: int
    name: str
    shape: tuple[int, ...]
    mask: np.ndarray

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return self.shape[-2]

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.shape[-1]

    @property
    def field(self) -> int:
        """Weights in the kernel between one input and one output channel."""
        return math.prod(self.shape[:-2])

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def group(self) -> int:
        """Weights per mask entry."""
        return self.size // self.mask.size

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return int(np.count_nonzero(self.mask)) * self.group

    def full(self) -> np.ndarray:
        """The mask, an entry per weight."""
        return np.broadcast_to(self.mask, self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two layers in a row, and which of the channels between them each uses.

    Args:
        first: The layer that writes the channels.
        second: The layer that reads them.
        written: Bool per channel: the first layer keeps a weight to it.
        read: Bool per channel: the second layer keeps a weight from it.
    """

    first: LayerMask
    second: LayerMask
    written: np.ndarray
    read: np.ndarray

    @property
    def both(self) -> int:
        """Channels that both use."""
        return int((self.written & self.read).sum())

    @property
    def expected(self) -> float:
        """Channels that both would use if their choices were independent of each other."""
        return int(self.written.sum()) * int(self.read.sum()) / len(self.read)


def layers_of(ticket: Ticket) -> tuple[LayerMask, ...]:
    """The masks of a ticket's kernels that have input and output channels."""
    return tuple(
        LayerMask(position, entry.name.removesuffix("/kernel"), tuple(entry.shape), entry.mask)
        for position, entry in enumerate(ticket.entries)
        if len(entry.shape) > 1
    )


def by_channel(layer: LayerMask, side: Side) -> np.ndarray:
    """Kept weights of each output or input channel, int [channels], in the layer's order."""
    axis = _AXIS[side] % len(layer.shape)
    others = tuple(place for place in range(len(layer.shape)) if place != axis)
    return np.count_nonzero(layer.full(), axis=others)


def random_by_channel(layer: LayerMask, side: Side, draws: int = DRAWS, seed: int = 0):
    """Mean over random masks of the kept weights per channel in falling order, float [channels]."""
    axis = _AXIS[side]
    number = layer.mask.shape[axis]
    repeated = layer.shape[axis] // number
    entries = np.full(number, layer.mask.size // number)
    kept = int(np.count_nonzero(layer.mask))
    rng = np.random.default_rng(seed)
    counts = rng.multivariate_hypergeometric(entries, kept, draws, method="marginals")
    mean = -np.sort(-counts, axis=1).mean(axis=0)
    return np.repeat(mean * (layer.group // repeated), repeated)


def random_empty(layer: LayerMask, side: Side) -> float:
    """How many channels a random mask leaves empty on average."""
    number = layer.mask.shape[_AXIS[side]]
    return layer.shape[_AXIS[side]] * _chances(layer, layer.mask.size // number)[0]


def by_kernel(layer: LayerMask) -> np.ndarray:
    """Kept weights of each kernel, int [inputs, outputs]."""
    return np.count_nonzero(layer.full(), axis=tuple(range(len(layer.shape) - 2)))


def kernel_histogram(layer: LayerMask) -> np.ndarray:
    """How many kernels keep 0, 1, ... weights, int [field + 1]."""
    return np.bincount(by_kernel(layer).ravel(), minlength=layer.field + 1)


def random_kernel_histogram(layer: LayerMask) -> np.ndarray:
    """The mean of that over random masks, exact, float [field + 1]."""
    entries = math.prod(layer.mask.shape[:-2])
    found = np.zeros(layer.field + 1)
    found[:: layer.field // entries] = _chances(layer, entries)
    return found * layer.inputs * layer.outputs


def pairs_of(layers: Sequence[LayerMask]) -> tuple[Pair, ...]:
    """Layers in a row that share channels; shortcuts are left out.

    A dense layer that reads flattened maps reads a channel at every place of the map.
    """
    straight = [layer for layer in layers if "shortcut" not in layer.name]
    found = []
    for first, second in itertools.pairwise(straight):
        flattened = len(second.shape) == 2 and len(first.shape) > 2
        if second.inputs == first.outputs or (flattened and second.inputs % first.outputs == 0):
            read = by_channel(second, "input").reshape(-1, first.outputs).any(axis=0)
            found.append(Pair(first, second, by_channel(first, "output") > 0, read))
    return tuple(found)


def _chances(layer: LayerMask, entries: int) -> np.ndarray:
    """Chances that 0, 1, ... of some entries are kept by a random mask: hypergeometric."""
    size, kept = layer.mask.size, int(np.count_nonzero(layer.mask))
    chances = np.zeros(entries + 1)
    for number in range(max(0, kept - size + entries), min(entries, kept) + 1):
        chances[number] = math.exp(
            _log_choices(entries, number)
            + _log_choices(size - entries, kept - number)
            - _log_choices(size, kept)
        )
    return chances


def _log_choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
