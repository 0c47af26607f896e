"""What an attack climbs: per-example losses of logits, in float32."""

import tensorflow as tf


def cross_entropy(logits, labels, weights=None):
    """-log softmax(logits)[label], [n].

    Args:
        logits: [n, classes], or [networks, n, classes], of which the losses are averaged.
        labels: Integers [n].
        weights: Of the networks, [networks]; equal if not given.
    """
    logits = tf.cast(logits, tf.float32)
    if len(logits.shape) == 3:
        labels = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return _averaged(losses, 1, weights)


def divergence(clean, logits, weights=None):
    """KL(softmax(clean) || softmax(logits)), [n] (Zhang et al. 2019, eq. 5).

    Args:
        clean: As `logits`.
        logits: [n, classes], or [networks, n, classes], of which the losses are averaged.
        weights: Of the networks, [networks]; equal if not given.
    """
    target = tf.nn.log_softmax(tf.cast(clean, tf.float32))
    found = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    losses = tf.reduce_sum(tf.exp(target) * (target - found), axis=-1)
    return _averaged(losses, 1, weights)


def answer(logits, weights=None):
    """The likeliest label, int32 [n]; of several networks, by their mean probability."""
    if len(logits.shape) == 3:
        logits = _averaged(tf.nn.softmax(tf.cast(logits, tf.float32)), 2, weights)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def defeated(logits, labels):
    """Whether every network is wrong, bool [n]."""
    wrong = tf.argmax(logits, axis=-1, output_type=tf.int32) != labels
    return tf.reduce_all(wrong, axis=0) if len(logits.shape) == 3 else wrong


def value_and_gradient(logits, loss, x):
    """Per-example loss at x, [n], its gradient with respect to x alone, and the logits."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        z = logits(x)
        values = loss(z)
    return values, tape.gradient(values, x), z


def _averaged(values, rank, weights):
    """The mean over the first axis, if there is one more than `rank`."""
    if len(values.shape) == rank:
        return values
    if weights is None:
        return tf.reduce_mean(values, axis=0)
    return tf.tensordot(tf.cast(weights, values.dtype), values, axes=1)
