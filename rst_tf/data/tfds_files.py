"""A set of TensorFlow Datasets as image files in class folders, so that it is read in batches."""

import logging
import os
from pathlib import Path

from rst_tf.data.tfds_source import ROLES, keys_of

_FOLDERS = {"train": "train", "valid": "val", "test": "test"}
_SUFFIXES = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp"}


def files_of(builder, name: str) -> Path:
    """The folder with the images of a prepared set, written beside it if it is not there yet.

    The images are written as they are encoded, none is decoded. A folder that a stopped program
    left is continued.

    Args:
        builder: A prepared TensorFlow Datasets builder.
        name: What messages call the set.

    Raises:
        ValueError: An image has no label, or the files cannot be written.
    """
    prepared = Path(builder.data_dir)
    folder = prepared.with_name(f"{prepared.name}_files")
    finished = folder / "finished"
    if not finished.is_file():
        parts = [part for part in ROLES if part in builder.info.splits]
        number = sum(builder.info.splits[part].num_examples for part in parts)
        logging.getLogger(__name__).warning(
            "%s: writing %s images (%s) as files to %s, once",
            name,
            f"{number:,}",
            builder.info.dataset_size,
            folder,
        )
        try:
            for part in parts:
                _write_part(builder, part, folder / _FOLDERS[ROLES[part]], name)
            finished.write_text(f"{number}\n")
        except OSError as error:
            raise ValueError(
                f"source {name!r} cannot be written to {folder}: {error.strerror}; make room, and "
                "the same command continues"
            ) from error
    return folder


def _write_part(builder, part: str, folder: Path, name: str) -> None:
    import tensorflow_datasets as tfds

    image, label = keys_of(builder)
    for number in range(builder.info.features[label].num_classes):
        (folder / _class_folder(number)).mkdir(parents=True, exist_ok=True)
    examples = builder.as_dataset(
        split=part,
        as_supervised=True,
        shuffle_files=False,
        decoders={image: tfds.decode.SkipDecoding()},
    )
    for number, (content, value) in enumerate(tfds.as_numpy(examples)):
        if value < 0:
            raise ValueError(f"part {part!r} of source {name!r} has images without a label")
        suffix = _SUFFIXES.get(content[:2], "png")
        _write_new(folder / _class_folder(value) / f"{number:08d}.{suffix}", content)


def _class_folder(label: int) -> str:
    return f"{label:05d}"  # sorted by name they are in the order of the labels


def _write_new(path: Path, content: bytes) -> None:
    """Without a flush to the disk, which would take longer than everything else."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
