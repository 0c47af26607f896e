"""Where a network changes its mind, linearised: f(x') = value + normal.(x' - x) = 0."""

import tensorflow as tf

from rst_tf.attacks._geometry import chosen, flat
from rst_tf.attacks._losses import value_and_gradient
from rst_tf.attacks._projections import dual


def towards(logits, y, target):
    """The boundary between each example's label and one other class.

    Returns:
        A callable from images [n, ...] to z_target - z_y, [n], and its gradient, like the images.
    """
    pair = tf.stack([target, y], axis=1)

    def ahead(z):
        pair_of = tf.gather(tf.cast(z, tf.float32), pair, batch_dims=1)
        return pair_of[:, 0] - pair_of[:, 1]

    return lambda x: value_and_gradient(logits, ahead, x)[:2]


def nearest(logits, y, classes, norm):
    """As `towards`, the class of each example and image being that of the nearest boundary.

    One gradient per class, taken one after the other, so that memory does not grow with them.
    """

    def linearised(x):
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(x)
            z = tf.cast(logits(x), tf.float32)
            ahead = z - tf.gather(z, y[:, tf.newaxis], batch_dims=1)

        def look(k, value, normal, distance):
            only = tf.one_hot(tf.fill([tf.shape(x)[0]], k), classes)
            slope = tape.gradient(ahead, x, output_gradients=only)
            there = ahead[:, k]
            far = tf.abs(there) / (1e-12 + dual(flat(slope), norm))
            nearer = (far < distance) & (y != k)
            return (
                k + 1,
                tf.where(nearer, there, value),
                chosen(nearer, slope, normal),
                tf.where(nearer, far, distance),
            )

        nothing = tf.zeros_like(ahead[:, 0])
        start = (tf.constant(0), nothing, tf.zeros_like(x), nothing + float("inf"))
        return tf.while_loop(lambda k, *_: k < classes, look, start)[1:3]

    return linearised
