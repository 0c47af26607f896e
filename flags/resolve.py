"""From levels of precedence (defaults, then a preset, then flags) to the tree of a configuration.

When a level chooses another class for a node than the level below it, the fields that the lower
level set there stay if the new class has fields of the same names, and are dropped otherwise;
the values of a default instance stay only where the class is still that instance's.

A field may say that it has an effect only beside a certain value of another field of its class:
`field(metadata={"only_with": {"rewind": "reset"}})`. Where a preset sets it and something else
sets the other field otherwise, the preset's value is dropped as well.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flags.tree import MISSING, Branch, Leaf, Level, texts
from flags.values import field_docs, is_none, optional

Choices = Callable[[type], Mapping[str, type] | None]


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested YAML values by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def values_of(config: Any, root: type, kind: str, choices_of: Choices) -> dict[str, str]:
    """A configuration as flat texts; as flags they give the same configuration.

    Args:
        config: An instance of one of the classes that `root` chooses from.
        root: The base class of configurations.
        kind: The name of the flag that chooses one: "experiment".
        choices_of: The named classes that a field of some base type chooses from, or None.

    `{"experiment": "dense_training", "objective": "trades", "objective.beta": "6.0", ...}`
    """
    return texts(Resolver(choices_of, []).root(root, kind, "", config))


class Resolver:
    """Reads levels into trees.

    Args:
        choices_of: The named classes that a field of some base type chooses from, or None.
        levels: What the sources say, lowest precedence first; all are above the defaults.

    `read` collects the paths that were looked at: whatever else a level says is not in the tree.
    `idle` collects the paths of fields that the other fields of their class leave no effect.
    """

    def __init__(self, choices_of: Choices, levels: list[Level]):
        self._choices_of = choices_of
        self._levels = levels
        self.read: set[str] = set()
        self.idle: set[str] = set()

    def root(self, base: type, path: str, doc: str, default: Any = MISSING) -> Branch:
        """The tree of a whole configuration, whose fields have no prefix."""
        return self._branch(base, default, path, "", doc, (path,), False)

    def _node(self, annotation, default, path, doc, paths) -> Leaf | Branch:
        inner, may_be_none = optional(annotation)
        is_class = isinstance(inner, type)
        if is_class and (dataclasses.is_dataclass(inner) or self._choices_of(inner) is not None):
            return self._branch(inner, default, path, f"{path}.", doc, paths, may_be_none)
        level, raw = self._said(paths, only_settled=True)
        return Leaf(path, doc, annotation, default if level is None else raw, level)

    def _branch(self, base, default, path, prefix, doc, paths, may_be_none) -> Branch:
        choices = self._choices_of(base)
        if choices is None:
            cls = self._group(base, default, prefix, paths, may_be_none)
            short_for_first = paths
        else:
            cls = self._choice(choices, default, (*paths, f"{path}.name"), may_be_none)
            short_for_first = ()
        children = {}
        if cls is not None and cls is not MISSING:
            children = self._children(cls, default, prefix, short_for_first)
        return Branch(path, prefix, doc, choices, may_be_none, cls, children)

    def _choice(self, choices, default, paths, may_be_none) -> Any:
        level, name = self._said(paths)
        if level is None:
            if default is None or default is MISSING or type(default) in choices.values():
                return default if default is None or default is MISSING else type(default)
            raise TypeError(f"{paths[0]}: {type(default).__name__} has no name in its registry")
        if may_be_none and is_none(name):
            return None
        if isinstance(name, str) and name in choices:
            return choices[name]
        close = difflib.get_close_matches(str(name), choices, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        known = ", ".join([*choices, *(["none"] if may_be_none else [])])
        where = level.where(paths[0])
        raise ValueError(f"{where}: expected one of {known}; received {name!r}{meant}")

    def _group(self, base, default, prefix, paths, may_be_none) -> type | None:
        if not may_be_none:
            return base
        self.read.update(paths)
        for level in reversed(self._levels):
            bare = [level.values[path] for path in paths if path in level.values]
            if bare or any(key.startswith(prefix) for key in level.values):
                return None if bare and is_none(bare[0]) else base
        return None if default is None else base

    def _children(self, cls, default, prefix, short_for_first) -> dict[str, Leaf | Branch]:
        hints, docs = typing.get_type_hints(cls), field_docs(cls)
        children: dict[str, Leaf | Branch] = {}
        for field in (field for field in dataclasses.fields(cls) if field.init):
            path = f"{prefix}{field.name}"
            children[field.name] = self._node(
                hints[field.name],
                getattr(default, field.name) if type(default) is cls else _default(field),
                path,
                docs.get(field.name, ""),
                (path, *short_for_first),
            )
            short_for_first = ()
        return {**children, **self._without_effect(cls, children)}

    def _without_effect(self, cls, children) -> dict[str, Leaf]:
        """The leaves that `only_with` sets back to their defaults."""
        idle = {}
        for field in dataclasses.fields(cls):
            for name, wanted in field.metadata.get("only_with", {}).items():
                leaf, other = children[field.name], children[name]
                by_a_preset = leaf.level is not None and leaf.level.source
                beside = other.level is not leaf.level and other.raw is not MISSING
                if by_a_preset and beside and other.value() != wanted:
                    idle[field.name] = dataclasses.replace(leaf, raw=_default(field), level=None)
                    self.idle.add(leaf.path)
        return idle

    def _said(self, paths: Iterable[str], only_settled: bool = False) -> tuple[Level | None, Any]:
        """The highest level that says something under one of `paths`, and what it says."""
        self.read.update(paths)
        for level in reversed(self._levels):
            found = [path for path in paths if path in level.values]
            if len(found) > 1:
                both = " and ".join(level.where(path) for path in found)
                raise ValueError(f"{both} set the same value; give only one of them")
            if found and (level.settled or not only_settled):
                return level, level.values[found[0]]
        return None, MISSING


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
