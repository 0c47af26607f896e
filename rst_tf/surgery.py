"""`masked(model)` and `baked(model)`: inverse of each other, for a user's own Keras model."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from absl import logging
from keras.src.models import Functional  # no public name; Keras needs it to clone, and so do we

from rst_tf.binary_connect import BINARY_CLASS
from rst_tf.layers import MASKED_CLASS, MaskedKernel
from rst_tf.masks import Allocation, Count, Gain, Granularity
from rst_tf.traversal import finalize_statistics, masked_kernels, masked_layers

_PLAIN_CLASS = {
    ours: plain for table in (MASKED_CLASS, BINARY_CLASS) for plain, ours in table.items()
}
_MASK_ARGUMENTS = ("granularity", "search", "density", "count", "allocation", "gain", "stochastic")
_TOLERATED = 0.01


def masked(
    model: keras.Model,
    *,
    granularity: Granularity = "element",
    search: bool = False,
    density: float = 1.0,
    count: Count = "nearest",
    allocation: Allocation = "layerwise",
    gain: Gain = "none",
    dense: Sequence[str] = (),
) -> keras.Model:
    """A copy of a model whose kernels have masks, all one: the same outputs.

    Dense, Conv1D, Conv2D, DepthwiseConv2D, SeparableConv2D and EinsumDense layers are replaced,
    in nested models too; weights are copied. What stays dense is logged, and listed by
    `left_dense`. The copy is not compiled.

    Args:
        model: A built Sequential or functional model (Keras Applications models are).
        granularity: What one mask entry covers: element, row, kernel or filter.
        search: Freeze the weights and train scores (edge-popup); masks then follow the scores.
        density: In a search, the fraction of each kernel kept, in (0, 1].
        count: In a search, how the density becomes a number.
        allocation: In a search, layerwise, or one threshold for all: global, global_floor. For
            fractions by size see `set_density`.
        gain: mean has layers see signs only, times the mean magnitude of what each keeps; then the
            outputs are other ones.
        dense: Names of layers to leave as they are.

    Raises:
        ValueError: The model is subclassed, not built, already masked, has no such layer as
            `dense` names, or more than 1 % of its weights would stay dense without being named.
    """
    check_clonable(model, "masked")
    if density != 1 and not search:
        raise ValueError(
            f"density={density!r} has an effect only with search=True; prune a ticket instead"
        )
    if isinstance(dense, str):
        raise ValueError(f"dense must be a sequence of layer names; received dense={dense!r}")
    if masked_layers(model):
        raise ValueError(f"model {model.name!r} already has masked layers; bake it first")
    options = {
        "granularity": granularity,
        "search": search,
        "density": density,
        "count": count,
        "allocation": allocation,
        "gain": gain,
    }
    named = set(dense)

    def convert(layer):
        if layer.name in named or type(layer) not in MASKED_CLASS:
            return _same(layer)
        return MASKED_CLASS[type(layer)].from_config({**layer.get_config(), **options})

    copy, pairs = converted(model, convert)
    unknown = named - {layer.name for layer, _ in pairs}
    if unknown:
        raise ValueError(f"dense names layers the model does not have: {sorted(unknown)}")
    _check_left_dense(copy, named)
    return copy


def baked(network: keras.Model) -> keras.Model:
    """A plain Keras copy of a masked network: zeros in place of masks, the same outputs.

    Weights that a layer sees only the signs of become these signs.

    Args:
        network: A Sequential or functional model with masked layers.

    Raises:
        ValueError: The network is subclassed or has no masked layers.
    """
    check_clonable(network, "baked")
    masked_kernels(network)

    def convert(layer):
        if type(layer) not in _PLAIN_CLASS:
            return _same(layer)
        config = {k: v for k, v in layer.get_config().items() if k not in _MASK_ARGUMENTS}
        return _PLAIN_CLASS[type(layer)].from_config(config)

    return converted(network, convert)[0]


def with_logits(model: keras.Model) -> keras.Model:
    """A copy of a classifier without its final softmax, for attacks and objectives need logits.

    Args:
        model: A built Sequential or functional model whose last layer is a softmax or ends in one.
            A model without one is returned as it is.
    """
    last = _softmax_layer(model)
    if last is None:
        return model

    def convert(layer):
        if layer is not last:
            return _same(layer)
        if isinstance(layer, keras.layers.Softmax):
            return keras.layers.Activation("linear", name=layer.name)
        return type(layer).from_config({**layer.get_config(), "activation": "linear"})

    return converted(model, convert)[0]


def ends_in_softmax(model: keras.Model) -> bool:
    """True if the model's structure shows that it returns probabilities, not logits."""
    return _softmax_layer(model) is not None


def left_dense(network: keras.Model) -> list[tuple[str, int]]:
    """Weights that no mask covers, as (variable path, number of weights), largest first.

    Weights are trainable variables of rank 2 or more; biases and normalisation are always dense
    and not listed.
    """
    kernels = masked_kernels(network)
    covered = {id(v) for m in kernels for v in (m.kernel, m.scores)}
    rest = [v for v in network.trainable_variables if id(v) not in covered and len(v.shape) > 1]
    return sorted(((v.path, _size(v)) for v in rest), key=lambda item: -item[1])


def check_clonable(model, verb: str) -> None:
    """Raises ValueError unless a model is built, and Sequential or functional."""
    if not isinstance(model, keras.Sequential | Functional):
        raise ValueError(
            f"{verb}() copies Sequential and functional models; received "
            f"{type(model).__name__}, which Keras cannot clone. Build it from rst_tf's masked "
            "layers instead (rst_tf.MaskedDense, ...), or pass the functional model inside it"
        )
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once or give an Input first")


def converted(model, convert: Callable, copy: Callable | None = None):
    """A copy with each layer converted, weights too, and the pairs (old layer, new layer).

    Args:
        model: Sequential or functional model.
        convert: From a layer to the one that stands for it, not built.
        copy: Gives the second of two layers the first one's weights; by default all variables, or
            of a masked layer what it sees of them.
    """
    copy = copy or _copy_variables
    pairs = []

    def clone(layer):
        new = convert(layer)
        pairs.append((layer, new))
        return new

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.layers.Activation):  # may stand for a Softmax, which has a mask
            kwargs.pop("mask", None)
        return layer(*args, **kwargs)

    functional = {"call_function": call} if isinstance(model, Functional) else {}
    made = keras.models.clone_model(model, clone_function=clone, recursive=True, **functional)
    for old, new in pairs:
        if isinstance(old, keras.layers.Layer):  # an operation, such as x + y, has nothing to copy
            copy(old, new)
    finalize_statistics(made)
    return made, pairs


def _same(layer):
    return type(layer).from_config(layer.get_config())


def _copy_variables(old, new) -> None:
    if isinstance(new, MaskedKernel) != isinstance(old, MaskedKernel):
        target = {v.name: v for v in new.variables}
        effective = {m.kernel.name: m.effective() for m in _masks_of(old)}
        for variable in old.variables:
            if variable.name in target:
                target[variable.name].assign(effective.get(variable.name, variable))
    else:
        for source, destination in zip(old.variables, new.variables, strict=True):
            destination.assign(source)


def _masks_of(layer):
    return layer.masked.values() if isinstance(layer, MaskedKernel) else ()


def _check_left_dense(network, named: set[str]) -> None:
    rest = left_dense(network)
    logging.info("left dense: %s", ", ".join(f"{path} ({n})" for path, n in rest) or "nothing")
    untold = [(path, n) for path, n in rest if not named & set(path.split("/"))]
    total = sum(_size(m.kernel) for m in masked_kernels(network)) + sum(n for _, n in rest)
    share = sum(n for _, n in untold) / total
    if share > _TOLERATED:
        path, n = untold[0]
        raise ValueError(
            f"{share:.1%} of the weights of {network.name!r} would stay dense, first {path!r} with "
            f"{n}; if that is meant, name the layers: dense=({path.split('/')[-2]!r}, ...)"
        )


def _size(variable) -> int:
    return int(np.prod(variable.shape))


def _softmax_layer(model):
    """The last layer of a model, nested or not, if it is or ends in a softmax."""
    layer = model
    while isinstance(layer, keras.Model):
        if isinstance(layer, keras.Sequential):
            layer = layer.layers[-1]
        elif isinstance(layer, Functional):
            layer = layer.get_layer(layer.output_names[0])
        else:
            return None
    if isinstance(layer, keras.layers.Softmax):
        return layer
    config = layer.get_config()
    return layer if config.get("activation") == "softmax" else None
