"""Names for the things a user can choose, and plain values for the things they chose.

A registry maps a public name to a class or a function. Members register themselves with a
decorator; the modules of the registry's package are imported at the first look-up, so a new
file is found without an edit elsewhere.
"""

import copy
import dataclasses
import difflib
import importlib
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def unknown(kind: str, name: object, known: list[str]) -> str:
    """The one-line message for a name that does not exist, with a suggestion if one is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(sorted(known))})"


class Registry(Mapping[str, Any]):
    """A mapping from public names to the members of one kind.

    Args:
        kind: What the members are, in the singular, for messages: "attack".
        package: Dotted name of a package whose modules register members; all but those whose name
            starts with an underscore are imported on first use.

    Looking up an unknown name raises `ValueError` with the closest known name.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._members: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that adds a class or function under `name`."""

        def add(member):
            if name in self._members:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._members[name] = member
            return member

        return add

    def name_of(self, member: Any) -> str:
        """The name under which `member` (a class or function) is registered."""
        self._discover()
        for name, known in self._members.items():
            if known is member:
                return name
        raise ValueError(f"{member!r} is not a registered {self.kind}")

    def __getitem__(self, name: str) -> Any:
        self._discover()
        if name not in self._members:
            raise ValueError(unknown(self.kind, name, list(self._members)))
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._members)

    def __len__(self) -> int:
        self._discover()
        return len(self._members)

    def _discover(self) -> None:
        if self._package is not None:
            package, self._package = importlib.import_module(self._package), None
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{package.__name__}.{module.name}")


_REGISTRY_OF: dict[type, Registry] = {}


def choices(base: type, registry: Registry) -> Registry:
    """Declares that a configuration field of type `base` chooses among `registry`'s classes."""
    _REGISTRY_OF[base] = registry
    return registry


def choices_of(base: object) -> Registry | None:
    """The registry a field of type `base` chooses from, or None if it is not a choice."""
    return _REGISTRY_OF.get(base) if isinstance(base, type) else None


def changed(configuration: Any, **values: Any) -> Any:
    """A copy with other values, which may be tensors of a graph: they are not checked."""
    copied = copy.copy(configuration)
    for name, value in values.items():
        object.__setattr__(copied, name, value)
    return copied


def to_dict(value: Any) -> Any:
    """A configuration as plain JSON values; a chosen class carries its registered name.

    `PGD(epsilon=0.3)` gives `{"name": "pgd", "epsilon": 0.3, ...}`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        for base, registry in _REGISTRY_OF.items():
            if isinstance(value, base):
                return {"name": registry.name_of(type(value)), **fields}
        return fields
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    return value


def from_dict(base: type, values: Mapping[str, Any]) -> Any:
    """The configuration that `to_dict` gave as plain values, also after JSON.

    Args:
        base: Its class, or the base class of a choice.
        values: Plain values; fields that are not there keep their defaults.

    Raises:
        ValueError: Unknown name, unknown field, or a value that the class refuses.
    """
    arguments, cls = dict(values), base
    registry = choices_of(base)
    if registry is not None:
        cls = registry[arguments.pop("name", None)]
    known = {field.name for field in dataclasses.fields(cls)}
    for name in arguments:
        if name not in known:
            raise ValueError(unknown(f"field of {cls.__name__}", name, sorted(known)))
    hints = typing.get_type_hints(cls)
    return cls(**{name: _typed(hints[name], value) for name, value in arguments.items()})


def at_default(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of a configuration's fields that have their defaults, at any depth."""
    for field in dataclasses.fields(value):
        own, here = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
        made = field.default_factory is not dataclasses.MISSING
        if own == (field.default_factory() if made else field.default):
            yield here
        if dataclasses.is_dataclass(own):
            yield from at_default(own, here)


def _typed(annotation: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_typed(None, item) for item in value)
    if isinstance(value, Mapping):
        for base in (annotation, *typing.get_args(annotation)):
            if dataclasses.is_dataclass(base) or choices_of(base) is not None:
                return from_dict(base, value)
    return value
