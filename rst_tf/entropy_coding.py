"""Masks in about as many bits as their entropy: the runs between marked entries, Golomb-Rice coded.

Of a mask nothing is assumed but its length n and the number kept, so its entropy is n H(kept / n)
bits. Runs between marked entries are then geometric, and Golomb's codes (1966) are the best prefix
codes for them (Gallager & van Voorhis 1975). With a power of two as their parameter (Rice 1979) a
random mask costs at most 1.05 times its entropy, at most densities 1.01 to 1.03 times. Everything
is integer arithmetic: the same bytes on every machine.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Code(NamedTuple):
    """What a decoder has to know of one mask, besides its length.

    Attributes:
        kept: Number of entries that are True.
        shift: Low bits of a run that are written as they are; the rest is written in unary.
    """

    kept: int
    shift: int


def entropy(size: int, kept: int) -> float:
    """Bits of a mask of `size` entries of which only the number `kept` is known: n H(kept / n)."""
    parts = [part for part in (kept, size - kept) if part]
    return sum(part * math.log2(size / part) for part in parts)


def encode(masks: Sequence[np.ndarray]) -> tuple[list[Code], bytes]:
    """Codes several masks as one string of bytes.

    The rarer of the two values is marked. First come the low bits of all runs, then, from a byte of
    their own, all runs' higher parts: as many zeros, ended by a one.

    Args:
        masks: Bool arrays of any shape and size, also empty; read in C order.

    Returns:
        One `Code` per mask, and the bytes.
    """
    codes, lows, highs = [], [], []
    for mask in masks:
        flat = np.ravel(mask)
        kept = int(np.count_nonzero(flat))
        runs = np.diff(np.flatnonzero(flat == _marked(flat.size, kept)), prepend=-1) - 1
        shift = _best_shift(runs)
        codes.append(Code(kept, shift))
        lows.append(((runs[:, None] >> np.arange(shift)) & 1).astype(np.uint8).ravel())
        highs.append(_unary(runs >> shift))
    return codes, b"".join(np.packbits(_joined(parts)).tobytes() for parts in (lows, highs))


def decode(content: bytes, sizes: Sequence[int], codes: Sequence[Code]) -> list[np.ndarray]:
    """The flat bool masks that `encode` read.

    What it needs of memory is a small multiple of `content` and the masks; the caller bounds
    `sizes`. Zero bytes at the end of `content` are allowed.

    Raises:
        ValueError: These are not the codes of masks of these sizes.
    """
    marks = [min(code.kept, size - code.kept) for size, code in zip(sizes, codes, strict=True)]
    for size, mark, code in zip(sizes, marks, codes, strict=True):
        if mark < 0 or not 0 <= code.shift <= size.bit_length():
            raise ValueError(f"no mask of {size} entries has the code {tuple(code)}")
    low_bits = sum(mark * code.shift for mark, code in zip(marks, codes, strict=True))
    cut = -(-low_bits // 8)
    packed = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(np.unpackbits(packed[cut:]))
    if cut > len(packed) or len(ends) != sum(marks):
        raise ValueError(f"{len(packed)} bytes do not hold {sum(marks)} marked entries")
    low = np.unpackbits(packed[:cut], count=low_bits)
    highs, masks = np.diff(ends, prepend=-1) - 1, []
    for size, mark, code in zip(sizes, marks, codes, strict=True):
        bits, low = np.split(low, [mark * code.shift])
        high, highs = np.split(highs, [mark])
        masks.append(_decoded(size, code, bits.reshape(mark, code.shift), high))
    return masks


def _decoded(size: int, code: Code, bits: np.ndarray, high: np.ndarray) -> np.ndarray:
    runs = (high << code.shift) + bits @ (1 << np.arange(code.shift))
    places = np.cumsum(runs + 1) - 1
    if high.sum() > (size >> code.shift) or (len(places) and places[-1] >= size):
        raise ValueError(f"a marked entry lies beyond a mask of {size} entries")
    marked = _marked(size, code.kept)
    mask = np.full(size, not marked)
    mask[places] = marked
    return mask


def _marked(size: int, kept: int) -> bool:
    """Which of the two values is coded: the rarer one."""
    return 2 * kept <= size


def _best_shift(runs: np.ndarray) -> int:
    """The shift with the fewest bits; their number is convex in it."""
    shift, here = 0, int(runs.sum())
    while True:
        after = len(runs) * (shift + 1) + int((runs >> (shift + 1)).sum())
        if after >= here:
            return shift
        shift, here = shift + 1, after


def _unary(numbers: np.ndarray) -> np.ndarray:
    """Bits: for every number as many zeros, then a one."""
    ends = np.cumsum(numbers + 1)
    bits = np.zeros(ends[-1] if len(ends) else 0, np.uint8)
    bits[ends - 1] = 1
    return bits


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.uint8), *parts])
