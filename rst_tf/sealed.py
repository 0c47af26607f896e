"""What files of ours are put together from: a header, arrays as bytes, and a checksum.

Whatever is read is checked before memory is asked for, so a damaged file costs no more than a
multiple of its own length.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

ENTRIES_PER_BYTE = 1024
"""How many mask entries a file may declare for each of its bytes."""
DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, NotImplementedError)
DAMAGE += (ArithmeticError, MemoryError, RecursionError, zlib.error)
"""What a damaged file can make a reader raise."""
_LONGEST_HEADER = 2**25


def header_bytes(header: dict[str, Any]) -> bytes:
    """A header as deflated JSON, after its length in four bytes."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    deflated = zlib.compress(text, 9)
    return len(deflated).to_bytes(4, "little") + deflated


def split_header(body: bytes) -> tuple[dict[str, Any], int]:
    """The header at the start of some bytes, and where it ends."""
    end = 4 + int.from_bytes(body[:4], "little")
    return json.loads(inflated(body[4:end], _LONGEST_HEADER)), end


def kinds_of(values: Sequence[np.ndarray]) -> list:
    """Type and shape of each array, as a header holds them."""
    return [[_little(value).str, value.shape] for value in values]


def packed(values: Sequence[np.ndarray]) -> bytes:
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


def unpacked(content: bytes, kinds: Sequence) -> list[np.ndarray]:
    """The arrays that `packed` was given.

    Args:
        content: What it gave.
        kinds: What `kinds_of` gave.
    """
    kinds = [(np.dtype(kind), tuple(shape)) for kind, shape in kinds]
    total = sum(kind.itemsize * size_of(shape) for kind, shape in kinds)
    deflated = content[:1] == b"\1"
    plain = np.frombuffer(inflated(content[1:], total) if deflated else content[1:], np.uint8)
    if len(plain) != total:
        raise ValueError(f"it holds {len(plain)} bytes of values, and declares {total}")
    values = []
    for kind, shape in kinds:
        own, plain = np.split(plain, [kind.itemsize * math.prod(shape)])
        if deflated:
            own = own.reshape(kind.itemsize, -1).T
        values.append(np.frombuffer(bytearray(own.tobytes()), kind).reshape(shape))
    return values


def inflated(content: bytes, longest: int) -> bytes:
    """What was deflated; ValueError if it is longer than it may be, or is not all there."""
    stream = zlib.decompressobj()
    plain = stream.decompress(content, longest + 1)
    if len(plain) > longest or not stream.eof or stream.unused_data:
        raise ValueError(f"what is deflated is not of at most {longest} bytes")
    return plain


def size_of(shape: Sequence[int]) -> int:
    """The product of sizes read from a file, once they are known to be sizes."""
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"a size must be a whole number; received {shape}")
    return math.prod(shape)


def digest(head: bytes, body: bytes) -> bytes:
    """SHA-256 of what stands before the checksum and after it."""
    sha = hashlib.sha256(head)
    sha.update(body)
    return sha.digest()


def check_entries(sizes: Sequence[int], length: int) -> None:
    """Raises ValueError where masks of these sizes are more than so many bytes can hold."""
    if sum(sizes) > ENTRIES_PER_BYTE * length:
        raise ValueError(f"{length} bytes cannot hold masks of {sum(sizes)} entries")


def _little(value: np.ndarray) -> np.dtype:
    return value.dtype.newbyteorder("<")
