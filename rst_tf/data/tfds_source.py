"""Image classification data sets of TensorFlow Datasets, read into memory."""

import difflib
import logging
import math
import textwrap

import numpy as np

from rst_tf.data.images import fitted

_ROLES = {"train": "train", "validation": "valid", "test": "test"}


def prepared(name: str, image_size: int | None):
    """The builder of a set that is on this machine, downloaded if it was not.

    Raises:
        ValueError: There is no such set, it is of another kind, or it cannot be had.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name)
    features, supervised = builder.info.features, builder.info.supervised_keys
    if not (
        supervised
        and isinstance(features[supervised[0]], tfds.features.Image)
        and isinstance(features[supervised[1]], tfds.features.ClassLabel)
    ):
        raise ValueError(f"source {name!r} must map one image to one label; received {supervised}")
    shape = features[supervised[0]].shape
    if image_size is None and None in shape:
        raise ValueError(f"image_size is needed: images of {name!r} have several sizes {shape}")
    _prepare(builder, name)
    if "train" not in builder.info.splits:
        raise ValueError(
            f"source {name!r} must have a part named train; "
            f"received {', '.join(builder.info.splits)}"
        )
    return builder


def keys_of(builder) -> tuple[str, str]:
    """The names of the features that are image and label."""
    return builder.info.supervised_keys[:2]


def class_names(builder) -> tuple[str, ...]:
    """One name per class, in the order of the labels."""
    return tuple(builder.info.features[keys_of(builder)[1]].names)


def roles_of(builder) -> dict[str, str]:
    """What each labelled part of a prepared set is for: `{"train": "train", ...}`.

    Where there is no labelled part named test (that of ImageNet has the label -1 throughout), the
    validation part is the test part.
    """
    roles = {part: role for part, role in _ROLES.items() if part in builder.info.splits}
    if "test" in roles and not _has_labels(builder, "test"):
        del roles["test"]
    if "test" not in roles and "validation" in roles:
        roles["validation"] = "test"
    return roles


def encoded(builder, part: str):
    """The images of a part as bytes of a file, with labels, in a fixed order."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(
        split=part,
        as_supervised=True,
        shuffle_files=False,
        decoders={keys_of(builder)[0]: tfds.decode.SkipDecoding()},
    )


def _has_labels(builder, part: str) -> bool:
    return all(int(label) >= 0 for _, label in encoded(builder, part).take(1))


def bytes_of(builder, image_size: int | None) -> int:
    """What the pixels of all parts that are used would take in memory."""
    height, width, channels = builder.info.features[keys_of(builder)[0]].shape
    if image_size is not None:
        height = width = image_size
    number = sum(builder.info.splits[part].num_examples for part in roles_of(builder))
    return number * math.prod((height, width, channels))


def arrays_of(builder, image_size: int | None, center: float) -> dict:
    """`{"train": (x, y), "valid": ..., "test": ...}` as far as the set has them."""
    roles = roles_of(builder)
    return {role: _arrays(builder, part, image_size, center) for part, role in roles.items()}


def _builder(name: str):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name)
    except ValueError as error:  # their message is a page: every name they know
        known = ["sample", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"unknown source {name!r}{hint} (known: sample, npz:PATH, folder:PATH and the names "
            "of TensorFlow Datasets)"
        ) from error


def _prepare(builder, name: str) -> None:
    """Downloads the set unless it is there; says so first, for without a network that takes long.

    Raises:
        ValueError: It cannot be had; in one line, whatever TensorFlow Datasets raised.
    """
    if not builder.is_prepared():
        logging.getLogger(__name__).warning(
            "%s: downloading %s for %s; without a network this fails after some minutes",
            name,
            builder.info.download_size,
            builder.data_dir,
        )
    retries = logging.getLogger("urllib3.connectionpool")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        builder.download_and_prepare()
    except Exception as error:
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise ValueError(
            f"source {name!r} cannot be downloaded ({type(error).__name__}: {reason}); "
            "data.source can also be sample, npz:PATH or folder:PATH"
        ) from error
    finally:
        retries.setLevel(level)


def _arrays(builder, part: str, image_size: int | None, center: float):
    import tensorflow_datasets as tfds

    examples = builder.as_dataset(split=part, as_supervised=True, shuffle_files=False)
    if image_size is not None:
        examples = examples.map(lambda image, label: (fitted(image, image_size, center), label))
    pieces = list(tfds.as_numpy(examples.batch(1024)))
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
