"""Image files and single images.

Headers are read once with Pillow; pixels are decoded by TensorFlow's operations. (Python inside
an input pipeline hangs the interpreter at its end if an iterator is still alive.)
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_UNREADABLE = "cannot read image file"
_END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "GIF": b";"}


def image_shape(path: Path) -> tuple[int, int, int]:
    """(H, W, C) of an image file, from its header; C is 1 for grey and 3 for colour.

    Raises:
        ValueError: It is no image, ends too early, or is of a kind that cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            (width, height), mode, kind = image.size, image.mode, image.format
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{_UNREADABLE} {path}: {error}") from error
    if kind in _END_MARKS and _END_MARKS[kind] not in _tail(path):
        raise ValueError(f"{_UNREADABLE} {path}: it ends too early")
    if mode not in _GREY + _COLOUR or (kind == "BMP" and mode in ("1", "P")):
        raise ValueError(
            f"image file {path} must have 8 bits a channel, and no palette if it is BMP; "
            f"received {kind} of mode {mode!r}"
        )
    return height, width, 1 if mode in _GREY and kind != "GIF" else 3


def decoded(path, shape: tuple[int, int, int], change: Callable = lambda image: image):
    """An image file (the first picture of a GIF) as uint8 of this shape, in a graph.

    A file that cannot be decoded ends the graph with an error that names it; see `in_words`.

    Args:
        path: Scalar string tensor.
        shape: (H, W, C) of the result; transparency is dropped, and grey repeated if C is 3.
        change: Brings an image of any size to this height and width, if the file has another.
    """
    import tensorflow as tf

    def decode(path):
        image = tf.io.decode_image(tf.io.read_file(path), channels=0, expand_animations=False)
        channels = tf.shape(image)[2]
        image = image[..., : channels - 1 + channels % 2]
        return True, tf.broadcast_to(change(image), shape)

    # The decoder's own error does not say of which file: a data set of one element can lose it.
    found = tf.data.Dataset.from_tensors(path).map(decode).ignore_errors()
    nothing = tf.data.Dataset.from_tensors((False, tf.zeros(shape, tf.uint8)))
    whole, image = found.concatenate(nothing).take(1).get_single_element()
    with tf.control_dependencies([tf.debugging.Assert(whole, [_UNREADABLE, path])]):
        return tf.identity(image)


def in_words(error: Exception) -> ValueError | None:
    """What TensorFlow's error says of an image file in one line; None if it is about no file."""
    found = re.search(rf"\[{_UNREADABLE}\] \[(.*?)\]", str(error))
    return found and ValueError(f"{_UNREADABLE} {found[1]}: it is damaged, or has changed")


def fitted(image, size: int, center: float = 1.0):
    """A uint8 image [H, W, C] as [size, size, C]: its central square, scaled without aliasing.

    Args:
        image: The image.
        size: Height and width of the result.
        center: Side of the square as a fraction of the image's shorter side, in (0, 1].
    """
    import tensorflow as tf

    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    if center != 1:
        side = tf.maximum(1, tf.cast(tf.round(center * tf.cast(side, tf.float32)), tf.int32))
    top, left = (height - side) // 2, (width - side) // 2
    return _scaled(image[top : top + side, left : left + side], (size, size))


TRIALS, DRAWS = 10, 4
"""Windows that are tried, and random numbers for each: area, aspect, place down, place right."""


def resized_crop(image, noise, size: tuple[int, int]):
    """A random window of an image [H, W, C], scaled to (height, width) without aliasing.

    Args:
        image: uint8, or float in [0, 1].
        noise: Uniform in (0, 1), float32 [TRIALS, DRAWS].
        size: Height and width of the result.
    """
    import tensorflow as tf

    top, left, height, width = random_window(tf.shape(image)[0], tf.shape(image)[1], noise)
    return _scaled(image[top : top + height, left : left + width], size)


def random_window(height, width, noise):
    """A window of 8 to 100 % of an image's area and of an aspect from 3/4 to 4/3.

    Ten windows are tried and the first that fits is taken, as PyTorch's RandomResizedCrop does. If
    none fits, it is the largest central one of an allowed aspect.

    Args:
        height: Of the image, an int32 scalar.
        width: Likewise.
        noise: Uniform in (0, 1), float32 [TRIALS, DRAWS].

    Returns:
        Top, left, height, width of the window, int32 scalars.
    """
    import tensorflow as tf

    tall, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = tall * wide * (0.08 + 0.92 * noise[:, 0])
    aspect = tf.exp(math.log(4 / 3) * (2 * noise[:, 1] - 1))
    heights, widths = tf.round(tf.sqrt(area / aspect)), tf.round(tf.sqrt(area * aspect))
    fits = (heights >= 1) & (widths >= 1) & (heights <= tall) & (widths <= wide)
    first = tf.argmax(fits)
    central = (tf.minimum(tall, tf.round(wide * 4 / 3)), tf.minimum(wide, tf.round(tall * 4 / 3)))
    found = tf.reduce_any(fits)
    height = tf.where(found, heights[first], tf.maximum(central[0], 1))
    width = tf.where(found, widths[first], tf.maximum(central[1], 1))
    top = tf.where(found, noise[first, 2] * (tall - height + 1), (tall - height) / 2)
    left = tf.where(found, noise[first, 3] * (wide - width + 1), (wide - width) / 2)
    top, left = (
        tf.minimum(top, tall - height),
        tf.minimum(left, wide - width),
    )  # a product rounds up
    return tuple(tf.cast(number, tf.int32) for number in (top, left, height, width))


def _scaled(image, size: tuple[int, int]):
    import tensorflow as tf

    scaled = tf.image.resize(image, size, antialias=True)
    if image.dtype != tf.uint8:
        return tf.clip_by_value(scaled, 0, 1)
    return tf.cast(tf.round(tf.clip_by_value(scaled, 0, 255)), tf.uint8)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read()
