"""Parts of a batch that an attack climbs side by side.

On a CPU two products of half the rows, neither waiting for the other, are faster than two cores
sharing one product: an attack on a dense network takes three quarters of the time.
"""

WHOLE = slice(None)


def lanes(logits, x) -> list[slice]:
    """Slices of the batch to climb independently: two, or the whole batch.

    Args:
        logits: What the attack differentiates.
        x: Images [n, ...].
    """
    import tensorflow as tf

    from rst_tf.attacks.attack import Inference

    if not isinstance(logits, Inference) or tf.executing_eagerly():
        return [WHOLE]
    if logits.has_convolutions or tf.config.list_logical_devices("GPU"):
        return [WHOLE]
    middle = (x.shape[0] or tf.shape(x)[0]) // 2
    return [slice(None, middle), slice(middle, None)]
