"""Densities of layers for a density of the network, and the whole numbers that add up to it."""

from collections.abc import Mapping, Sequence

import numpy as np

from rst_tf.masks import check_density, count
from rst_tf.registry import Registry

LAYER_DENSITIES = Registry("layer densities")


@LAYER_DENSITIES.register("igq")
def ideal_gas_quotas(shapes: Sequence[Sequence[int]], density: float) -> list[float]:
    """1 / (1 + F n): the larger a layer, the less it keeps (Vysogorets & Kempe 2021).

    Args:
        shapes: Shape of each kernel.
        density: Fraction kept of all weights together, in (0, 1].

    Returns:
        Per layer, the fraction kept, in (0, 1]; with the sizes as weights, their mean is `density`.
    """
    sizes = sizes_of(shapes)
    factor = ideal_gas_factor(sizes, density)
    return [1 / (1 + factor * n) for n in sizes]


@LAYER_DENSITIES.register("erk")
def erdos_renyi_kernel(
    shapes: Sequence[Sequence[int]], density: float, power: float = 1.0
) -> list[float]:
    """In proportion to (sum of the dimensions / their product) ** power (Evci et al. 2020).

    A layer that would keep more weights than it has is dense, and the others are scaled anew.

    Args:
        shapes: As in `ideal_gas_quotas`.
        density: As in `ideal_gas_quotas`.
        power: Strength: 1 as published, 0 gives every layer the same density.

    Returns:
        As `ideal_gas_quotas`.
    """
    check_density(density)
    if not power >= 0:
        raise ValueError(f"power must be at least 0; received power={power!r}")
    sizes = sizes_of(shapes)
    raw = [(sum(shape) / n) ** power for shape, n in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while len(dense) < len(sizes):
        rest = [i for i in range(len(sizes)) if i not in dense]
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        scale = left / sum(raw[i] * sizes[i] for i in rest)
        full = {i for i in rest if scale * raw[i] > 1}
        if not full:
            return [1.0 if i in dense else scale * raw[i] for i in range(len(sizes))]
        dense |= full
    return [1.0] * len(sizes)


@LAYER_DENSITIES.register("uniform")
def uniform(shapes: Sequence[Sequence[int]], density: float) -> list[float]:
    """Every layer the same; arguments as in `ideal_gas_quotas`."""
    check_density(density)
    return [density] * len(shapes)


def ideal_gas_factor(sizes: Sequence[int], density: float) -> float:
    """The F of `ideal_gas_quotas`, by bisection.

    Args:
        sizes: Number of weights of each layer.
        density: Fraction kept of all of them, in (0, 1].
    """
    check_density(density)
    n = np.asarray(sizes, np.float64)

    def kept(factor):
        return float((n / (1 + factor * n)).sum())

    if density == 1:
        return 0.0
    low, high = 0.0, 1.0
    while kept(high) > density * n.sum():
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if kept(middle) > density * n.sum() else (low, middle)
    return high


def layer_densities(
    densities: str | Mapping[str, float],
    shapes: Sequence[Sequence[int]],
    density: float,
    *,
    names: Sequence[str] = (),
    power: float = 1.0,
) -> list[float]:
    """The fraction that each layer keeps, by a registered rule or as given.

    Args:
        densities: igq, erk or uniform; or the fractions themselves, by the name of the kernel
            (`conv/kernel`) or of its layer (`conv`), as a mapping or as text: `conv=.5,output=1`.
        shapes: Shape of each kernel.
        density: Fraction kept of all weights together, in (0, 1]. Given fractions may miss it by
            half a hundredth, and are then taken as they are.
        names: Name of each kernel, for given fractions.
        power: Of erk.

    Returns:
        Per layer, a fraction in (0, 1].

    Raises:
        ValueError: An unknown rule or name, a layer left out, a fraction or density out of range,
            or given fractions that make another density.
    """
    check_density(density)
    if isinstance(densities, Mapping) or "=" in densities:
        found = _given(read_densities(densities), names)
        total = sum(np.multiply(found, sizes_of(shapes))) / sum(sizes_of(shapes))
        if abs(total - density) > 0.005:
            raise ValueError(
                f"density must be what the given densities make, {total:.4g}; "
                f"received density={density!r}"
            )
        return found
    rule = LAYER_DENSITIES[densities]
    check_power(densities, power)
    return rule(shapes, density, power) if rule is erdos_renyi_kernel else rule(shapes, density)


def read_densities(densities: str | Mapping[str, float]) -> dict[str, float]:
    """Fractions by name, from a mapping or from text such as `conv=.5,output=1`.

    Raises:
        ValueError: Not such a text, a name twice, or a fraction outside (0, 1].
    """
    if isinstance(densities, str):
        pairs = [item.split("=") for item in densities.split(",")]
        if any(len(pair) != 2 for pair in pairs) or len(dict(pairs)) < len(pairs):
            raise ValueError(
                "densities must be name=fraction, each name once, separated by commas; "
                f"received densities={densities!r}"
            )
        densities = {name.strip(): _fraction(name, text) for name, text in pairs}
    for name, fraction in densities.items():
        check_density(fraction, f"densities of {name!r}")
    return dict(densities)


def check_power(densities: str, power: float) -> None:
    """Raises ValueError where a power is given to a rule that has none."""
    if power != 1 and densities != "erk":
        raise ValueError(
            f"power has an effect with densities=erk only; received power={power!r} with "
            f"densities={densities!r}"
        )


def kept_counts(
    sizes: Sequence[int], fractions: Sequence[float], density: float | None = None
) -> list[int]:
    """Whole numbers of weights that add up to the density of the network.

    Each layer gets the whole part of its share, and what is left goes to the largest remainders.
    (`masks.count` with the rule `rst` rounds each layer up by itself, as the published code of
    Flying Bird does: at most one more per layer, and no exact sum.)

    Args:
        sizes: Number of weights of each layer.
        fractions: Fraction that each keeps, in (0, 1].
        density: Fraction kept of all of them together; the fractions' own mean if None.

    Returns:
        Per layer, a number from 1 to its size. They add up to the nearest number to `density` times
        all weights, or to the number of layers where that is more.

    Raises:
        ValueError: The fractions are too far from that density to add up to it.
    """
    n, shares = np.asarray(sizes), np.multiply(sizes, fractions)
    total = shares.sum() / n.sum() if density is None else density
    target = max(count(int(n.sum()), float(total)), len(sizes))
    if abs(shares.sum() - target) > len(sizes):
        raise ValueError(
            f"fractions must add up to the {target:,} weights that density={density!r} keeps; "
            f"received fractions of {shares.sum():,.0f} weights"
        )
    kept = np.clip(np.floor(shares + 1e-9).astype(np.int64), 1, n)
    while missing := target - int(kept.sum()):
        step = 1 if missing > 0 else -1
        free = np.flatnonzero(kept < n if step > 0 else kept > 1)
        most = np.argsort(-step * (shares - kept)[free], kind="stable")
        kept[free[most[: abs(missing)]]] += step
    return kept.tolist()


def sizes_of(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Number of weights of each shape."""
    return [int(np.prod(shape)) for shape in shapes]


def _fraction(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"densities must be fractions in (0, 1]; received {name.strip()}={text.strip()!r}"
        ) from None


def _given(densities: Mapping[str, float], names: Sequence[str]) -> list[float]:
    known = {key for name in names for key in (name, name.rpartition("/")[0])}
    for name in densities:
        if name not in known:
            raise ValueError(
                f"densities names {name!r}, which no masked layer is called "
                f"(known: {', '.join(names)})"
            )
    left = [n for n in names if n not in densities and n.rpartition("/")[0] not in densities]
    if left:
        raise ValueError(f"densities leaves out {', '.join(left)}")
    return [densities.get(name, densities.get(name.rpartition("/")[0])) for name in names]
