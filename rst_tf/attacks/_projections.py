"""The nearest point of a plane inside the box [0, 1], as FAB steps (Croce & Hein 2020, section 3).

Moving every coordinate the helpful way, by at most its room, lowers w.t by
sum weight * min(level, capacity), where the level is common to all coordinates: in L-inf it is
the step itself, in L2 the step in units of |w|. The level is found by Newton's method. The sum is
concave and piecewise linear in the level, so from 0 the iterates rise to the solution, never past
it, and reach it exactly once the set of exhausted coordinates is right: about five passes over
the data instead of a sort.
"""

import tensorflow as tf

from rst_tf.attacks._geometry import NORMS

_STILL = 1e-8


def linf(t, w, b):
    """The shortest d in L-inf with w.(t + d) = b and t + d in the box.

    Args:
        t: Points in the box, float32 [n, d].
        w: Normals of the planes, [n, d].
        b: Offsets of the planes, [n].

    Returns:
        [n, d]. Where the plane misses the box every coordinate is at its helpful end of the box.
    """
    weight, way, room, needed = _one_sided(t, w, b)
    return -way * tf.minimum(_level(room, weight, needed), room)


def l2(t, w, b):
    """As `linf`, shortest in L2; coordinates with |w| <= 1e-8 stay where they are."""
    size, way, room, needed = _one_sided(t, w, b)
    size = tf.where(size > _STILL, size, 0.0)
    capacity = tf.math.divide_no_nan(room, size)
    level = _level(capacity, size * size, needed)
    return -way * tf.where(level < capacity, level * size, tf.where(size > 0, room, 0.0))


PROJECTIONS = {"linf": linf, "l2": l2}


def dual(w, norm):
    """Length of each normal in the norm dual to `norm`, [n]: w.d is at most this times |d|."""
    return tf.reduce_sum(tf.abs(w), 1) if norm == "linf" else NORMS["l2"].size(w)


def _one_sided(t, w, b):
    """|w|, the sign of w after which w.t must fall, each coordinate's room, and by how much."""
    excess = tf.reduce_sum(w * t, axis=1, keepdims=True) - b[:, tf.newaxis]
    way = tf.where(excess < 0, -1.0, 1.0) * tf.sign(w)
    room = tf.where(way > 0, t, tf.where(way < 0, 1 - t, 0.0))
    return tf.abs(w), way, room, tf.abs(excess)


def _level(capacity, weight, needed):
    """Solves sum weight * min(level, capacity) = needed; infinite where the sum never gets there.

    Args:
        capacity: At least 0, [n, d].
        weight: At least 0, [n, d].
        needed: At least 0, [n, 1].
    """
    full = weight * capacity

    def rise(level, _):
        free = capacity > level
        slope = tf.reduce_sum(tf.where(free, weight, 0.0), axis=1, keepdims=True)
        used = tf.reduce_sum(tf.where(free, 0.0, full), axis=1, keepdims=True)
        higher = tf.maximum(level, tf.math.divide_no_nan(needed - used, slope))
        return higher, tf.reduce_any(higher > level)

    enough = needed < tf.reduce_sum(full, axis=1, keepdims=True)
    start = tf.where(enough, 0.0, float("inf"))
    return tf.while_loop(lambda _, rising: rising, rise, (start, tf.constant(True)))[0]
