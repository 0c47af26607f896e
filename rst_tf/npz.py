"""An npz archive of one array of bytes, every bit of which follows from those bytes.

NumPy's own writer spends about 200 bytes per array, and leaves bits in an archive that no reader
looks at. Here the archive is put together by hand (APPNOTE.TXT of PKWARE; the npy format 1.0), so
that a reader can refuse whatever it would not have written itself. `numpy.load` reads it as ever.
"""

import struct
import zlib

NAME = b"ticket.npy"
_LONGEST = 2**32 - 1000
_DATE = 1 << 5 | 1  # 1 January 1980, the first day a zip archive knows


def archive(content: bytes) -> bytes:
    """The bytes of an npz file whose only array, uint8, holds `content`.

    Raises:
        ValueError: `content` is longer than such an archive can be, 4 GiB.
    """
    before, after = _around(content)
    return b"".join([before, content, after])


def content_of(file: bytes) -> bytes | None:
    """What `archive` was given; None if this is no archive with an array of this name.

    Raises:
        ValueError: It is one, and not as it was written.
    """
    if file[30 : 30 + len(NAME)] != NAME:
        return None
    before, after = _around(b"")
    content = file[len(before) : max(len(file) - len(after), len(before))]
    before, after = _around(content)
    if len(before) + len(content) + len(after) != len(file) or not (
        file.startswith(before) and file.endswith(after)
    ):
        raise ValueError("the archive is not as it was written")
    return content


def _around(content: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the content; always of the same lengths."""
    if len(content) > _LONGEST:
        raise ValueError(f"a ticket file holds at most 4 GiB; received {len(content):,} bytes")
    kind = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(content)},), }}"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + f"{kind:<117}\n".encode()
    size = len(array) + len(content)
    sums = zlib.crc32(content, zlib.crc32(array)), size, size, len(NAME), 0
    common = struct.pack("<5H3L2H", 20, 0, 0, 0, _DATE, *sums)  # version, no flags, stored, time
    local = b"PK\x03\x04" + common + NAME
    central = b"PK\x01\x02" + struct.pack("<H", 20) + common
    central += struct.pack("<3H2L", 0, 0, 0, 0, 0) + NAME
    end = struct.pack("<4H2LH", 0, 0, 1, 1, len(central), len(local) + size, 0)
    return local + array, central + b"PK\x05\x06" + end
