"""Image files and single images, by Pillow."""

from pathlib import Path

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def image_shape(path: Path) -> tuple[int, int, int]:
    """(H, W, C) of an image file, from its header; C is 1 for grey and 3 for colour."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            (width, height), mode = image.size, image.mode
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read image file {path}: {error}") from error
    if mode not in _GREY + _COLOUR:
        raise ValueError(f"image file {path} must have 8 bits a channel; received mode {mode!r}")
    return height, width, 1 if mode in _GREY else 3


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file (the first picture of a GIF) as uint8 of this shape."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _fitted(image.convert("L" if shape[2] == 1 else "RGB"), shape)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read image file {path}: {error}") from error


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """A uint8 image [H, W, C] with C of 1 or 3, fitted to [size, size, C]."""
    from PIL import Image

    channels = image.shape[2]
    return _fitted(
        Image.fromarray(image[..., 0] if channels == 1 else image), (size, size, channels)
    )


def _fitted(image, shape: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width, _ = shape
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)
