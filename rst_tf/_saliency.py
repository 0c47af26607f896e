"""What a weight is worth before any training: by gradients, by curvature, by the flow through it.

Scores are NumPy arrays of a kernel's shape, one per masked kernel in traversal order. All are of
the dense network: masks are one while they are computed, and everything is as before afterwards.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from rst_tf import random
from rst_tf.attacks.attack import check_examples, check_logits
from rst_tf.data import Split
from rst_tf.data.sampling import stratified
from rst_tf.evaluation import batches_of
from rst_tf.normalization import Normalization
from rst_tf.objectives import Objective
from rst_tf.surgery import check_clonable
from rst_tf.traversal import (
    dense_gradients,
    finalize_statistics,
    kernels_given,
    masked_kernels,
    reset_statistics,
)

_AT_ONCE = 128
_CENTRED = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)
_ADDED = ("bias", "beta")


class Batch(NamedTuple):
    """Examples to score on.

    Args:
        images: Float32 [n, ...] in [0, 1].
        labels: Int32 [n].
        index: Identities of the examples, integers [n].
        adversarial: Images like `images`, or None.
    """

    images: tf.Tensor
    labels: tf.Tensor
    index: tf.Tensor
    adversarial: tf.Tensor | None = None


@contextlib.contextmanager
def dense_for_now(network) -> Iterator[None]:
    """Within this context all masks are one; afterwards every variable has its bits of before."""
    before = [(variable, variable.numpy()) for variable in network.variables]
    for masked in masked_kernels(network):
        masked.mask.assign(np.ones(masked.mask.shape))
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def sampled(batches, examples: int, seed: int) -> Iterator[Batch]:
    """So many examples: drawn where all are there, every class in its share, else the first ones.

    Args:
        batches: (images, labels) as arrays, a `Split`, or an iterable of such pairs, in which
            images may be `{"image": ..., "index": ...}`; of these the last batch is cut.
        examples: Number of examples.
        seed: Keys what is drawn, and its order.

    Raises:
        ValueError: There are fewer examples, or none were given.
    """
    if batches is None:
        raise ValueError("batches must be given, for these masks are chosen by examples")
    seen = 0
    for x, y, index in _triples(batches, examples, seed):
        n = min(len(y), examples - seen)
        index = seen + np.arange(n) if index is None else index[:n]
        labels = tf.cast(tf.reshape(y, [-1])[:n], tf.int32)
        yield Batch(tf.cast(x[:n], tf.float32), labels, tf.convert_to_tensor(index))
        seen += n
        if seen == examples:
            return
    raise ValueError(f"examples must be at most the {seen} of the batches; received {examples=}")


def attacked(network, batches: Iterable[Batch], objective: Objective, seed: int) -> list[Batch]:
    """The batches with the objective's adversarial images of the dense network."""
    check_logits(network)
    key = random.subseed(seed, "first_masks")[0]
    return [
        b._replace(adversarial=objective.perturb(network, b.images, b.labels, key, b.index))
        for b in batches
    ]


def connection_sensitivity(network, batches: Sequence[Batch], objective) -> list[np.ndarray]:
    """|dL/dm| of the mask m, which is |w dL/dw| (SNIP; Lee, Ajanthan & Torr 2019).

    The gradient is the mean over all examples; normalisation uses the statistics of each batch.
    """
    gradients = _mean_gradients(network, batches, _losses(network, objective, 1.0))
    return [np.abs(w * g) for w, g in zip(_seen(network), gradients, strict=True)]


def gradient_flow(
    network, batches: Sequence[Batch], objective, temperature: float
) -> list[np.ndarray]:
    """What a weight adds to the norm of the gradient, w (H g) (GraSP; Wang et al. 2020).

    Signed; the largest are kept. g and H are of the mean loss over all examples, its logits divided
    by `temperature`; normalisation uses the statistics of each batch.
    """
    loss = _losses(network, objective, temperature)
    kernels = masked_kernels(network)
    gradients = [tf.constant(g) for g in _mean_gradients(network, batches, loss)]
    products = [np.zeros(masked.shape, np.float32) for masked in kernels]
    total = sum(len(batch.labels) for batch in batches)
    for batch in batches:
        values = [tf.convert_to_tensor(masked.effective()) for masked in kernels]
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(values)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(values)
                with kernels_given(kernels, values):
                    scalar = loss(batch)
            own = inner.gradient(scalar, values, unconnected_gradients="zero")
            along = tf.add_n([tf.reduce_sum(g * o) for g, o in zip(gradients, own, strict=True)])
        share = len(batch.labels) / total
        for product, part in zip(
            products, outer.gradient(along, values, unconnected_gradients="zero"), strict=True
        ):
            product += share * part.numpy()
    return [w * product for w, product in zip(_seen(network), products, strict=True)]


def in_order(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Positive float32 numbers in the order of signed scores, equal where these are equal."""
    flat = np.concatenate([score.ravel() for score in scores])
    places = np.unique(flat, return_inverse=True)[1].astype(np.int32)
    ranks = (places + (1 << 23)).view(np.float32)  # bits of positive floats are in their order
    ends = np.cumsum([score.size for score in scores])[:-1]
    return [
        part.reshape(score.shape) for part, score in zip(np.split(ranks, ends), scores, strict=True)
    ]


def synaptic_flow(
    network, rounds: int, select: Callable[[list, list, int], list[np.ndarray]]
) -> list[np.ndarray]:
    """|w| d(sum of outputs)/d|w| for an image of ones, round after round (Tanaka et al. 2020).

    On a copy in float64, for the flow grows with depth beyond float32, with absolute parameters.
    Normalisation there is as before any training: mean 0 and variance 1, as in the published code,
    so it passes the signal on and has no sign of its own. Biases and offsets are 0: they are no
    path from the input.

    Args:
        network: Sequential or functional model with masked layers.
        rounds: Number of prunings.
        select: Gives the masks of a round, bool, from scores in [0, 1], the masks so far, and the
            round's number from 1.

    Returns:
        The masks of the last round.

    Raises:
        ValueError: The network cannot be copied, has no fixed input shape, centres its signals, or
            lets none through, or a round leaves no way through it.
    """
    copy = _in_double(network)
    image = tf.ones((1, *_fixed_shape(network)), tf.float64)
    for variable in copy.weights:
        added = variable.name in _ADDED
        variable.assign(np.zeros(variable.shape) if added else np.abs(variable.numpy()))
    reset_statistics(copy)
    kernels = masked_kernels(copy)

    @tf.function(jit_compile=False)
    def flows():
        gradients = dense_gradients(copy, lambda: tf.reduce_sum(copy(image, training=False)))
        return [masked.effective() * g for masked, g in zip(kernels, gradients, strict=True)]

    chosen = [np.ones(masked.mask.shape, bool) for masked in kernels]
    _set(kernels, chosen)
    found = flows()
    for number in range(1, rounds + 1):
        largest = max(float(np.max(flow)) for flow in found)
        if not 0 < largest < np.inf:
            raise ValueError(
                f"network {network.name!r} must pass an image of ones on as a positive signal; "
                f"received a largest flow of {largest:g}"
            )
        chosen = select([flow.numpy() / largest for flow in found], chosen, number)
        _set(kernels, chosen)
        found = flows()
        if not any(np.any(flow) for flow in found):
            raise ValueError(
                f"rounds must be more, for round {number} of {rounds} leaves no way through the "
                f"network; received rounds={rounds}"
            )
    for masked, mask in zip(kernels, chosen, strict=True):
        if not mask.any():
            logging.info("synflow prunes all of %s, which others bypass", masked.name)
    return chosen


def _set(kernels, chosen: Sequence[np.ndarray]) -> None:
    for masked, mask in zip(kernels, chosen, strict=True):
        masked.mask.assign(mask.astype(np.float64))


def _triples(batches, examples: int, seed: int):
    """(images, labels, identities or None) of each batch."""
    if isinstance(batches, Split):
        yield from batches_of(
            batches.select(_drawn(batches.labels, examples, seed)), None, None, _AT_ONCE
        )
    elif isinstance(batches, tuple) and len(batches) == 2:
        x, y = np.asarray(batches[0], np.float32), np.asarray(batches[1])
        check_examples(x, y)
        rows = _drawn(y, examples, seed)
        yield from batches_of(x[rows], y[rows], rows, _AT_ONCE)
    else:
        for x, y, *_ in batches:
            named = isinstance(x, dict)
            yield (x["image"], y, x["index"]) if named else (x, y, None)


def _drawn(labels: np.ndarray, examples: int, seed: int) -> np.ndarray:
    rows = stratified(labels, min(examples, len(labels)), seed, "first_masks/examples")
    return rows[random.permutation(len(rows), seed, "first_masks/order")]


def _losses(network, objective: Objective, temperature: float) -> Callable[[Batch], tf.Tensor]:
    """The objective's mean loss of a batch, every logit divided by the temperature."""

    def logits(x, training):
        return network(x, training=training) / temperature

    def loss(batch):
        outcome = objective.loss(logits, batch.images, batch.adversarial, batch.labels)
        return tf.reduce_mean(outcome.loss)

    return loss


def _mean_gradients(network, batches, loss) -> list[np.ndarray]:
    total = sum(len(batch.labels) for batch in batches)
    sums = [np.zeros(masked.shape, np.float32) for masked in masked_kernels(network)]
    for batch in batches:
        gradients = dense_gradients(network, lambda batch=batch: loss(batch))
        for own, gradient in zip(sums, gradients, strict=True):
            own += len(batch.labels) / total * gradient.numpy()
    return sums


def _seen(network) -> list[np.ndarray]:
    return [np.asarray(masked.effective()) for masked in masked_kernels(network)]


def _in_double(network):
    """A copy of a network that computes in float64, with Keras' own batch normalisation."""
    check_clonable(network, "synflow")
    pairs = []

    def convert(layer):
        if isinstance(layer, _CENTRED):
            raise ValueError(
                f"synflow needs a positive signal, which layer {layer.name!r} "
                f"({type(layer).__name__}) centres"
            )
        if type(layer) is Normalization:
            options = {"center": layer.affine, "scale": layer.affine, "epsilon": layer.epsilon}
            new = keras.layers.BatchNormalization(name=layer.name, dtype="float64", **options)
        else:
            new = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
        pairs.append((layer, new))
        return new

    copy = keras.models.clone_model(network, clone_function=convert, recursive=True)
    for old, new in pairs:
        for source, target in zip(old.variables, new.variables, strict=True):
            target.assign(source.numpy())
    finalize_statistics(copy)
    return copy


def _fixed_shape(network) -> tuple[int, ...]:
    shape = tuple(network.input_shape[1:])
    if None in shape:
        raise ValueError(
            f"network {network.name!r} must have a fixed input shape; received {shape}"
        )
    return shape
