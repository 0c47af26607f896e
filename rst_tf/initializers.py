"""Initial weights as a function of a seed: the frozen recipe that lets a ticket hold a seed.

An initialiser is a pure function of a shape and a stream of random numbers; `initialize` applies
one to every kernel of a network, in traversal order. Constants after He et al. (2015) and
Ramanujan et al. (2020); in all of them gain = sqrt(2), for ReLU. The names that end in `_correct`
are those of Liu et al. (2022) for what `+fan=` does here anyway: the fan times the density.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from rst_tf import random
from rst_tf.registry import Registry, unknown

INITIALIZERS = Registry("initializer")
ScoreFan = Literal["all", "none", "except_last", "only_last"]


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
@INITIALIZERS.register("kaiming_normal_correct")
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


@INITIALIZERS.register("torch_default")
def torch_default(shape, fans, stream):
    """As `standard`, and biases likewise: what PyTorch gives convolutions and dense layers."""
    return standard(shape, fans, stream)


@INITIALIZERS.register("binary")
@INITIALIZERS.register("lottery_binary")
def binary(shape, fans, stream):
    """+1 or -1, a fair coin, in every layer alike (Liu et al. 2022).

    `lottery_binary` is the published name where weights are drawn anew; every draw is new here.
    """
    del fans
    return _sign(shape, stream)


@INITIALIZERS.register("uniform_pm1")
def uniform_pm1(shape, fans, stream):
    """U(-1, 1) in every layer alike."""
    del fans
    return _uniform(shape, 1.0, stream)


@INITIALIZERS.register("signed_constant")
@INITIALIZERS.register("signed_constant_correct")
def signed_constant(shape, fans, stream):
    """+-sqrt(2 / fan_in), random signs (Ramanujan et al. 2020)."""
    return _sign(shape, stream) * np.sqrt(2 / fans.fan_in)


@INITIALIZERS.register("unsigned_constant")
@INITIALIZERS.register("unsigned_constant_correct")
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


def initialize(
    network,
    seed: int,
    kernel: str = "glorot_uniform",
    score_scale: float = 1.0,
    score_fan: ScoreFan = "all",
) -> None:
    """Sets every initial weight of a network from a seed: the same bits on every machine.

    Kernels get the named initialiser from the stream (seed, "kernel", position), scores U(-b, b)
    with b = scale/sqrt(fan_in of the group), or N(0, scale^2) for whole filters, from (seed,
    "scores", position), biases and beta 0, gamma 1, moving statistics 0 and 1, masks one (or, in a
    search, what the scores say). With `torch_default`, biases of masked layers are U(-b, b) with b
    = 1/sqrt(fan_in) from (seed, "bias", position). Any other variable gets its layer's own
    initialiser if that is a constant, as PReLU's alpha. What is no weight is left alone: statistics
    adapted to data, states of random generators.

    Args:
        network: A built Keras model whose kernels are in masked layers.
        seed: Any integer.
        kernel: Name of a registered initialiser; see `parsed` for what may follow it.
        score_scale: Above 0; see above.
        score_fan: For which layers b is divided by sqrt(fan_in): all, none, except_last (the last
            kernel, which is the classifier's) or only_last.

    Raises:
        ValueError: The network has no masked layers, or a variable that this cannot set; nothing
            is set then.
    """
    from rst_tf.traversal import masked_kernels, refresh_masks, walk

    kernels = masked_kernels(network)
    own = {id(v) for m in kernels for v in (m.kernel, m.mask, m.scores)}
    owner = {id(v): layer for layer in walk(network) for v in layer.variables}
    others = [
        (variable, _constant(variable, owner[id(variable)]))
        for variable in network.variables
        if id(variable) not in own and _is_weight(variable, owner[id(variable)])
    ]
    parsed(kernel)
    check_scores(score_scale, score_fan)
    for variable, value in others:
        variable.assign(value.astype(np.float32))
    for position, masked in enumerate(kernels):
        masked.kernel.assign(draw_kernel(masked, seed, kernel, position))
        if kernel == "torch_default":
            _draw_bias(masked, Stream(seed, "bias", position))
        last = position == len(kernels) - 1
        by_fan = score_fan in ("all", "only_last" if last else "except_last")
        variable, value = _score_or_mask(
            masked, Stream(seed, "scores", position), score_scale, by_fan
        )
        variable.assign(value.astype(np.float32))
    refresh_masks(kernels)


def _draw_bias(masked, stream: Stream) -> None:
    fan_in = fans_of(masked.shape, masked.output_axes, masked.spatial_axes).fan_in
    for bias in (v for v in masked.layer.variables if v.name == "bias"):
        bias.assign(_uniform(bias.shape, np.sqrt(1 / fan_in), stream).astype(np.float32))


def check_scores(score_scale: float, score_fan: str) -> None:
    """Raises ValueError for initial scores that cannot be: see `initialize`."""
    if not 0 < score_scale < np.inf:
        raise ValueError(f"score_scale must be above 0; received score_scale={score_scale!r}")
    if score_fan not in get_args(ScoreFan):
        known = unknown("score_fan", score_fan, list(get_args(ScoreFan)))
        raise ValueError(f"score_fan names an {known}")


def redraw_kernels(network, seed: int, kernel: str) -> None:
    """Draws every masked kernel anew, and nothing else."""
    from rst_tf.traversal import masked_kernels

    for position, masked in enumerate(masked_kernels(network)):
        masked.kernel.assign(draw_kernel(masked, seed, kernel, position))


def draw_kernel(masked, seed: int, kernel: str, position: int) -> np.ndarray:
    """The initial float32 value of the masked kernel at a traversal position."""
    draw, changed = parsed(kernel)
    fans = changed(fans_of(masked.shape, masked.output_axes, masked.spatial_axes))
    return draw(masked.shape, fans, Stream(seed, "kernel", position)).astype(np.float32)


def parsed(kernel: str) -> tuple[Initializer, Callable[[Fans], Fans]]:
    """An initialiser's function, and what its name makes of the fans.

    Args:
        kernel: A registered name, which may be followed by `+fan_out` (the number of outputs
            stands where the number of inputs stood) and by `+fan=0.1` (the fan times the density,
            so that the variance is that of the subnetwork: `scale_fan` of the published code,
            which multiplied by one minus the density).

    Raises:
        ValueError: There is no such initialiser or change.
    """
    name, *changes = kernel.split("+")
    if name not in INITIALIZERS:
        wrong = unknown("initializer", name, list(INITIALIZERS))
        raise ValueError(f"initializer names an {wrong}")
    draw = INITIALIZERS[name]
    constant = name in _OF_ONE_FAN
    for change in changes:
        if not constant or not re.fullmatch(r"fan_out|fan=(0?\.\d+|1)", change):
            raise ValueError(
                f"initializer can be followed by +fan_out or +fan=0.1, for {', '.join(_OF_ONE_FAN)}"
                f"; received initializer={kernel!r}"
            )

    def changed(fans: Fans) -> Fans:
        fan = fans.fan_out if "fan_out" in changes else fans.fan_in
        for change in changes:
            fan *= float(change.partition("=")[2] or 1)
        return fans._replace(fan_in=fan)

    return draw, changed


_CORRECT = ("signed_constant", "unsigned_constant", "kaiming_normal")
_OF_ONE_FAN = (*_CORRECT, "kaiming_uniform", *(f"{name}_correct" for name in _CORRECT))


def _score_or_mask(masked, stream: Stream, scale: float, by_fan: bool):
    """Scores as published: U(-b, b), or normal where a score stands for a whole filter."""
    if masked.scores is None:
        return masked.mask, np.ones(masked.mask.shape)
    shape = masked.scores.shape
    if masked.layer.granularity == "filter":
        return masked.scores, scale * random.normal(tuple(shape), *stream)
    fan = fans_of(shape, masked.output_axes, masked.spatial_axes).fan_in if by_fan else 1
    return masked.scores, _uniform(shape, scale * np.sqrt(1 / fan), stream)


_CONSTANTS = {"bias": 0, "beta": 0, "gamma": 1, "moving_mean": 0, "moving_variance": 1}


def _is_weight(variable, layer) -> bool:
    """False for what has no initial value to go back to: adapted statistics, generator states."""
    import keras

    if isinstance(layer, keras.layers.Normalization):
        return False
    named = variable.name in _CONSTANTS or _own_initializer(variable, layer) is not None
    return named or variable.trainable or len(variable.shape) > 1


def _constant(variable, layer) -> np.ndarray:
    import keras

    if variable.name in _CONSTANTS:
        return np.full(variable.shape, _CONSTANTS[variable.name])
    own, known = _own_initializer(variable, layer), keras.initializers
    if isinstance(own, known.Zeros | known.Ones | known.Constant):
        return keras.ops.convert_to_numpy(own(variable.shape, dtype="float32"))
    raise ValueError(
        f"initialize cannot set {variable.path!r} of shape {tuple(variable.shape)}: it is not the "
        "kernel of a masked layer and has no constant initialiser; mask its layer, or keep the "
        "network's own weights"
    )


def _own_initializer(variable, layer):
    """By Keras' convention a layer's `alpha` is made by its `alpha_initializer`."""
    return getattr(layer, f"{variable.name}_initializer", None)


def hash_of(kernels: Sequence[np.ndarray]) -> str:
    """SHA-256 of kernels, as float32."""
    digest = hashlib.sha256()
    for kernel in kernels:
        digest.update(np.ascontiguousarray(kernel, "<f4").tobytes())
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

    def kernels(self, network) -> list[np.ndarray]:
        """The kernels of a network of this architecture, in traversal order.

        Raises:
            ValueError: They are not those of the hash.
        """
        if self.recipe != random.RECIPE:
            raise ValueError(f"recipe {self.recipe} is not this program's {random.RECIPE}")
        drawn = [value for _, value in self._drawn(network)]
        if hash_of(drawn) != self.hash:
            raise ValueError(
                f"seed {self.seed} with {self.initializer!r} gives other weights than the ticket's"
            )
        return drawn

    def of(self, network) -> "Seed":
        """This seed with the hash of a network's kernels.

        Raises:
            ValueError: The kernels are not what the seed gives.
        """
        for masked, value in self._drawn(network):
            if not np.array_equal(value, masked.kernel.numpy()):
                raise ValueError(
                    f"kernel {masked.name!r} is not what seed {self.seed} with "
                    f"{self.initializer!r} gives; it was trained or drawn otherwise: "
                    "use weights='stored'"
                )
        return dataclasses.replace(self, hash=hash_of([v for _, v in self._drawn(network)]))

    def _drawn(self, network):
        from rst_tf.traversal import masked_kernels

        for position, masked in enumerate(masked_kernels(network)):
            yield masked, draw_kernel(masked, self.seed, self.initializer, position)
