"""Accuracy over epsilon, the distances at which points fall, and the loss around a point."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rst_tf.attacks.pgd import PGD
from rst_tf.robustness.case import Case

KEPT = 4
"""Points whose whole grid of losses is kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class LossSurface:
    """The cross-entropy on a grid spanned by the gradient's direction and a random one.

    In an L-inf ball the directions are signs, so that |a| + |b| <= epsilon is in the ball; in an
    L2 ball they are orthogonal unit vectors, and a circle is.

    Attributes:
        offsets: Of the grid's rows and columns, in [0, 1] units, ascending, [grid].
        losses: Of the first points, [points, grid, grid]; rows go along the gradient.
        highest: In the ball, on the grid, of every point looked at, [n].
        reached: By APGD in the same ball, [n].
        linearity: |L(x + d) - L(x) - d . gradient| at the d of a PGD of 10 steps, [n].
    """

    offsets: np.ndarray
    losses: np.ndarray
    highest: np.ndarray
    reached: np.ndarray
    linearity: np.ndarray


def minimum_norms(case: Case) -> np.ndarray:
    """The norm at which FAB broke each point, whatever epsilon.

    Returns:
        Float [n]: 0 where the clean image is wrong, infinite where nothing was found.

    Source: Croce and Hein 2020, Minimally distorted adversarial examples with a fast adaptive
    boundary attack.
    """
    from rst_tf.attacks.fab import FAB

    norms = np.zeros(len(case))
    attack = FAB(case.epsilon, case.norm, targets=9).fitted(case.classes)

    def distance(x, y, index, seed, trial):
        del trial
        return attack.closest(case.logits, x, y, seed=seed, index=index)[1]

    nearest = case.traced(distance)
    for rows in case.batches(case.correct):
        norms[rows] = nearest(rows, case.seed)
    return norms


def epsilon_curve(case: Case, factors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Radii, from 0, and the accuracy under APGD on cross-entropy in a ball of each.

    Args:
        case: Network and points.
        factors: Radii in units of epsilon; beyond the one that holds every image there is none.
    """
    radii = sorted({min(factor * case.epsilon, case.whole) for factor in factors})
    held = [case.withstands(case.apgd(epsilon=radius)) for radius in radii]
    return [0.0, *radii], [case.share(flags) for flags in (case.correct, *held)]


def loss_surface(case: Case, points: int, grid: int) -> LossSurface:
    """The loss around the first points that are right without an attack.

    Args:
        case: Network and points.
        points: How many to look at.
        grid: Images along a side.
    """
    import tensorflow as tf

    from rst_tf.attacks._losses import cross_entropy

    rows = np.flatnonzero(case.correct)[:points]
    offsets = np.linspace(-case.epsilon, case.epsilon, grid)
    x, y = tf.constant(case.x[rows]), tf.constant(case.y[rows])
    index = tf.constant(case.index[rows])
    first, second, gradient, clean = _directions(case, x, y, index)

    @tf.function(input_signature=[tf.TensorSpec(x.shape)])
    def loss(image):
        return cross_entropy(case.logits(image), y)

    losses = np.empty((len(rows), grid, grid))
    for i, a in enumerate(offsets):
        for j, b in enumerate(offsets):
            moved = tf.clip_by_value(x + float(a) * first + float(b) * second, 0.0, 1.0)
            losses[:, i, j] = loss(moved).numpy()
    best = case.apgd(returns="best")(case.logits, x, y, seed=case.seed, index=index)
    near = PGD(case.epsilon, case.norm, steps=10)(case.logits, x, y, seed=case.seed, index=index)
    axes = list(range(1, case.x.ndim))
    plane = clean + tf.reduce_sum((near - x) * gradient, axes)
    return LossSurface(
        offsets,
        losses[:KEPT],
        np.where(_in_ball(case, offsets), losses, -np.inf).max((1, 2)),
        loss(best).numpy(),
        np.abs((loss(near) - plane).numpy()),
    )


def _in_ball(case: Case, offsets: np.ndarray) -> np.ndarray:
    """Which grid points are in the ball, bool [grid, grid]."""
    a, b = np.meshgrid(offsets, offsets, indexing="ij")
    size = np.abs(a) + np.abs(b) if case.norm == "linf" else np.hypot(a, b)
    return size <= case.epsilon * (1 + 1e-6)


def _directions(case: Case, x, y, index):
    """The gradient's direction, a random one, the gradient, and the loss."""
    import tensorflow as tf

    from rst_tf import random
    from rst_tf.attacks._geometry import NORMS
    from rst_tf.attacks._losses import cross_entropy, value_and_gradient

    value, gradient, _ = value_and_gradient(case.logits, lambda z: cross_entropy(z, y), x)
    gradient = tf.zeros_like(x) if gradient is None else gradient
    ball = NORMS[case.norm]
    first = ball.direction(gradient)
    noise = random.example_normal(random.fold(case.seed, 11), index, case.x.shape[1:])
    if case.norm == "l2":
        axes = list(range(1, case.x.ndim))
        noise -= first * tf.reduce_sum(noise * first, axes, keepdims=True)
    return first, ball.direction(noise), gradient, value
