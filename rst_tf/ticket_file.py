"""The ticket's file, format 3: header, entropy-coded masks and packed values under one checksum.

    format (1 byte) | SHA-256 of all else | length of header (4) | header | masks | values

The header is JSON, deflated; `entropy_coding` says what the masks are; values are the stored
kernels and then the leftovers. All of it is one array of bytes in an npz archive (`npz.py`). The
same ticket gives the same bytes. Formats 1 and 2 are still read (`older_tickets.py`).

A file cannot ask for more memory than a multiple of its own length: it has a byte for every
`ENTRIES_PER_BYTE` mask entries, if need be by zeros at the end of the masks.
"""

import dataclasses
import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf import npz, older_tickets
from rst_tf.entropy_coding import Code, decode, encode
from rst_tf.files import write_bytes

FORMAT = 3
ENTRIES_PER_BYTE = 1024
_LONGEST_HEADER = 2**25
_DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, NotImplementedError)
_DAMAGE += (ArithmeticError, MemoryError, RecursionError, zipfile.BadZipFile, zlib.error)


def save(ticket, path: str | Path) -> None:
    """Writes a ticket: entropy-coded masks, weights if held, a header, a checksum."""
    codes, masks = encode([entry.mask for entry in ticket.entries])
    stored = [e.kernel for e in ticket.entries if e.kernel is not None] + [*ticket.leftovers]
    stored = [np.asarray(value) for value in stored]
    values = _packed(stored)
    kinds = [[_little(value).str, value.shape] for value in stored]
    entries = [
        [e.name, e.shape, e.mask.shape, code, e.kernel is not None]
        for e, code in zip(ticket.entries, codes, strict=True)
    ]
    header = {"entries": entries, "values": kinds, "network": ticket.network}
    header |= {"seed": ticket.seed and dataclasses.asdict(ticket.seed)}
    size = sum(entry.mask.size for entry in ticket.entries)
    masks += bytes(max(0, -(-size // ENTRIES_PER_BYTE) - len(masks) - len(values)))
    header["masks"] = len(masks)
    text = zlib.compress(json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), 9)
    body = b"".join([len(text).to_bytes(4, "little"), text, masks, values])
    head = bytes([FORMAT])
    write_bytes(path, npz.archive(head + _digest(head, body) + body))


def load(path: str | Path):
    """Reads a ticket file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a ticket, is damaged, or is of a newer format.
    """
    from rst_tf.initializers import Seed
    from rst_tf.ticket import Entry, Ticket

    try:
        file = Path(path).read_bytes()
        content = npz.content_of(file)
        found = older_tickets.read(file) if content is None else _read(content)
        found["entries"] = tuple(Entry(**entry) for entry in found["entries"])
        found["seed"] = found["seed"] and Seed(**found["seed"])
        return Ticket(**found)
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path} is not a ticket, or is damaged: {error}") from error


def _read(content: bytes) -> dict[str, Any]:
    """What a file says, as the arguments of a `Ticket`, entries as arguments of an `Entry`."""
    head, digest, body = content[:1], content[1:33], content[33:]
    if head > bytes([FORMAT]):
        raise ValueError(f"format {head[0]} is newer than this program's {FORMAT}")
    if head != bytes([FORMAT]) or digest != _digest(head, body):
        raise ValueError("the checksum does not match")
    start = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(_inflated(body[4:start], _LONGEST_HEADER))
    end = start + _size([header["masks"]])
    if end > len(body):
        raise ValueError(f"{len(body)} bytes do not hold masks of {header['masks']}")
    entries, values = header["entries"], _unpacked(body[end:], header["values"])
    shapes = [tuple(entry[2]) for entry in entries]
    sizes = [_size(shape) for shape in shapes]
    if sum(sizes) > ENTRIES_PER_BYTE * len(body):
        raise ValueError(f"{len(body)} bytes cannot hold masks of {sum(sizes)} entries")
    codes = [Code(_size(entry[3][:1]), _size(entry[3][1:])) for entry in entries]
    masks = decode(body[start:end], sizes, codes)
    return {
        "entries": [
            {
                "name": name,
                "shape": tuple(shape),
                "mask": mask.reshape(mask_shape),
                "kernel": values.pop(0) if has_kernel else None,
            }
            for (name, shape, _, _, has_kernel), mask, mask_shape in zip(
                entries, masks, shapes, strict=True
            )
        ],
        "leftovers": tuple(values),
        "network": header["network"],
        "seed": header["seed"],
    }


def _packed(values: Sequence[np.ndarray]) -> bytes:
    """A byte that says how, then all values: as they are, or deflated where that is shorter.

    Before deflating, the bytes of an array are sorted by their place in a number, since the
    exponents of floats resemble each other.
    """
    plain = [value.astype(_little(value)).tobytes() for value in values]
    sorted_bytes = [
        np.frombuffer(each, np.uint8).reshape(value.size, -1).T.tobytes() if each else each
        for each, value in zip(plain, values, strict=True)
    ]
    ways = b"\0" + b"".join(plain), b"\1" + zlib.compress(b"".join(sorted_bytes))
    return min(ways, key=len)


def _unpacked(content: bytes, kinds: Sequence) -> list[np.ndarray]:
    kinds = [(np.dtype(kind), tuple(shape)) for kind, shape in kinds]
    total = sum(kind.itemsize * _size(shape) for kind, shape in kinds)
    deflated = content[:1] == b"\1"
    plain = np.frombuffer(_inflated(content[1:], total) if deflated else content[1:], np.uint8)
    if len(plain) != total:
        raise ValueError(f"it holds {len(plain)} bytes of values, and declares {total}")
    values = []
    for kind, shape in kinds:
        own, plain = np.split(plain, [kind.itemsize * math.prod(shape)])
        if deflated:
            own = own.reshape(kind.itemsize, -1).T
        values.append(np.frombuffer(bytearray(own.tobytes()), kind).reshape(shape))
    return values


def _inflated(content: bytes, longest: int) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(content, longest + 1)
    if len(plain) > longest or not stream.eof or stream.unused_data:
        raise ValueError(f"what is deflated is not of at most {longest} bytes")
    return plain


def _little(value: np.ndarray) -> np.dtype:
    return value.dtype.newbyteorder("<")


def _size(shape: Sequence[int]) -> int:
    """The product of sizes read from a file, once they are known to be sizes."""
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"a size must be a whole number; received {shape}")
    return math.prod(shape)


def _digest(head: bytes, body: bytes) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.digest()
