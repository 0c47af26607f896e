"""Frozen dataclasses from presets and from absl flags, in two passes.

Pass 1 finds which class every choice is (`--objective=trades`), pass 2 defines one flag for every
field of the chosen tree (`--objective.attack.epsilon=8/255`) and lets absl parse.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from flags.parsing import expand, parse, scan
from flags.resolve import Choices, Resolver, values_of
from flags.tree import MISSING, Branch, Leaf, Level, build, elsewhere, hint, texts, walk


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a command line and presets say together.

    Args:
        config: The configuration.
        options: The program's own options.
        values: The configuration as flat texts, see `flags.resolve.values_of`.
        changes: What the flags change: by path, the text that the presets and the flags' choices
            give it (None if they give none), and its text in `values`.
        dropped: What presets set and what has no place or no effect beside what was chosen: paths
            with the presets' file names. The settings of a thing that a flag replaced are not
            among them, unless an overlay set them.
        preset: The names of the presets, joined by commas; empty without any.
    """

    config: Any
    options: Any
    values: dict[str, str]
    changes: dict[str, tuple[str | None, str]]
    dropped: dict[str, str]
    preset: str = ""


@dataclasses.dataclass(frozen=True)
class Binding:
    """How command lines become configurations.

    Args:
        root: The base class of configurations; a choice.
        kind: The name of the flag that chooses one: "experiment".
        choices_of: The named classes that a field of some base type chooses from, or None.
        options: A dataclass with the program's own options; no preset sets them.
        about: What `--help` prints above the flags.
        doc: The help text of the flag `kind`.
    """

    root: type
    kind: str
    choices_of: Choices
    options: type
    about: str = ""
    doc: str = ""

    def bind(self, argv: Sequence[str], presets: Sequence[Level] = ()) -> Bound:
        """Reads a command line over presets; `--help` prints all flags and exits.

        A preset that chooses a `kind` is a whole configuration and has to be right by itself. Any
        other is an overlay: it has to be right over the presets before it.

        Args:
            argv: The program's name, then its arguments.
            presets: The contents of YAML files, with the file names as sources; a later one
                overrides an earlier one.

        Raises:
            ValueError: An unknown name, a wrong value, a missing value, or a value given twice.
        """
        argv, presets = expand(argv), list(presets)
        early = Level(scan(argv), settled=False)
        self._check(presets, early)
        tree, _ = self._resolve([*presets, early])
        given = parse(argv, tree, self._options([]), self.about)
        level = Level(given)
        tree, resolver = self._resolve([*presets, level])
        if tree.cls is MISSING and presets:
            raise ValueError(
                f"--{self.kind} is required, for {presets[-1].source} only changes another preset: "
                f"name that one before it, or give --{self.kind} ({tree.expected})"
            )
        config, options = build(tree), build(self._options([level]))
        values = values_of(config, self.root, self.kind, self.choices_of)
        changes = self._changes(presets, given, tree, values)
        dropped = self._dropped(presets, given, resolver, tree)
        return Bound(config, options, values, changes, dropped)

    def _check(self, presets: list[Level], early: Level) -> None:
        """Refuses presets that are wrong by themselves, whatever the flags choose later."""
        below = Level({key: value for key, value in early.values.items() if key == self.kind})
        for number, preset in enumerate(presets):
            whole = self._is_whole(preset)
            tree, resolver = self._resolve([below, *([] if whole else presets[:number]), preset])
            if tree.cls is MISSING:
                if any(self._is_whole(later) for later in presets[number:]):
                    raise ValueError(f"{preset.source} changes another preset: name it after that")
                continue
            for path in preset.values:
                if path not in resolver.read and (whole or not elsewhere(path, tree)):
                    raise ValueError(f"{preset.source}: unknown key {path}{hint(path, tree)}")
            for node in walk(tree):
                if isinstance(node, Leaf) and node.level is preset:
                    node.value()

    def _is_whole(self, preset: Level) -> bool:
        return self.kind in preset.values or f"{self.kind}.name" in preset.values

    def _changes(
        self, presets: list[Level], given: Mapping[str, str], tree: Branch, values: dict[str, str]
    ) -> dict[str, tuple[str | None, str]]:
        """See `Bound.changes`; a choice is compared with what the choices above it give.

        Presets and changes determine `values`: going down the tree, whatever is not among the
        changes is what the presets and the choices above it give.
        """
        chosen = {
            node.path: given[node.path]
            for node in walk(tree)
            if isinstance(node, Branch) and node.choices is not None and node.path in given
        }
        without: dict[str, str | None] = {**self._texts(presets, chosen)}
        for path in chosen.keys() - {self.kind}:
            others = {name: choice for name, choice in chosen.items() if name != path}
            without[path] = self._texts(presets, others).get(path)
        for node in walk(tree):
            if isinstance(node, Branch) and node.optional and node.choices is None and node.cls:
                first = next(iter(node.children.values())).path
                if first not in without:  # flags made it something: its other fields have defaults
                    made = self._texts(presets, {**chosen, first: values[first]})
                    without |= {
                        path: text
                        for path, text in made.items()
                        if path.startswith(node.prefix) and path != first
                    }
        return {
            path: (without.get(path), value)
            for path, value in values.items()
            if path != self.kind and without.get(path) != value
        }

    def _dropped(
        self, presets: list[Level], given: Mapping[str, str], resolver: Resolver, tree: Branch
    ) -> dict[str, str]:
        """See `Bound.dropped`."""
        known = {node.path for node in walk(tree)}
        sources: dict[str, dict[str, None]] = {}
        for preset in presets:
            for path in preset.values:
                if path in resolver.idle:
                    sources.setdefault(path, {})[preset.source] = None
                elif path not in resolver.read:
                    starts = itertools.accumulate(path.split("."), "{}.{}".format)
                    unknown = next(start for start in starts if start not in known)
                    replaced = unknown.rpartition(".")[0] in given
                    if not (replaced and self._is_whole(preset)):
                        sources.setdefault(unknown, {})[preset.source] = None
        return {path: ", ".join(names) for path, names in sources.items()}

    def _texts(self, presets: list[Level], chosen: Mapping[str, str]) -> dict[str, str]:
        return texts(self._resolve([*presets, Level(chosen)])[0])

    def _resolve(self, levels: list[Level]) -> tuple[Branch, Resolver]:
        resolver = Resolver(self.choices_of, levels)
        return resolver.root(self.root, self.kind, self.doc), resolver

    def _options(self, levels: list[Level]) -> Branch:
        return Resolver(self.choices_of, levels).root(self.options, "", "")
