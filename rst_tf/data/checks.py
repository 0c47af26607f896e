"""What arrays must look like; every message names the argument and what was received."""

import numpy as np


def checked_images(images, name: str) -> np.ndarray:
    """Images as uint8, or float32 in [0, 1], of shape [N, H, W, C]."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{name} must be [N, H, W] or [N, H, W, C] and not empty; received {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float; received dtype {images.dtype}")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # this way round a NaN is refused as well
        raise ValueError(f"{name} must lie in [0, 1] as float; received [{low:g}, {high:g}]")
    return images.astype(np.float32, copy=False)


def checked_labels(labels, name: str, count: int) -> tuple[np.ndarray, int | None]:
    """Labels as int32 [N]; of one-hot rows, which are accepted, also the number of classes."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(labels.shape) == 0 or len(labels) != count:
        raise ValueError(
            f"{name} must have one label for each of {count} images; received shape {labels.shape}"
        )
    if labels.ndim == 2:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise ValueError(f"{name} of shape {labels.shape} must be exactly one-hot; it is not")
        return labels.argmax(axis=1).astype(np.int32), labels.shape[1]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers [N] or one-hot [N, classes]; "
            f"received {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"{name} must not be negative; received {labels.min()}")
    if labels.max() >= 2**31:
        raise ValueError(f"{name} must be class numbers below 2**31; received {labels.max()}")
    return labels.astype(np.int32), None
