"""Image files and single images.

Headers are read once with Pillow; pixels are decoded by TensorFlow's operations. (Python inside
an input pipeline hangs the interpreter at its end if an iterator is still alive.)
"""

import re
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


def decoded(path, shape: tuple[int, int, int], fit: bool):
    """An image file (the first picture of a GIF) as uint8 of this shape, in a graph.

    A file that cannot be decoded ends the graph with an error that names it; see `in_words`.

    Args:
        path: Scalar string tensor.
        shape: (H, W, C) of the result; transparency is dropped, and grey repeated if C is 3.
        fit: Whether to scale to a square first; else the file must have this height and width.
    """
    import tensorflow as tf

    def decode(path):
        image = tf.io.decode_image(tf.io.read_file(path), channels=0, expand_animations=False)
        channels = tf.shape(image)[2]
        image = image[..., : channels - 1 + channels % 2]
        return True, tf.broadcast_to(fitted(image, shape[0]) if fit else image, shape)

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


def fitted(image, size: int):
    """A uint8 image [H, W, C] as [size, size, C]: its central square, scaled without aliasing."""
    import tensorflow as tf

    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    scaled = tf.image.resize(square, (size, size), antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(scaled, 0, 255)), tf.uint8)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read()
