"""A configuration as a tree: which class every choice is, and who set every field."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flags.values import convert, expected, text

MISSING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Level:
    """What one source says, by dotted path.

    Args:
        values: Texts or YAML values: `{"objective": "trades", "objective.beta": 6}`.
        source: File name of a preset; empty for the command line.
        settled: False while the types of fields are unknown, so that only choices can be read.
    """

    values: Mapping[str, Any]
    source: str = ""
    settled: bool = True

    def where(self, path: str) -> str:
        """How a message names `path`."""
        return f"{self.source}: {path}" if self.source else f"--{path}"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A field that holds a plain value.

    Args:
        path: Its dotted path, the name of its flag.
        doc: What the docstring of its class says about it.
        annotation: Its type.
        raw: What `level` wrote, or the default; MISSING if there is neither.
        level: Who wrote it; None for the default.
    """

    path: str
    doc: str
    annotation: Any
    raw: Any
    level: Level | None

    @property
    def expected(self) -> str:
        """What a text for this field looks like."""
        return expected(self.annotation)

    def value(self) -> Any:
        """The typed value.

        Raises:
            ValueError: It is required and missing, or not of the field's type.
        """
        if self.raw is MISSING:
            raise ValueError(_required(self))
        if self.level is None:
            return self.raw
        try:
            return convert(self.annotation, self.raw)
        except ValueError as error:
            raise ValueError(f"{self.level.where(self.path)}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Branch:
    """A field that holds a dataclass.

    Args:
        path: Its dotted path, the name of the flag that chooses.
        prefix: What the paths of its fields start with: "" at the root, else `path` and a dot.
        doc: What the docstring of its class says about it.
        choices: The classes it chooses from, by name; None if its class is fixed.
        optional: Whether it may be none.
        cls: The chosen class; None if it is none, MISSING if nobody chose.
        children: Its fields, by name.
    """

    path: str
    prefix: str
    doc: str
    choices: Mapping[str, type] | None
    optional: bool
    cls: Any
    children: dict[str, "Leaf | Branch"]

    @property
    def name(self) -> str | None:
        """The name of the choice, "none", or None if there was nothing to choose."""
        if self.cls is None:
            return "none"
        named = {cls: name for name, cls in (self.choices or {}).items()}
        return named.get(self.cls)

    @property
    def expected(self) -> str:
        """What a bare value for this field looks like."""
        none = ["none"] if self.optional else []
        if self.choices is not None:
            return "one of " + ", ".join([*self.choices, *none])
        return " or ".join([f"short for --{path}" for path in _paths(self)[1:2]] + none)


def walk(node: Leaf | Branch) -> Iterator[Leaf | Branch]:
    """The node and all below it, parents first."""
    yield node
    if isinstance(node, Branch):
        for child in node.children.values():
            yield from walk(child)


def build(node: Leaf | Branch) -> Any:
    """The value that a tree describes.

    Raises:
        ValueError: A value is missing, of the wrong type, or refused by its class; the message
            starts with the flag that sets it right.
    """
    if isinstance(node, Leaf):
        return node.value()
    if node.cls is MISSING:
        raise ValueError(_required(node))
    if node.cls is None:
        return None
    values = {name: build(child) for name, child in node.children.items()}
    try:
        return node.cls(**values)
    except ValueError as error:
        starts_with_field = str(error).partition(" ")[0] in node.children
        where = f"--{node.prefix}" if starts_with_field else f"--{node.path}: "
        raise ValueError(f"{where}{error}") from error


def texts(tree: Branch) -> dict[str, str]:
    """Every choice and every plain value of a tree as a text, by dotted path.

    A required value that nobody gave is left out.
    """
    flat = {}
    for node in walk(tree):
        if isinstance(node, Leaf) and node.raw is MISSING:
            continue
        value = text(node.value()) if isinstance(node, Leaf) else node.name
        if value is not None:
            flat[node.path] = value
    return flat


def hint(path: str, tree: Branch, also: Iterable[str] = ()) -> str:
    """Why `path` is neither in `tree` nor in `also`, or what was meant: a message's end, or ""."""
    branches = [node for node in walk(tree) if isinstance(node, Branch)]
    known = [*_paths(tree), *also]
    for node in sorted(branches, key=lambda node: -len(node.prefix)):
        field = path.removeprefix(node.prefix).partition(".")[0]
        if not path.startswith(node.prefix) or field in node.children:
            continue
        if node.cls is None:
            return f"; {node.path} is none and has no fields"
        choices = (node.choices or {}).items()
        owners = [name for name, cls in choices if field in _field_names(cls)]
        if owners:
            close = difflib.get_close_matches(path, known, n=1, cutoff=0.85)
            meant = f"; did you mean {close[0]}?" if close else ""
            return f"{meant}; {field} exists with {node.path}={' or '.join(owners)}"
        break
    same_end = [name for name in known if name.endswith(f".{path}")]
    close = same_end or difflib.get_close_matches(path, known, n=1)
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def elsewhere(path: str, tree: Branch) -> bool:
    """Whether `path`, which is not in `tree`, would exist after another choice in it."""
    for node in walk(tree):
        if isinstance(node, Branch) and path.startswith(node.prefix):
            field = path.removeprefix(node.prefix).partition(".")[0]
            others = node.choices.values() if node.choices is not None else ()
            if field not in node.children and any(field in _field_names(cls) for cls in others):
                return True
    return False


def _field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _paths(tree: Branch) -> list[str]:
    return [node.path for node in walk(tree)]


def _required(node: Leaf | Branch) -> str:
    doc = f"{node.doc.rstrip('.')}; " if node.doc else ""
    return f"--{node.path} is required ({doc}{node.expected})"
