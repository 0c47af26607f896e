"""The ticket's file: an npz archive with a JSON header, packed masks and a checksum.

The same ticket gives the same bytes. Format 1 had its checksum, of the arrays alone, in the
header; since format 2 it is an array of its own and covers the header too.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rst_tf.files import write_bytes

FORMAT = 2
_DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, NotImplementedError)


def save(ticket, path: str | Path) -> None:
    """Writes a ticket: packed masks, weights if held, a JSON header with a checksum."""
    arrays = {}
    for i, entry in enumerate(ticket.entries):
        arrays[f"mask_{i}"] = np.packbits(entry.mask)
        if entry.kernel is not None:
            arrays[f"kernel_{i}"] = entry.kernel
    arrays |= {f"leftover_{i}": value for i, value in enumerate(ticket.leftovers)}
    header = {
        "format": FORMAT,
        "entries": [
            {"name": e.name, "shape": e.shape, "mask_shape": e.mask.shape} for e in ticket.entries
        ],
        "leftovers": len(ticket.leftovers),
        "network": ticket.network,
        "seed": ticket.seed and dataclasses.asdict(ticket.seed),
    }
    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=_digest(arrays), **arrays)
    write_bytes(path, buffer.getvalue())


def load(path: str | Path):
    """Reads a ticket file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a ticket, is damaged, or is of a newer format.
    """
    from rst_tf.initializers import Seed
    from rst_tf.ticket import Ticket

    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] > FORMAT:
            raise ValueError(f"format {header['format']} is newer than this program's {FORMAT}")
        if header["format"] == 1:
            del arrays["header"]
            expected = bytes.fromhex(header["sha256"])
        else:
            expected = arrays.pop("sha256").tobytes()
        if expected != _digest(arrays).tobytes():
            raise ValueError("the checksum does not match")
        return Ticket(
            entries=tuple(_entry(i, e, arrays) for i, e in enumerate(header["entries"])),
            leftovers=tuple(arrays[f"leftover_{i}"] for i in range(header["leftovers"])),
            network=header["network"],
            seed=header["seed"] and Seed(**header["seed"]),
        )
    except FileNotFoundError:
        raise
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a ticket, or is damaged: {error}") from error


def _entry(i: int, header: Mapping, arrays: Mapping):
    from rst_tf.ticket import Entry

    shape, mask_shape = tuple(header["shape"]), tuple(header["mask_shape"])
    bits = np.unpackbits(arrays[f"mask_{i}"], count=int(np.prod(mask_shape)))
    mask = bits.astype(bool).reshape(mask_shape)
    return Entry(header["name"], shape, mask, arrays.get(f"kernel_{i}"))


def _digest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 over names, types, shapes and values, as 32 bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
