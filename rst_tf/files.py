"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file under a temporary name, flushes it to the disk and renames it.

    Args:
        path: The file; its folder is made.
        content: What it shall hold.

    Raises:
        OSError: It could not be written; an earlier file of this name is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _FULL:
            raise OSError(
                error.errno,
                f"no room on the disk for {len(content):,} bytes more; {path} is as it was; make "
                "room, and the same command continues",
            ) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of a killed writer; call it only as the folder's one owner."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
