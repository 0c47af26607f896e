"""One perturbation for every training example, kept from epoch to epoch (Zheng et al. 2020)."""

import math

import keras
import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.objectives import Stored

_AT_ONCE = 256  # examples whose first perturbation is drawn together


class CarriedNoise:
    """Perturbations of padded images, read and written where a crop and a flip say.

    An example's perturbation covers its image and `pad` pixels around it, so whatever window a
    crop takes, each pixel meets the number that was last made for it. They begin uniform in
    (-epsilon, epsilon), a function of (seed, row).

    Args:
        rows: Number of training examples.
        shape: (H, W, C) of an image.
        epsilon: The largest number in a perturbation, in [0, 1] units.
        pad: Pixels around the image that a crop may reach, at least 0.
        seed: Of the first perturbations.
        stored: float32; float16 with half the memory, to a relative 5e-4; or int8 with a quarter,
            to epsilon / 254.
        block: Side of the squares of pixels that share one number, their mean.
        on_host: Keep them in the machine's memory, not the accelerator's.

    Attributes:
        variable: [rows, grid height, grid width, C], the state of a training.
    """

    def __init__(
        self,
        rows: int,
        shape: tuple[int, int, int],
        epsilon: float,
        *,
        pad: int = 0,
        seed: int = 0,
        stored: Stored = "float32",
        block: int = 1,
        on_host: bool = True,
    ):
        height, width, channels = shape
        self.shape, self.pad, self.block = shape, pad, block
        self.full = (height + 2 * pad, width + 2 * pad)
        self._unit = epsilon / 127 if stored == "int8" else 1.0
        grid = (*(-(-side // block) for side in self.full), channels)
        first = np.empty((rows, *grid), stored)
        for start in range(0, rows, _AT_ONCE):
            part = first[start : start + _AT_ONCE]
            draws = 2 * random.uniform(part.shape, seed, "carried_noise", start) - 1
            first[start : start + _AT_ONCE] = self._coded(epsilon * draws, np)
        with tf.device("CPU:0" if on_host else None):
            self.variable = keras.Variable(first, dtype=stored, trainable=False, name="noise")

    @staticmethod
    def bytes(rows: int, shape, *, pad: int, stored: Stored, block: int) -> int:
        """What the perturbations of so many examples take."""
        grid = (-(-(side + 2 * pad) // block) for side in shape[:2])
        return rows * math.prod(grid) * shape[2] * np.dtype(stored).itemsize

    def read(self, rows, windows):
        """The perturbations of a batch, float32 [n, H, W, C].

        Args:
            rows: Which examples, integers [n].
            windows: Where each image was cut: pixels down and right in the padded image, and
                whether it was flipped left to right, int32 [n, 3].
        """
        down, across, _, _ = self._places(windows)
        wide = tf.gather(self._padded(rows), across, axis=2, batch_dims=1)
        cut = tf.gather(wide, down, axis=1, batch_dims=1)
        return tf.ensure_shape(cut, (None, *self.shape))

    def write(self, rows, windows, noise) -> None:
        """Keeps new perturbations [n, H, W, C]; around the windows the old ones stay.

        Args:
            rows: Which examples, integers [n], each once.
            windows: As in `read`.
            noise: What `read` shall give from now on.
        """
        _, _, down, across = self._places(windows)
        there = (down >= 0) & (down < self.shape[0])
        there = there[:, :, None] & ((across >= 0) & (across < self.shape[1]))[:, None, :]
        wide = tf.gather(
            noise, tf.clip_by_value(across, 0, self.shape[1] - 1), axis=2, batch_dims=1
        )
        placed = tf.gather(wide, tf.clip_by_value(down, 0, self.shape[0] - 1), axis=1, batch_dims=1)
        merged = tf.where(there[..., None], placed, self._padded(rows))
        coded = self._coded(self._pooled(merged), tf)
        coded = tf.cast(coded, self.variable.dtype)
        self.variable.value.scatter_nd_update(rows[:, tf.newaxis], coded)

    def _places(self, windows):
        """Padded rows and columns of a window's pixels, and the window's of the padded ones."""
        height, width, _ = self.shape
        down, right, flipped = (part[:, tf.newaxis] for part in tf.unstack(windows, axis=1))
        flipped = flipped > 0

        def column(i):
            return tf.where(flipped, width - 1 - i, i)

        padded_rows = tf.range(self.full[0]) - down
        padded_columns = column(tf.range(self.full[1]) - right)
        return down + tf.range(height), right + column(tf.range(width)), padded_rows, padded_columns

    def _padded(self, rows):
        """What is kept for these examples, a number for every pixel."""
        grid = tf.gather(self.variable.value, rows)
        full = tf.cast(grid, tf.float32) * self._unit
        if self.block > 1:
            full = tf.repeat(tf.repeat(full, self.block, axis=1), self.block, axis=2)
        return full[:, : self.full[0], : self.full[1]]

    def _pooled(self, full):
        """Means of the blocks; those at the edge have fewer pixels."""
        if self.block == 1:
            return full
        block, (_, high, wide, channels) = self.block, self.variable.shape
        room = [(0, 0), (0, high * block - self.full[0]), (0, wide * block - self.full[1]), (0, 0)]
        blocks = tf.reshape(tf.pad(full, room), (-1, high, block, wide, block, channels))
        inside = np.pad(np.ones((1, *self.full, 1), np.float32), room)
        counts = inside.reshape(1, high, block, wide, block, 1).sum((2, 4))
        return tf.reduce_sum(blocks, (2, 4)) / counts

    def _coded(self, noise, library):
        return noise if self._unit == 1.0 else library.round(noise / self._unit)
