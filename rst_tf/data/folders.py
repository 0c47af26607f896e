"""Folders of images, one sub-folder per class."""

from pathlib import Path

import numpy as np

from rst_tf.data.class_lists import chosen
from rst_tf.data.dividing import Parts
from rst_tf.data.images import SUFFIXES, image_shape
from rst_tf.data.splits import FileSplit

_VALIDATION = ("val", "validation")
_ANNOTATIONS = "val_annotations.txt"


def read_folder(
    root: Path, image_size: int | None, center: float = 1.0, classes: str | None = None
) -> Parts:
    """The parts under `root`; see `Data.source` for the layout.

    With both `test` and `val` (or `validation`), the latter is the validation part. Tiny-ImageNet
    is read as it is unpacked: its labelled `val` is the test part, its `test` has no labels.

    Args:
        root: The folder.
        image_size: As in `Data`.
        center: `Data.center_fraction`.
        classes: As in `Data`.
    """
    folders = _folders(root)
    known = names = tuple(_subfolders(folders["train"]))
    notes: tuple[str, ...] = ()
    if classes is not None:
        names, note = chosen(classes, known, folders["train"])
        notes = (f"read without the other classes: {note}",)
    files = {part: _files(root, folder, names, known) for part, folder in folders.items()}
    size = _common_shape(root, [path for part in files.values() for path, _ in part], image_size)
    splits, start = {}, 0
    for part, found in files.items():
        paths, labels = zip(*found, strict=True)
        index = np.arange(start, start + len(paths))
        splits[part] = FileSplit(
            np.array(labels, np.int32), index, root, paths, size, image_size is not None, center
        )
        start += len(paths)
    return Parts(splits["train"], splits.get("valid"), splits.get("test"), names, notes)


def _folders(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise ValueError(f"source folder {root} does not exist")
    if not (root / "train").is_dir():
        return {"train": root}
    found = {"train": root / "train"}
    validation = [name for name in _VALIDATION if (root / name).is_dir()]
    if validation:
        found["valid"] = root / validation[0]
    if "valid" in found and (found["valid"] / _ANNOTATIONS).is_file():
        found["test"] = found.pop("valid")
    elif (root / "test").is_dir():
        found["test"] = root / "test"
    elif validation:
        found["test"] = found.pop("valid")
    return found


def _subfolders(folder: Path) -> list[str]:
    """Names in sorted order, without hidden ones."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise ValueError(
            f"{folder} must hold a folder for each of two classes or more; received {names}"
        )
    return names


def _files(
    root: Path, folder: Path, classes: tuple[str, ...], known: tuple[str, ...]
) -> list[tuple[str, int]]:
    """(path relative to `root`, label) of a part's images of these classes, in sorted order.

    Args:
        root: The folder of the source.
        folder: That of the part.
        classes: Those that are read, a part of
        known: all that the training part has.
    """
    if (folder / _ANNOTATIONS).is_file():
        return _annotated(root, folder, classes, known)
    if (found := _subfolders(folder)) != list(known):
        differ = sorted(set(found) ^ set(known))
        raise ValueError(
            f"{folder} must have the class folders of the training part; "
            f"they differ in {', '.join(differ)}"
        )
    files = []
    for label, name in enumerate(classes):
        paths = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"class folder {folder / name} holds no image ({', '.join(SUFFIXES)})")
        files += [(path.relative_to(root).as_posix(), label) for path in paths]
    return files


def _annotated(
    root: Path, folder: Path, classes: tuple[str, ...], known: tuple[str, ...]
) -> list[tuple[str, int]]:
    """The images of Tiny-ImageNet's `val`: a table gives file name and class, one a line."""
    labels = {name: label for label, name in enumerate(classes)}
    files = []
    for line in (folder / _ANNOTATIONS).read_text().splitlines():
        name, _, rest = line.partition("\t")
        path, owner = folder / "images" / name, rest.partition("\t")[0]
        if owner not in known or not path.is_file():
            raise ValueError(
                f"{folder / _ANNOTATIONS} must name files of images/ and classes of the training "
                f"part; received {line!r}"
            )
        if owner in labels:
            files.append((path.relative_to(root).as_posix(), labels[owner]))
    if not files:
        raise ValueError(f"{folder / _ANNOTATIONS} names no image")
    return sorted(files)


def _common_shape(root: Path, names: list[str], image_size: int | None) -> tuple[int, int, int]:
    """Reads every header, so that a broken file is found before the training."""
    first = image_shape(root / names[0])
    channels = 1
    for name in names:
        *size, depth = image_shape(root / name)
        channels = max(channels, depth)
        if image_size is None and tuple(size) != first[:2]:
            raise ValueError(
                f"image_size is needed where images differ in size (height, width): "
                f"{root / names[0]} has {first[:2]}, {root / name} has {tuple(size)}"
            )
    height, width = first[:2] if image_size is None else (image_size, image_size)
    return height, width, channels
