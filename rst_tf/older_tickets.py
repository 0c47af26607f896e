"""Reads ticket files of the formats 1 and 2: an array per mask, kernel and leftover variable.

Format 1 had its checksum, of the arrays alone, in the header; in format 2 it is an array of its own
and covers the header too.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

_DEFLATE = 1032  # deflate makes nothing shorter than by this factor


def read(file: bytes) -> dict[str, Any]:
    """What a file says, as the arguments of a `Ticket`, entries as arguments of an `Entry`.

    Raises:
        ValueError: The checksum does not match, or the file cannot hold what it declares.
        LookupError, TypeError, zipfile.BadZipFile, zlib.error: It is no such file.
    """
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        if sum(member.file_size for member in archive.infolist()) > _DEFLATE * len(file):
            raise ValueError("it declares more than it can hold")
    with np.load(io.BytesIO(file), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    header = json.loads(arrays["header"].tobytes())
    if header["format"] == 1:
        del arrays["header"]
        expected = bytes.fromhex(header["sha256"])
    else:
        expected = arrays.pop("sha256").tobytes()
    if expected != _digest(arrays):
        raise ValueError("the checksum does not match")
    return {
        "entries": [_entry(i, entry, arrays) for i, entry in enumerate(header["entries"])],
        "leftovers": tuple(arrays[f"leftover_{i}"] for i in range(header["leftovers"])),
        "network": header["network"],
        "seed": header["seed"],
    }


def _entry(i: int, header: Mapping, arrays: Mapping) -> dict[str, Any]:
    shape, size = tuple(header["mask_shape"]), math.prod(header["mask_shape"])
    packed = arrays[f"mask_{i}"]
    if len(packed) != -(-size // 8):
        raise ValueError(f"{len(packed)} bytes do not hold a mask of {size} entries")
    mask = np.unpackbits(packed, count=size).astype(bool).reshape(shape)
    kernel = arrays.get(f"kernel_{i}")
    return {"name": header["name"], "shape": tuple(header["shape"]), "mask": mask, "kernel": kernel}


def _digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return digest.digest()
