"""Some of a folder's classes: the first so many, or those that a text file names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Chosen(NamedTuple):
    """Classes of a source.

    Args:
        names: In the order of the source, which is that of the labels.
        note: What was chosen from how many, a sentence without its end.
    """

    names: tuple[str, ...]
    note: str


def check(classes: str | None) -> None:
    """Raises ValueError unless this is a choice of classes as `Data.classes` describes it."""
    wanted = r"first:([2-9]|[1-9]\d+)|file:.+"
    if classes is not None and not re.fullmatch(wanted, classes):
        raise ValueError(
            "classes must be none, first:N with N of at least 2, or file:PATH; received "
            f"classes={classes!r}"
        )


def chosen(classes: str, names: Sequence[str], where: Path) -> Chosen:
    """Takes some of these names.

    Args:
        classes: `first:N` or `file:PATH`, as in `Data`.
        names: All class names of the source, in order.
        where: The folder that has them, for errors.

    Raises:
        ValueError: There are fewer classes, the file is missing, names fewer than two, one twice,
            or one that is not there.
    """
    kind, _, value = classes.partition(":")
    if kind == "file":
        wanted = _listed(Path(value).expanduser())
        lost = sorted(wanted - set(names))
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise ValueError(
                f"classes={classes!r} names classes that {where} does not have: "
                f"{', '.join(lost[:3])}{more}"
            )
        found = tuple(name for name in names if name in wanted)
        return Chosen(found, f"the {len(found)} of its {len(names)} classes that {value} names")
    if int(value) > len(names):
        raise ValueError(
            f"classes must be at most first:{len(names)}, the classes of {where}; received "
            f"classes={classes!r}"
        )
    found = tuple(names[: int(value)])
    return Chosen(
        found,
        f"the first {len(found)} of its {len(names)} classes in the order of their names, "
        f"{found[0]} to {found[-1]}",
    )


def _listed(file: Path) -> set[str]:
    if not file.is_file():
        raise ValueError(f"class list {file} does not exist")
    lines = [line.strip() for line in file.read_text().splitlines()]
    lines = [line for line in lines if line]
    twice = sorted({line for line in lines if lines.count(line) > 1})
    if len(lines) < 2 or twice:
        received = f"{twice[0]!r} twice" if twice else f"{len(lines)}"
        raise ValueError(
            f"class list {file} must name two classes or more, one a line, each once; received "
            f"{received}"
        )
    return set(lines)
