"""Plain values and their texts: the one place where `8/255` becomes a number."""

import inspect
import re
import textwrap
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin


def is_none(raw: object) -> bool:
    """Whether `raw` is what a user writes for None: "none", or nothing at all in YAML."""
    return raw is None or (isinstance(raw, str) and raw.lower() == "none")


def optional(annotation: Any) -> tuple[Any, bool]:
    """`(T, True)` for `T | None`, else `(annotation, False)`; unions of several types stay."""
    members = get_args(annotation) if get_origin(annotation) in _UNIONS else ()
    rest = [member for member in members if member is not types.NoneType]
    if len(rest) == 1 and len(members) == 2:
        return rest[0], True
    return annotation, False


def convert(annotation: Any, raw: object) -> Any:
    """A value of the type `annotation` from a text, or from what YAML made of a text.

    Args:
        annotation: int, float, bool, str, a Literal, `tuple[T, ...]`, or a union of these.
        raw: What the user wrote: "8/255", "300,100", "none", 3, [300, 100].

    Raises:
        ValueError: "expected a number such as 0.3 or 8/255; received 'abc'".
        TypeError: `annotation` is none of these types (a mistake in a configuration class).
    """
    try:
        return _read(annotation, raw)
    except (ValueError, ArithmeticError):
        message = f"expected {expected(annotation)}; received {raw!r}"
        raise ValueError(message) from None


def expected(annotation: Any) -> str:
    """What a text for `annotation` looks like, for messages and for `--help`."""
    if annotation in _PLAIN:
        return _PLAIN[annotation][1]
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(text(member) for member in members)
    if origin is tuple and len(members) == 2 and members[1] is Ellipsis:
        return f"values separated by commas, each {expected(members[0])}"
    if origin in _UNIONS:
        return ", or ".join(expected(member) for member in members)
    raise TypeError(f"a configuration field cannot be of type {annotation!r}")


def text(value: Any) -> str:
    """The text that `convert` reads as `value`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(text(item) for item in value)
    return value if isinstance(value, str) else repr(value)


def summary(cls: type) -> str:
    """The first line of a class docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def field_docs(cls: type) -> dict[str, str]:
    """The text of every name in the "Args:" section of a class docstring, bases included."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        doc = inspect.cleandoc(owner.__doc__ or "") + "\n"
        section = re.search(r"^Args:\n((?: .*\n|\n)+)", doc, re.MULTILINE)
        name = None
        for line in textwrap.dedent(section[1]).splitlines() if section else []:
            entry = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line)
            if entry:
                name, docs[entry[1]] = entry[1], entry[2]
            elif name and line.startswith(" "):
                docs[name] = f"{docs[name]} {line.strip()}".strip()
    return docs


def _read(annotation: Any, raw: Any) -> Any:
    if annotation in _PLAIN:
        return _PLAIN[annotation][0](raw)
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        known = {text(member): member for member in members}
        return known[text(raw)] if text(raw) in known else _refuse(raw)
    if origin is tuple and len(members) == 2 and members[1] is Ellipsis:
        return tuple(_read(members[0], item) for item in _items(raw))
    if origin in _UNIONS:
        return _first(members, raw)
    raise TypeError(f"a configuration field cannot be of type {annotation!r}")


def _first(members: tuple, raw: Any) -> Any:
    for member in sorted(members, key=lambda member: member is str):  # any text is a str: last
        try:
            return _read(member, raw)
        except ValueError:
            continue
    return _refuse(raw)


def _items(raw: Any) -> list:
    if isinstance(raw, str):
        return [item.strip() for item in raw.split(",")] if raw.strip() else []
    return list(raw) if isinstance(raw, list | tuple) else [raw]


def _refuse(raw: Any) -> Any:
    raise ValueError(raw)


def _int(raw: Any) -> int:
    if isinstance(raw, str) or type(raw) is int:  # True is an int to Python
        return int(raw)
    return _refuse(raw)


def _float(raw: Any) -> float:
    if isinstance(raw, str):
        over, slash, under = raw.partition("/")
        value = float(over) / float(under) if slash else float(over)
    else:
        value = float(raw) if type(raw) in (int, float) else _refuse(raw)
    return value if value == value else _refuse(raw)


def _bool(raw: Any) -> bool:
    if type(raw) is bool:
        return raw
    known = {"true": True, "false": False}
    return known[raw.lower()] if isinstance(raw, str) and raw.lower() in known else _refuse(raw)


def _str(raw: Any) -> str:
    return raw if isinstance(raw, str) else _refuse(raw)


def _none(raw: Any) -> None:
    return None if is_none(raw) else _refuse(raw)


_UNIONS = (Union, types.UnionType)
_PLAIN: dict[Any, tuple[Callable[[Any], Any], str]] = {
    int: (_int, "a whole number such as 3"),
    float: (_float, "a number such as 0.3 or 8/255"),
    bool: (_bool, "true or false"),
    str: (_str, "text"),
    types.NoneType: (_none, "none"),
}
