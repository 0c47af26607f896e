"""The ticket's file, format 3: header, entropy-coded masks and packed values under one checksum.

    format (1 byte) | SHA-256 of all else | length of header (4) | header | masks | values

The header is JSON, deflated; `entropy_coding` says what the masks are; values are the stored
kernels and then the leftovers (`sealed`). All of it is one array of bytes in an npz archive
(`npz.py`). The same ticket gives the same bytes. Formats 1 and 2 are still read
(`older_tickets.py`).

A file cannot ask for more memory than a multiple of its own length: it has a byte for every
`ENTRIES_PER_BYTE` mask entries, if need be by zeros at the end of the masks.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf import npz, older_tickets, sealed
from rst_tf.entropy_coding import Code, decode, encode
from rst_tf.files import write_bytes
from rst_tf.sealed import ENTRIES_PER_BYTE

FORMAT = 3
_DAMAGE = (*sealed.DAMAGE, zipfile.BadZipFile)


def save(ticket, path: str | Path) -> None:
    """Writes a ticket: entropy-coded masks, weights if held, a header, a checksum."""
    codes, masks = encode([entry.mask for entry in ticket.entries])
    stored = [e.kernel for e in ticket.entries if e.kernel is not None] + [*ticket.leftovers]
    stored = [np.asarray(value) for value in stored]
    values = sealed.packed(stored)
    entries = [
        [e.name, e.shape, e.mask.shape, code, e.kernel is not None]
        for e, code in zip(ticket.entries, codes, strict=True)
    ]
    header = {"entries": entries, "values": sealed.kinds_of(stored), "network": ticket.network}
    header |= {"seed": ticket.seed and dataclasses.asdict(ticket.seed)}
    size = sum(entry.mask.size for entry in ticket.entries)
    masks += bytes(max(0, -(-size // ENTRIES_PER_BYTE) - len(masks) - len(values)))
    header["masks"] = len(masks)
    body = b"".join([sealed.header_bytes(header), masks, values])
    head = bytes([FORMAT])
    write_bytes(path, npz.archive(head + sealed.digest(head, body) + body))


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
    if head != bytes([FORMAT]) or digest != sealed.digest(head, body):
        raise ValueError("the checksum does not match")
    header, start = sealed.split_header(body)
    end = start + sealed.size_of([header["masks"]])
    if end > len(body):
        raise ValueError(f"{len(body)} bytes do not hold masks of {header['masks']}")
    entries, values = header["entries"], sealed.unpacked(body[end:], header["values"])
    shapes = [tuple(entry[2]) for entry in entries]
    sizes = [sealed.size_of(shape) for shape in shapes]
    sealed.check_entries(sizes, len(body))
    codes = [Code(*(sealed.size_of([number]) for number in entry[3])) for entry in entries]
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
