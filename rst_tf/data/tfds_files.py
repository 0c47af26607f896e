"""A set of TensorFlow Datasets as image files in class folders, so that it is read in batches."""

import logging
import os
from pathlib import Path

from rst_tf.data.tfds_source import encoded, keys_of, roles_of

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
        ValueError: The files cannot be written.
    """
    prepared = Path(builder.data_dir)
    folder = prepared.with_name(f"{prepared.name}_files")
    finished = folder / "finished"
    if not finished.is_file():
        roles = roles_of(builder)
        number = sum(builder.info.splits[part].num_examples for part in roles)
        logging.getLogger(__name__).warning(
            "%s: writing %s images (%s) as files to %s, once",
            name,
            f"{number:,}",
            builder.info.dataset_size,
            folder,
        )
        try:
            for part, role in roles.items():
                _write_part(builder, part, folder / _FOLDERS[role])
            finished.write_text(f"{number}\n")
        except OSError as error:
            raise ValueError(
                f"source {name!r} cannot be written to {folder}: {error.strerror}; make room, and "
                "the same command continues"
            ) from error
    return folder


def _write_part(builder, part: str, folder: Path) -> None:
    for label in range(builder.info.features[keys_of(builder)[1]].num_classes):
        (folder / _class_folder(label)).mkdir(parents=True, exist_ok=True)
    for number, (content, label) in enumerate(encoded(builder, part).as_numpy_iterator()):
        suffix = _SUFFIXES.get(content[:2], "png")
        _write_new(folder / _class_folder(label) / f"{number:08d}.{suffix}", content)


def _class_folder(label: int) -> str:
    return f"{label:05d}"  # sorted by name they are in the order of the labels


def _write_new(path: Path, content: bytes) -> None:
    """Without a flush to the disk, which would take longer than everything else."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
