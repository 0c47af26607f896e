"""Initial weights as a function of a seed: the frozen recipe that lets a ticket hold a seed.

An initialiser is a pure function of a shape and a stream of random numbers; `initialize` applies
one to every kernel of a network, in traversal order. Constants after He et al. (2015) and
Ramanujan et al. (2020); in all of them gain = sqrt(2), for ReLU.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rst_tf import random
from rst_tf.registry import Registry

INITIALIZERS = Registry("initializer")


class Stream(NamedTuple):
    """Where an initialiser draws its numbers from: `random.uniform(shape, *stream)`."""

    seed: int
    name: str
    index: int


class Fans(NamedTuple):
    """Inputs and outputs of one unit of a kernel."""

    fan_in: int
    fan_out: int


Initializer = Callable[[Sequence[int], Fans, Stream], np.ndarray]


def _uniform(shape, bound, stream):
    return (2 * random.uniform(tuple(shape), *stream) - 1) * bound


def _sign(shape, stream):
    return np.where(random.uniform(tuple(shape), *stream) < 0.5, -1.0, 1.0)


@INITIALIZERS.register("glorot_uniform")
def glorot_uniform(shape, fans, stream):
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)); Keras' default."""
    return _uniform(shape, np.sqrt(6 / (fans.fan_in + fans.fan_out)), stream)


@INITIALIZERS.register("xavier_normal")
def xavier_normal(shape, fans, stream):
    """N(0, 2 / (fan_in + fan_out))."""
    scale = np.sqrt(2 / (fans.fan_in + fans.fan_out))
    return random.normal(tuple(shape), *stream) * scale


@INITIALIZERS.register("xavier_constant")
def xavier_constant(shape, fans, stream):
    """+-sqrt(2 / (fan_in + fan_out)), random signs."""
    return _sign(shape, stream) * np.sqrt(2 / (fans.fan_in + fans.fan_out))


@INITIALIZERS.register("kaiming_normal")
def kaiming_normal(shape, fans, stream):
    """N(0, 2 / fan_in)."""
    return random.normal(tuple(shape), *stream) * np.sqrt(2 / fans.fan_in)


@INITIALIZERS.register("kaiming_uniform")
def kaiming_uniform(shape, fans, stream):
    """U(-b, b) with b = sqrt(6 / fan_in)."""
    return _uniform(shape, np.sqrt(6 / fans.fan_in), stream)


@INITIALIZERS.register("standard")
def standard(shape, fans, stream):
    """U(-b, b) with b = 1 / sqrt(fan_in); PyTorch's default for convolutions."""
    return _uniform(shape, np.sqrt(1 / fans.fan_in), stream)


@INITIALIZERS.register("signed_constant")
def signed_constant(shape, fans, stream):
    """+-sqrt(2 / fan_in), random signs (Ramanujan et al. 2020)."""
    return _sign(shape, stream) * np.sqrt(2 / fans.fan_in)


@INITIALIZERS.register("unsigned_constant")
def unsigned_constant(shape, fans, stream):
    """+sqrt(2 / fan_in) everywhere."""
    del stream
    return np.full(tuple(shape), np.sqrt(2 / fans.fan_in))


def fans_of(shape: Sequence[int], output_axes: Sequence[int], spatial_axes: Sequence[int]) -> Fans:
    """Fans of a kernel: inputs of one output unit, and outputs times receptive field.

    Depthwise kernels have two output axes, so their fan_in is the receptive field alone.
    """
    receptive = int(np.prod([shape[axis] for axis in spatial_axes]))
    outputs = int(np.prod([shape[axis] for axis in output_axes]))
    return Fans(int(np.prod(shape)) // outputs, outputs * receptive)


def initialize(network, seed: int, kernel: str = "glorot_uniform") -> None:
    """Sets every initial weight of a network from a seed: the same bits on every machine.

    Kernels get the named initialiser from the stream (seed, "kernel", position), scores U(-b, b)
    with b = 1/sqrt(fan_in of the group) from (seed, "scores", position), biases and beta 0,
    gamma 1, moving statistics 0 and 1, masks one (or, in a search, what the scores say).

    Args:
        network: A built Keras model whose kernels are in masked layers.
        seed: Any integer.
        kernel: Name of a registered initialiser.
    """
    from rst_tf.layers import masked_kernels

    done = set()
    for position, masked in enumerate(masked_kernels(network)):
        masked.kernel.assign(draw_kernel(masked, seed, kernel, position))
        _initialize_mask(masked, Stream(seed, "scores", position))
        done |= {id(masked.kernel), id(masked.mask), id(masked.scores)}
    for variable in network.variables:
        if id(variable) not in done:
            _initialize_leftover(variable)


def draw_kernel(masked, seed: int, kernel: str, position: int) -> np.ndarray:
    """The initial float32 value of the masked kernel at a traversal position."""
    fans = fans_of(masked.shape, masked.output_axes, masked.spatial_axes)
    value = INITIALIZERS[kernel](masked.shape, fans, Stream(seed, "kernel", position))
    return value.astype(np.float32)


def _initialize_mask(masked, stream: Stream) -> None:
    if masked.scores is None:
        masked.mask.assign(np.ones(masked.mask.shape, np.float32))
    else:
        fans = fans_of(masked.scores.shape, masked.output_axes, masked.spatial_axes)
        _assign(masked.scores, standard(masked.scores.shape, fans, stream))
        masked.refresh()


def _assign(variable, value: np.ndarray) -> None:
    variable.assign(value.astype(np.float32))


_LEFTOVERS = {"bias": 0, "beta": 0, "gamma": 1, "moving_mean": 0, "moving_variance": 1}


def _initialize_leftover(variable) -> None:
    if variable.name in _LEFTOVERS:
        _assign(variable, np.full(variable.shape, _LEFTOVERS[variable.name]))
    elif len(variable.shape) > 1:
        raise ValueError(
            f"initialize cannot set {variable.path!r} of shape {tuple(variable.shape)}: it is not "
            "the kernel of a masked layer; mask its layer, or keep the network's own weights"
        )


def weights_hash(network) -> str:
    """SHA-256 over the stored kernels of a network's masked layers, in traversal order."""
    from rst_tf.layers import masked_kernels

    digest = hashlib.sha256()
    for masked in masked_kernels(network):
        digest.update(np.ascontiguousarray(masked.kernel.numpy(), "<f4").tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Seed:
    """Where a ticket's kernels can be drawn from again.

    Args:
        seed: As given to `initialize`.
        initializer: Registered name of the kernel initialiser.
        recipe: Version of the random recipe.
        hash: SHA-256 of the kernels, checked after they are drawn.
    """

    seed: int
    initializer: str
    recipe: int = random.RECIPE
    hash: str = ""

    def draw(self, network) -> None:
        """Sets the network's initial weights; ValueError if they are not those of the hash."""
        if self.recipe != random.RECIPE:
            raise ValueError(f"recipe {self.recipe} is not this program's {random.RECIPE}")
        initialize(network, self.seed, self.initializer)
        if weights_hash(network) != self.hash:
            raise ValueError(
                f"seed {self.seed} with {self.initializer!r} gives other weights than the ticket's"
            )

    def of(self, network) -> "Seed":
        """This seed with the hash of a network's kernels.

        Raises:
            ValueError: The kernels are not what the seed gives.
        """
        from rst_tf.layers import masked_kernels

        for position, masked in enumerate(masked_kernels(network)):
            value = draw_kernel(masked, self.seed, self.initializer, position)
            if not np.array_equal(value, masked.kernel.numpy()):
                raise ValueError(
                    f"kernel {masked.name!r} is not what seed {self.seed} with "
                    f"{self.initializer!r} gives; it was trained or drawn otherwise: "
                    "use weights='stored'"
                )
        return dataclasses.replace(self, hash=weights_hash(network))
