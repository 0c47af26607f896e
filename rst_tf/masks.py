"""What is kept: criteria, allocations, counts and exact selection. Pure functions, no state.

A *criterion* gives each weight an importance, `granularity` sums it over groups of weights, an
*allocation* turns a fraction into a number of groups per layer, and *selection* keeps exactly
that many. Ties go to the later position in row-major order; where more than 1 % of a layer ties
at the threshold they are ordered by a hash of the position instead, so that no corner of a kernel
is favoured.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from absl import logging

from rst_tf import random
from rst_tf.registry import Registry, unknown

Granularity = Literal["element", "row", "kernel", "filter"]
Count = Literal["nearest", "rst", "plus_one", "floor"]
Gain = Literal["none", "mean"]
Allocation = Literal["layerwise", "global", "global_floor"]

CRITERIA = Registry("criterion")
ALLOCATIONS = Registry("allocation")

_TIED = 0.01
_FLOOR = 0.1


def count(n: int, density: float, rule: Count = "nearest") -> int:
    """How many of `n` weights a density keeps; never below 1.

    Args:
        n: Number of weights (or groups), at least 1.
        density: Fraction kept, in (0, 1].
        rule: `nearest` rounds the number removed, half to even; `rst` is n - int((1-density) n)
            in floating point, as published (Fu et al. 2021), which keeps one more where the
            product falls just short: all 10 of 10 at .9; `plus_one` removes one more than
            nearest (Cosentino et al. 2019); `floor` truncates, whatever a float makes of .29.
    """
    check_density(density)
    if density == 1 and rule != "plus_one":
        return n
    removed = round(round(1 - density, 12) * n)  # 1 - 0.9 is not 0.1, and halves would tip
    rules = {
        "nearest": lambda: n - removed,
        "rst": lambda: n - int((1 - density) * n),
        "plus_one": lambda: n - removed - 1,
        "floor": lambda: int((density + 1e-12) * n),  # 0.29 * 100 is 28.999999999999996
    }
    if rule not in rules:
        raise ValueError(unknown("count", rule, list(rules)))
    return max(1, rules[rule]())


def check_density(density: float, argument: str = "density") -> None:
    """Raises ValueError unless `density` is a fraction kept, in (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(f"{argument} must be in (0, 1]; received {argument}={density!r}")


def check_choice(value: str, known: Sequence[str], argument: str) -> None:
    """Raises ValueError unless `value` is one of these."""
    if value not in known:
        raise ValueError(f"{argument} names an {unknown(argument, value, list(known))}")


def group_shape(
    shape: Sequence[int],
    granularity: Granularity,
    spatial_axes: Sequence[int],
    output_axes: Sequence[int],
) -> tuple[int, ...]:
    """Shape of the mask of a kernel: axes that a group spans become 1.

    Args:
        shape: Kernel shape.
        granularity: `element`; `row` spans the last spatial axis; `kernel` all spatial axes;
            `filter` all but the output axes. Without spatial axes row and kernel equal element.
        spatial_axes: Axes that slide over the input.
        output_axes: Axes that index output channels.
    """
    spanned = {
        "element": (),
        "row": tuple(spatial_axes)[-1:],
        "kernel": tuple(spatial_axes),
        "filter": tuple(axis for axis in range(len(shape)) if axis not in output_axes),
    }
    if granularity not in spanned:
        raise ValueError(unknown("granularity", granularity, list(spanned)))
    return tuple(1 if axis in spanned[granularity] else n for axis, n in enumerate(shape))


def grouped(importance: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Importance of each group: the sum over the axes where `shape` is 1."""
    axes = tuple(i for i, (n, g) in enumerate(zip(importance.shape, shape, strict=True)) if g < n)
    return importance.sum(axis=axes, keepdims=True, dtype=np.float32) if axes else importance


# ---------------------------------------------------------------- criteria


@CRITERIA.register("magnitude")
def magnitude(kernel: np.ndarray, *, seed: int, layer: int) -> np.ndarray:
    """|w|: the L1 norm of each group (Han et al. 2015)."""
    del seed, layer
    return np.abs(kernel)


@CRITERIA.register("random")
def random_importance(kernel: np.ndarray, *, seed: int, layer: int) -> np.ndarray:
    """Uniform noise: a random mask of the same size, the usual control."""
    return random.uniform(kernel.shape, seed, "criterion", layer).astype(np.float32)


# ---------------------------------------------------------------- allocations


def floor_of(n: int, density: float) -> int:
    """What `global_floor` leaves a layer of `n` weights: a tenth of its share, at least 1."""
    return count(n, _FLOOR * density)


@ALLOCATIONS.register("layerwise")
def layerwise(
    importances: Sequence[np.ndarray],
    alive: Sequence[np.ndarray],
    bases: Sequence[int],
    fractions: Sequence[float],
    rule: Count,
) -> list[int]:
    """Each layer keeps its own fraction of its own base.

    Args:
        importances: Per layer, importance of each group.
        alive: Per layer, True where a group may be kept.
        bases: Per layer, the number the fraction refers to: all groups, or the surviving ones.
        fractions: Per layer, fraction kept.
        rule: How a fraction becomes a number.

    Returns:
        Per layer, the number of groups to keep.
    """
    del importances, alive
    return [count(n, fraction, rule) for n, fraction in zip(bases, fractions, strict=True)]


@ALLOCATIONS.register("global")
def across_layers(importances, alive, bases, fractions, rule) -> list[int]:
    """One threshold for the whole network; arguments as in `layerwise`, one common fraction.

    Groups of unequal size (structured granularities) compete by importance per weight of the
    group only if their criterion says so; the published systems rank elements.
    """
    if len(set(fractions)) != 1:
        raise ValueError(
            f"allocation='global' takes one fraction for the network; received {list(fractions)}"
        )
    kept = count(sum(bases), fractions[0], rule)
    flat = np.concatenate([i.ravel() for i in importances])
    mask = select(flat, kept, np.concatenate([a.ravel() for a in alive]))
    ends = np.cumsum([a.size for a in alive])[:-1]
    return [int(part.sum()) for part in np.split(mask, ends)]


@ALLOCATIONS.register("global_floor")
def across_layers_with_floor(importances, alive, bases, fractions, rule) -> list[int]:
    """`global`, but every layer keeps at least a tenth of the fraction.

    One threshold empties a layer whose weights are all small, a wide dense one for instance, and
    nothing passes an empty layer.
    """
    raised = []
    for importance, living, n, fraction in zip(importances, alive, bases, fractions, strict=True):
        least = min(floor_of(n, fraction), int(living.sum()))
        held = select(importance, least, living)
        raised.append(np.where(held, np.float32(np.inf), importance))
    return across_layers(raised, alive, bases, fractions, rule)


def adaptive_densities(sizes: Sequence[int], density: float, power: float) -> list[float]:
    """Densities of layers for which kept / size ** power is one number (Liu et al. 2022).

    With power 1 all layers have one density, with power 0 one number of weights; in between, small
    layers lose less. Layers are gone through by size: one that would keep more weights than it has
    keeps all of them, and what this and truncation leave over goes to the layers after it, so that
    they add up to the density of the network.

    Args:
        sizes: Number of weights (or groups) of each layer.
        density: Fraction kept of all of them, in (0, 1].
        power: In [0, 1].

    Returns:
        Per layer, the fraction kept, in (0, 1]; published with the count `rst`.
    """
    check_density(density)
    if not 0 <= power <= 1:
        raise ValueError(f"power must be in [0, 1]; received power={power!r}")
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    powers = [sizes[i] ** power for i in order]
    budget = int(density * sum(sizes))
    common = density * sum(sizes) / sum(powers)
    found = [1.0] * len(sizes)
    for place, i in enumerate(order, 1):
        own = min(1.0, common * sizes[i] ** (power - 1))
        found[i] = own or 1 / sizes[i]  # nothing is left: the count keeps one all the same
        budget -= int(own * sizes[i])
        common = budget / (sum(powers[place:]) or 1)
    return found


# ---------------------------------------------------------------- selection


def select(importance: np.ndarray, kept: int, alive: np.ndarray | None = None) -> np.ndarray:
    """Keeps exactly `kept` of the most important entries.

    Args:
        importance: Float array of any shape; its absolute value ranks.
        kept: How many to keep, from 0 to the number of alive entries.
        alive: Optional bool array of that shape; False entries are never kept.

    Returns:
        Bool array of that shape with `kept` entries True.
    """
    importance = np.asarray(importance, np.float32)
    if np.isnan(importance).any():
        raise ValueError("importance has NaN entries; they cannot be ranked")
    keys = np.abs(importance).ravel().view(np.int32).astype(np.int64)
    if alive is not None:
        keys[~np.asarray(alive, bool).ravel()] = -1
    available = int((keys >= 0).sum())
    if not 0 <= kept <= available:
        raise ValueError(f"kept must be between 0 and {available}; received kept={kept}")
    mask = np.zeros(keys.size, bool)
    if kept:
        threshold = np.partition(keys, keys.size - kept)[keys.size - kept]
        mask = keys > threshold
        tied = np.flatnonzero(keys == threshold)
        needed = kept - int(mask.sum())
        mask[_tail(tied, needed, keys.size)] = True
    return mask.reshape(importance.shape)


def _tail(tied: np.ndarray, needed: int, size: int) -> np.ndarray:
    if needed < tied.size and tied.size > _TIED * size:
        logging.log_first_n(
            logging.INFO,
            "%d of %d importances tie at the threshold; a hash of the position decides among them",
            1,
            tied.size,
            size,
        )
        tied = tied[np.argsort(random.mix(tied.astype(np.uint32)))]
    return tied[tied.size - needed :]


def select_in_graph(scores, kept: int, *, static: bool = True):
    """`select` as graph operations.

    Args:
        scores: Float32 tensor of any shape.
        kept: How many to keep, from 1 to the number of scores.
        static: Use static shapes only, as XLA needs: 31 counts, one for each bit. Otherwise a
            histogram of the high bits and a sort of what lies in one bin, three times as fast.

    Returns:
        Float32 tensor of that shape, `kept` ones and otherwise zeros: the mask `select` gives.
    """
    import tensorflow as tf

    flat = tf.reshape(scores, [-1])
    bits = tf.bitcast(tf.abs(flat), tf.int32)
    mask = _by_bisection(bits, kept) if static else _by_histogram(bits, kept)
    return tf.reshape(mask, scores.shape)


def _by_bisection(bits, kept: int):
    import tensorflow as tf

    threshold = _kth_largest(bits, kept, 31)
    above, tied = bits > threshold, bits == threshold
    needed = kept - tf.math.count_nonzero(above, dtype=tf.int32)
    number = tf.math.count_nonzero(tied, dtype=tf.int32)
    position = tf.range(1, bits.shape[0] + 1, dtype=tf.int32)

    def by_position():
        return position

    def by_hash():
        return tf.argsort(tf.argsort(tf.cast(random.mix_in_graph(position - 1), tf.int64))) + 1

    many = (needed < number) & (number > math.floor(_TIED * bits.shape[0]))
    order = tf.where(tied, tf.cond(many, by_hash, by_position), 0)
    last = _kth_largest(order, needed, 31)
    return tf.cast(above | (tied & (order >= last)), tf.float32)


def _by_histogram(bits, kept: int):
    import tensorflow as tf

    bins = 1 << 15
    high = tf.bitwise.right_shift(bits, 16)
    counts = tf.math.bincount(high, minlength=bins, maxlength=bins)
    from_above = tf.cumsum(counts, reverse=True)
    bin_of_last = tf.math.count_nonzero(from_above >= kept, dtype=tf.int32) - 1
    inside = tf.gather(bits, tf.where(high == bin_of_last)[:, 0])
    wanted = kept - (from_above[bin_of_last] - counts[bin_of_last])
    threshold = tf.math.top_k(inside, wanted).values[-1]
    needed = wanted - tf.math.count_nonzero(inside > threshold, dtype=tf.int32)
    tied = tf.where(bits == threshold)[:, 0]
    number = tf.size(tied)

    def by_hash():
        return tf.gather(tied, tf.argsort(tf.cast(random.mix_in_graph(tied), tf.int64)))

    many = (needed < number) & (number > math.floor(_TIED * bits.shape[0]))
    chosen = tf.cond(many, by_hash, lambda: tied)[number - needed :]
    mask = tf.cast(bits > threshold, tf.float32)
    return tf.tensor_scatter_nd_update(mask, chosen[:, tf.newaxis], tf.ones([needed]))


def _kth_largest(keys, k, bits: int):
    """The k-th largest of non-negative int32 keys, found bit by bit."""
    import tensorflow as tf

    def step(bit, best):
        candidate = best | tf.bitwise.left_shift(1, bit)
        enough = tf.math.count_nonzero(keys >= candidate, dtype=tf.int32) >= k
        return bit - 1, tf.where(enough, candidate, best)

    start = (tf.constant(bits - 1), tf.constant(0))
    return tf.while_loop(lambda bit, _: bit >= 0, step, start, maximum_iterations=bits)[1]


def select_across_in_graph(
    scores: Sequence, kept: int, least: Sequence[int], *, static: bool = True
):
    """One threshold for all layers: what the allocations `global` and `global_floor` keep.

    Args:
        scores: Per layer, a float32 tensor of any shape.
        kept: How many to keep in all layers together, at least 1.
        least: Per layer, how many of its own largest it keeps in any case; 0 for none.
        static: As in `select_in_graph`.

    Returns:
        Per layer, a float32 tensor of its shape, ones and otherwise zeros.
    """
    import tensorflow as tf

    flat = []
    for own, number in zip(scores, least, strict=True):
        size = tf.abs(tf.reshape(own, [-1]))
        held = select_in_graph(size, number, static=static) > 0 if number else False
        flat.append(tf.where(held, float("inf"), size))
    mask = select_in_graph(tf.concat(flat, 0), kept, static=static)
    parts = tf.split(mask, [part.shape[0] for part in flat])
    return [tf.reshape(part, own.shape) for part, own in zip(parts, scores, strict=True)]


def straight_through(kernel, mask, scores):
    """`kernel * mask` with the gradient of `kernel * |scores|` (Ramanujan et al. 2020).

    dL/dscores = dL/dw_eff * w * sign(scores), for kept and pruned weights alike, summed over the
    weights of a group; dL/dw = dL/dw_eff * mask.

    Args:
        kernel: Tensor of any shape.
        mask: Tensor of 0 and 1 of that shape, or 1 along the axes of a group.
        scores: Tensor of the mask's shape.
    """
    from keras import ops

    spanned = [
        axis for axis, (n, m) in enumerate(zip(kernel.shape, mask.shape, strict=True)) if m < n
    ]

    @ops.custom_gradient
    def multiplied(kernel, mask, scores):
        def gradient(upstream):
            to_mask = upstream * kernel
            if spanned:
                to_mask = ops.sum(to_mask, axis=spanned, keepdims=True)
            return upstream * mask, to_mask, to_mask * ops.sign(scores)

        return kernel * mask, gradient

    return multiplied(*(ops.convert_to_tensor(x) for x in (kernel, mask, scores)))


def signs_at_mean(kernel, mask):
    """Signs of a masked kernel times the mean magnitude of what is kept (Diffenderfer 2021).

    The gradient is that of `kernel` itself. A kept weight of 0 counts as positive. A kernel of +1
    and -1 comes back as it is, bit for bit.

    Args:
        kernel: Tensor of any shape, 0 where the mask is.
        mask: Tensor of 0 and 1 of that shape, or 1 along the axes of a group.
    """
    from keras import ops

    @ops.custom_gradient
    def replaced(kernel, mask):
        group = math.prod(kernel.shape) // math.prod(mask.shape)
        gain = ops.sum(ops.abs(kernel)) / ops.maximum(ops.sum(mask) * group, 1)
        signs = ops.where(kernel < 0, -gain, gain)

        def gradient(upstream):
            return upstream, ops.zeros_like(mask)

        return signs * mask, gradient

    return replaced(*(ops.convert_to_tensor(x) for x in (kernel, mask)))
