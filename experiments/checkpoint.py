"""The state inside an unfinished round, so that a run can go on where it was stopped."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.experiment import RunError
from rst_tf.files import write_bytes

_DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, NotImplementedError)
_HEADER = "header"
_LONGEST_HEADER = 2**20


def save(path: Path, variables: Sequence, header: Mapping[str, Any]) -> None:
    """Writes the values of variables, in their order, under a checksum.

    Args:
        path: The file.
        variables: Keras variables.
        header: What belongs to them, as plain values: "run", whose checkpoint it is, "round", ...
    """
    arrays = {f"{i:05d}": variable.numpy() for i, variable in enumerate(variables)}
    text = json.dumps({**header, "sha256": _digest(arrays, header)})
    buffer = io.BytesIO()
    np.savez(buffer, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)
    write_bytes(path, buffer.getvalue())


def restore(path: Path, variables: Sequence, run: str, round_number: int) -> dict[str, Any] | None:
    """Gives variables the stored values; everything is checked before the first is set.

    Nothing is unpickled, and no array much larger than the variable it belongs to is read.

    Args:
        path: The file.
        variables: Those that `save` was given.
        run: `header["run"]` of the run that may use it.
        round_number: `header["round"]` of the round that goes on.

    Returns:
        The header; None if there is no such file, or it is another round's.

    Raises:
        RunError: The file is damaged, or was written by another run.
    """
    names = [f"{i:05d}" for i in range(len(variables))]
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        _check_size(sizes, _HEADER, _LONGEST_HEADER)
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(data[_HEADER].tobytes())
            expected = header.pop("sha256")
            if header["run"] != run:
                raise ValueError("it was written by a run of another configuration")
            if header["round"] != round_number:
                return None
            if len(sizes) != len(names) + 1:
                raise ValueError(f"it holds {len(sizes) - 1} arrays instead of {len(names)}")
            for name, variable in zip(names, variables, strict=True):
                _check_size(sizes, name, 1024 + 8 * int(np.prod(tuple(variable.shape))))
            arrays = {name: data[name] for name in names}
        if expected != _digest(arrays, header):
            raise ValueError("the checksum does not match")
        for name, variable in zip(names, variables, strict=True):
            if arrays[name].shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} is {variable.shape}, not {arrays[name].shape}")
    except FileNotFoundError:
        return None
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(
            f"{path} is not a checkpoint of this run, or is damaged ({error}); remove it to begin "
            "the round again"
        ) from error
    for name, variable in zip(names, variables, strict=True):
        variable.assign(arrays[name])
    return header


def _check_size(sizes: Mapping[str, int], name: str, most: int) -> None:
    if sizes[f"{name}.npy"] > most:
        raise ValueError(f"{name} would take {sizes[f'{name}.npy']:,} bytes instead of {most:,}")


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()
