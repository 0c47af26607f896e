"""A split: images held in memory or read from files, with labels and identities."""

import abc
import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from rst_tf.data.images import decoded, fitted, in_words, resized_crop
from rst_tf.data.sampling import stratified

IN_MEMORY = 2 * 2**30
"""Bytes of pixels of one source that may be held in memory; larger ones are read in batches."""


@dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """Examples of one purpose: training, validation or test.

    Args:
        labels: int32 [N].
        index: int64 [N], the identity of each example, unique over the splits of one source. Noise
            and augmentation are keyed by it.
    """

    labels: np.ndarray
    index: np.ndarray

    parallel: ClassVar[bool] = False
    """Whether batches are worth making in parallel."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""

    @abc.abstractmethod
    def select(self, rows: np.ndarray) -> Self:
        """The split of these rows, in this order."""

    @abc.abstractmethod
    def pixels(self) -> np.ndarray:
        """All images as stored: uint8, or float32 in [0, 1], [N, H, W, C]."""

    @abc.abstractmethod
    def reader(self) -> Callable:
        """A graph function from row numbers [B] to images as stored, [B, H, W, C].

        With noise [B, TRIALS, DRAWS] as a second argument it gives a random window of each image,
        scaled to (H, W); see `images.random_window`.
        """

    @abc.abstractmethod
    def digest(self, sha) -> None:
        """Feeds what identifies the images to a hash."""

    def __len__(self) -> int:
        return len(self.labels)

    def limited(self, limit: int | None, seed: int = 0) -> Self:
        """A stratified draw of `limit` examples in their order; all of them for None."""
        if limit is None:
            return self
        if not 1 <= limit <= len(self):
            raise ValueError(f"limit must be in 1..{len(self)}; received limit={limit}")
        return self.select(stratified(self.labels, limit, seed, "data/limit"))

    def arrays(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Images, float32 [N, H, W, C] in [0, 1], and labels, int32 [N], in order.

        Args:
            limit: At most so many examples, a fixed stratified draw. Images of a folder are all
                read into memory: give a limit there.
        """
        part = self.limited(limit)
        return unit_range(part.pixels()), part.labels


@dataclass(frozen=True, eq=False)
class ArraySplit(Split):
    """A split in memory; `images` is uint8, or float32 in [0, 1], [N, H, W, C]."""

    images: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return self.images.shape[1:]

    def select(self, rows):
        """The split of these rows, in this order."""
        return ArraySplit(self.labels[rows], self.index[rows], self.images[rows])

    def pixels(self):
        """All images as stored."""
        return self.images

    @functools.cached_property
    def _tensor(self):
        import tensorflow as tf

        with tf.init_scope(), tf.device("CPU:0"):  # input pipelines run on the host
            return tf.constant(self.images)

    def reader(self):
        """Gathers from a tensor on the host."""
        import tensorflow as tf

        window = tf.TensorSpec(self.shape, self.images.dtype)

        def read(rows, noise=None):
            images = tf.gather(self._tensor, rows)
            if noise is None:
                return images
            return tf.map_fn(
                lambda pair: resized_crop(*pair, self.shape[:2]),
                (images, noise),
                fn_output_signature=window,
            )

        return read

    def digest(self, sha):
        """Shape and every byte."""
        sha.update(f"{self.images.dtype}{self.images.shape}".encode())
        sha.update(np.ascontiguousarray(self.images))


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """A split read from image files batch by batch.

    Args:
        root: Folder of the source.
        names: Paths of the images below `root`.
        size: (H, W, C) of one image.
        fit: Whether files are scaled to that size; else they have it.
        center: Where files are scaled: side of the central square that is taken, as a fraction of
            the shorter side.
    """

    root: Path
    names: tuple[str, ...]
    size: tuple[int, int, int]
    fit: bool
    center: float = 1.0

    parallel: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return self.size

    def select(self, rows):
        """The split of these rows, in this order."""
        names = tuple(self.names[row] for row in rows)
        return replace(self, labels=self.labels[rows], index=self.index[rows], names=names)

    def pixels(self):
        """All images, read into memory; ValueError if a file is damaged or they are too large."""
        import tensorflow as tf

        size = len(self) * math.prod(self.size)
        if size > IN_MEMORY:
            raise ValueError(
                f"{len(self):,} images of {self.root} would take {size / 2**30:.1f} GiB of memory, "
                f"above {IN_MEMORY / 2**30:.1f}: read them in batches, or give a limit"
            )
        rows = tf.data.Dataset.range(len(self)).batch(64)
        images = rows.map(self.reader(), tf.data.AUTOTUNE).as_numpy_iterator()
        try:
            return np.concatenate(list(images))
        except tf.errors.InvalidArgumentError as error:
            raise in_words(error) or error from error

    def reader(self):
        """Reads and decodes the files."""
        import tensorflow as tf

        with tf.device("CPU:0"):
            paths = tf.constant([str(self.root / name) for name in self.names])
        image = tf.TensorSpec(self.size, tf.uint8)

        def fit(file):
            return fitted(file, self.size[0], self.center) if self.fit else file

        def read(rows, noise=None):
            names = tf.gather(paths, rows)
            if noise is None:
                return tf.map_fn(
                    lambda path: decoded(path, self.size, fit), names, fn_output_signature=image
                )

            def window(pair):
                path, draws = pair
                crop = functools.partial(resized_crop, noise=draws, size=self.size[:2])
                return decoded(path, self.size, crop)

            return tf.map_fn(window, (names, noise), fn_output_signature=image)

        return read

    def digest(self, sha):
        """Names and file sizes: reading every file would take as long as an epoch."""
        sha.update(f"{self.size}".encode())
        if self.center != 1:
            sha.update(f"{self.center}".encode())
        for name in self.names:
            sha.update(f"{name}/{(self.root / name).stat().st_size}/".encode())


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a source.

    Args:
        train: What is trained on.
        valid: What choices are made by.
        test: What is reported.
        class_names: One name per class, in the order of the labels.
        notes: What was done that the user did not ask for, a sentence each.
    """

    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        return self.train.shape

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of images (names and sizes of files), labels, identities and class names."""
        sha = hashlib.sha256(repr(self.class_names).encode())
        for split in (self.train, self.valid, self.test):
            split.digest(sha)
            sha.update(split.labels.tobytes())
            sha.update(split.index.tobytes())
        return sha.hexdigest()


def unit_range(pixels: np.ndarray) -> np.ndarray:
    """Stored images as float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
