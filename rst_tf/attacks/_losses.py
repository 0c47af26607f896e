"""What an attack climbs: per-example losses of logits, in float32."""

import tensorflow as tf

_TINY = 1e-12  # no difference in float32 but where all top logits are equal


def cross_entropy(logits, labels, weights=None):
    """-log softmax(logits)[label], [n].

    Args:
        logits: [n, classes], or [networks, n, classes], of which the losses are averaged.
        labels: Integers [n].
        weights: Of the networks, [networks]; equal if not given.
    """
    logits = tf.cast(logits, tf.float32)
    labels = _for_each_network(labels, logits)
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


def difference_of_logits_ratio(logits, labels, weights=None):
    """DLR, -(z_y - max of the others) / (z_(1) - z_(3)), [n] (Croce & Hein 2020, eq. 6).

    Neither a shift nor a positive scale of the logits changes it. Where the label ranks third it
    is 1 without a gradient.

    Args:
        logits: [n, classes >= 3], or [networks, n, classes], of which the losses are averaged.
        labels: Integers [n].
        weights: Of the networks, [networks]; equal if not given.
    """
    logits = tf.cast(logits, tf.float32)
    top = tf.math.top_k(logits, 3)
    labels = _for_each_network(labels, logits)
    scale = top.values[..., 0] - top.values[..., 2] + _TINY
    return _averaged(-(_at(logits, labels) - _other(top, labels)) / scale, 1, weights)


def targeted_difference_of_logits_ratio(logits, labels, targets, weights=None):
    """Targeted DLR, -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), [n] (ibid., eq. 7).

    Args:
        logits: [n, classes >= 4], or [networks, n, classes], of which the losses are averaged.
        labels: Integers [n].
        targets: Integers [n], other than the labels.
        weights: Of the networks, [networks]; equal if not given.
    """
    logits = tf.cast(logits, tf.float32)
    top = tf.math.top_k(logits, 4).values
    scale = top[..., 0] - 0.5 * (top[..., 2] + top[..., 3]) + _TINY
    right, wrong = (_at(logits, _for_each_network(k, logits)) for k in (labels, targets))
    return _averaged(-(right - wrong) / scale, 1, weights)


def margin(logits, labels, weights=None):
    """Highest logit of another class minus the label's, [n]; above 0 where it is wrong.

    Args:
        logits: [n, classes >= 2], or [networks, n, classes], of which the losses are averaged.
        labels: Integers [n].
        weights: Of the networks, [networks]; equal if not given.
    """
    logits = tf.cast(logits, tf.float32)
    labels = _for_each_network(labels, logits)
    other = _other(tf.math.top_k(logits, 2), labels)
    return _averaged(other - _at(logits, labels), 1, weights)


def ranked(logits, rank, highest: int, weights=None):
    """The label of some rank, 0 for the likeliest, int32 [n]; as `answer` for several networks.

    Args:
        logits: [n, classes], or [networks, n, classes].
        rank: Integer or int32 scalar tensor, below `highest`.
        highest: Number of ranks to look at, at most the number of classes.
        weights: Of the networks, [networks]; equal if not given.
    """
    return tf.gather(tf.math.top_k(seen_as_one(logits, weights), highest).indices, rank, axis=1)


def answer(logits, weights=None):
    """The likeliest label, int32 [n]; of several networks, by their mean probability."""
    return tf.argmax(seen_as_one(logits, weights), axis=-1, output_type=tf.int32)


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
    gradient = tape.gradient(values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return values, gradient, z


def _averaged(values, rank, weights):
    """The mean over the first axis, if there is one more than `rank`."""
    if len(values.shape) == rank:
        return values
    if weights is None:
        return tf.reduce_mean(values, axis=0)
    return tf.tensordot(tf.cast(weights, values.dtype), values, axes=1)


def seen_as_one(logits, weights):
    """Logits [n, classes], or of several networks their mean probabilities."""
    if len(logits.shape) == 3:
        return _averaged(tf.nn.softmax(tf.cast(logits, tf.float32)), 2, weights)
    return logits


def _for_each_network(labels, logits):
    labels = tf.cast(labels, tf.int32)
    if len(logits.shape) == 3:
        return tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return labels


def _at(logits, labels):
    return tf.gather(logits, labels, batch_dims=len(labels.shape))


def _other(top, labels):
    """The highest logit of a class that is not the label, from the two highest or more."""
    first = top.indices[..., 0] == labels
    return tf.where(first, top.values[..., 1], top.values[..., 0])
