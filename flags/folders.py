"""Where a run's folder is: its name, and how an older one gets out of the way."""

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

LONGEST = 150
_SAFE = r"[A-Za-z0-9_.+-]"


def settings_name(preset: str, changes: Mapping[str, str], paths: Iterable[str]) -> str:
    """What tells a run from others over the same preset: `quick_start,rounds=3,seed=1`.

    Two different sets of changes over one preset have different names, of at most `LONGEST`
    characters each.

    Args:
        preset: Names of the presets, joined by commas; empty for none.
        changes: What differs from them, by dotted path.
        paths: Every path of the configuration: `epsilon=0.1` is written where only one ends so.
    """
    paths = list(paths)
    items = [f"{_short(path, paths)}={file_name(value)}" for path, value in changes.items()]
    name = ",".join([preset or "default", *items])
    if len(name) <= LONGEST:
        return name
    digest = _digest(name)
    return f"{name[: LONGEST - 1 - len(digest)]}~{digest}"


def file_name(value: str, content: str | None = None) -> str:
    """`value` if it can be part of a file's name, else the end of it and a hash.

    Args:
        value: A setting or a path: "300,100" stays, "runs/a/b" becomes "b~4f1c09aa".
        content: What the hash is of, instead of `value`; with it there always is one.
    """
    is_name = re.fullmatch(rf"{_SAFE}*(,{_SAFE}+)*", value) and value not in (".", "..")
    if content is None and is_name and len(value) <= 60:
        return value
    end = re.sub(rf"(?!{_SAFE}).", "", PurePath(value).name, flags=re.DOTALL)[-40:]
    return f"{end}~{_digest(value if content is None else content)}"


def move_aside(folder: Path) -> Path | None:
    """Renames a run's folder to the first free one of `folder.old-1`, `folder.old-2`, ...

    Returns:
        Where it is now; None if there was nothing to move.

    Raises:
        ValueError: It is no run's folder, a process is at work in it, or this one is inside.
    """
    folder = Path(os.path.normpath(folder))  # a/../b has the name b
    if not any([*folder.glob("config.json"), *folder.glob("seed_*/config.json")]):
        if folder.exists() and {path.name for path in folder.iterdir()} - {".lock", "log"}:
            raise ValueError(
                f"--force moves only the folder of a run, and {folder} has no config.json; move "
                "it yourself or choose another --workdir"
            )
        return None
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"--force cannot move {folder}, for this process is inside it")
    with contextlib.ExitStack() as held:
        for lock in [*folder.glob(".lock"), *folder.glob("seed_*/.lock")]:
            held.enter_context(_locked(lock))
        names = (folder.with_name(f"{folder.name}.old-{n}") for n in itertools.count(1))
        target = next(path for path in names if not os.path.lexists(path))
        folder.rename(target)
    return target


def _locked(path: Path):
    """The open lock file of a run, locked as the run itself does it."""
    stream = path.open("r+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = stream.read().strip() or "another process"
        stream.close()
        raise ValueError(f"--force: workdir {path.parent} is in use by {owner}") from error
    return stream


def _short(path: str, paths: list[str]) -> str:
    """The shortest end of `path` that is no other path's end, nor starts as a whole path does."""
    first_words = {other.partition(".")[0] for other in paths}
    words = path.split(".")
    for start in range(len(words) - 1, 0, -1):
        end = ".".join(words[start:])
        same_end = [other for other in paths if other == end or other.endswith(f".{end}")]
        if len(same_end) == 1 and words[start] not in first_words:
            return end
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
