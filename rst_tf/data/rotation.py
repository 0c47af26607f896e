"""Rotating images by small angles: the nearest pixel, zeros from outside, the size kept."""

import numpy as np

DEGREES = 15.0
"""Angles are uniform in (-DEGREES, DEGREES)."""

_ANGLES = 2**14
_ONE = 2**16  # fixed point: whole numbers give the same bits in a batch of any size


def rotated(images, draw):
    """Images turned about their centres, as `PIL.Image.rotate` does it.

    Args:
        images: [B, H, W, C], of any type.
        draw: uint32 [B], uniform: its high bits choose one of 16,384 angles, evenly spaced.

    Returns:
        Images of the same shape and type.
    """
    import tensorflow as tf

    _, height, width, channels = images.shape
    angles = np.radians(DEGREES * (2 * (np.arange(_ANGLES) + 0.5) / _ANGLES - 1))
    number = tf.cast(tf.bitwise.right_shift(draw, tf.constant(18, tf.uint32)), tf.int32)
    cosine, sine = (
        tf.gather(tf.constant(np.rint(_ONE * f(angles)).astype(np.int32)), number)[:, None, None]
        for f in (np.cos, np.sin)
    )
    # Twice the distance from the centre is a whole number, for odd sizes and for even ones.
    right, down = 2 * tf.range(width) + 1 - width, (2 * tf.range(height) + 1 - height)[:, None]
    column = (cosine * right - sine * down + _ONE * width) // (2 * _ONE)
    row = (sine * right + cosine * down + _ONE * height) // (2 * _ONE)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = tf.reshape(tf.where(inside, row * width + column, 0), (-1, height * width))
    pixels = tf.reshape(images, (-1, height * width, channels))
    found = tf.gather(pixels, place, axis=1, batch_dims=1)
    found = tf.reshape(found, (-1, height, width, channels))
    return tf.where(inside[..., None], found, tf.zeros([], images.dtype))
