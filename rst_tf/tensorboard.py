"""What TensorBoard shows: scalars by split, density per layer, mask pictures, the settings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from rst_tf.traversal import masked_kernels, masked_layers

_WIDEST = 256


class Board:
    """Writers of event files below one folder, opened when first used.

    Args:
        folder: The folder for `tensorboard --logdir`.
    """

    def __init__(self, folder: str):
        self.folder = str(folder)
        self._writers: dict[str, Any] = {}

    def scalars(self, run: str, step: int, values: Mapping[str, float | None]) -> None:
        """Adds the values that are there, each under its name, to the run `run`."""
        with self._writer(run).as_default():
            for name, value in values.items():
                if value is not None:
                    tf.summary.scalar(name, float(value), step=step)

    def masks(self, network, step: int) -> None:
        """Adds the density of each layer and a picture of its mask."""
        if not masked_layers(network):
            return
        with self._writer("masks").as_default():
            kept = total = 0
            for masked in masked_kernels(network):
                mask = np.broadcast_to(masked.mask.numpy(), masked.shape)
                kept, total = kept + mask.sum(), total + mask.size
                tf.summary.scalar(f"density/{masked.name}", mask.mean(), step=step)
                tf.summary.image(f"mask/{masked.name}", _batched(mask_picture(mask)), step=step)
            tf.summary.scalar("density/network", kept / total, step=step)
            self._pixels(network, step)

    def _pixels(self, network, step: int) -> None:
        """For a first layer that reads pixels: how many weights each pixel keeps."""
        first, shape = masked_kernels(network)[0], network.input_shape[1:]
        if len(first.shape) == 2 and len(shape) == 3 and first.shape[0] == np.prod(shape):
            mask = np.broadcast_to(first.mask.numpy(), first.shape)
            picture = mask.sum(-1).reshape(shape).sum(-1)
            picture = picture / max(picture.max(), 1)
            tf.summary.image(f"kept_per_pixel/{first.name}", _batched(picture), step=step)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Adds the hyper-parameters, nested names joined by dots."""
        from tensorboard.plugins.hparams import api

        with self._writer("settings").as_default():
            api.hparams({name: value for name, value in _flat(settings)})

    def _writer(self, run: str):
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(f"{self.folder}/{run}")
        return self._writers[run]


def _batched(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32)[None, :, :, None]


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """A mask of any rank as an image [h, w] in [0, 1]: white is kept, grey is a mean of many.

    Kernels [in, out] are shown as they are; spatial kernels [h, w, in, out] as a grid of kernels,
    inputs along one side and outputs along the other. The longer side lies.
    """
    if mask.ndim > 2:
        spatial = mask.shape[:-2]
        height, width = (1, *spatial)[-2:]
        grid = mask.reshape(height, width, *mask.shape[-2:]).transpose(2, 0, 3, 1)
        mask = grid.reshape(height * mask.shape[-2], width * mask.shape[-1])
    mask = mask.reshape(-1, mask.shape[-1]).astype(np.float32)
    for axis in (0, 1):
        pieces = min(mask.shape[axis], _WIDEST)
        edges = np.linspace(0, mask.shape[axis], pieces, endpoint=False).astype(int)
        sizes = np.diff([*edges, mask.shape[axis]])
        sums = np.add.reduceat(mask, edges, axis=axis)
        mask = sums / (sizes[:, None] if axis == 0 else sizes[None, :])
    return mask if mask.shape[0] <= mask.shape[1] else mask.T


def _flat(settings: Mapping[str, Any], prefix: str = ""):
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            yield prefix + name, value if plain else str(value)
