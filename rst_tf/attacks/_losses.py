"""What an attack climbs: per-example losses of logits, in float32."""

import tensorflow as tf


def cross_entropy(logits, labels):
    """-log softmax(logits)[label], [n]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))


def divergence(clean, logits):
    """KL(softmax(clean) || softmax(logits)), [n] (Zhang et al. 2019, eq. 5)."""
    target = tf.nn.log_softmax(tf.cast(clean, tf.float32))
    found = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return tf.reduce_sum(tf.exp(target) * (target - found), axis=-1)


def value_and_gradient(logits, loss, x):
    """Per-example loss at x, [n], its gradient with respect to x alone, and the logits."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        z = logits(x)
        values = loss(z)
    return values, tape.gradient(values, x), z
