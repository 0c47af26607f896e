"""Frozen dataclasses from a preset and from absl flags, in two passes.

Pass 1 finds which class every choice is (`--objective=trades`), pass 2 defines one flag for every
field of the chosen tree (`--objective.attack.epsilon=8/255`) and lets absl parse.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags

from flags.resolve import Choices, Resolver, flatten, values_of
from flags.tree import MISSING, Branch, Leaf, Level, build, hint, walk
from flags.values import summary, text


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a command line and a preset say together.

    Args:
        config: The configuration.
        options: The program's own options.
        values: The configuration as flat texts, see `flags.resolve.values_of`.
        dropped: Fields that the preset sets and that do not exist under the flags' choices.
    """

    config: Any
    options: Any
    values: dict[str, str]
    dropped: tuple[str, ...]


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

    def bind(
        self, argv: Sequence[str], preset: Mapping[str, Any] | None = None, source: str = "preset"
    ) -> Bound:
        """Reads a command line over a preset; `--help` prints all flags and exits.

        Args:
            argv: The program's name, then its arguments.
            preset: Nested plain values from a YAML file.
            source: The preset's file name, for messages.

        Raises:
            ValueError: An unknown name, a wrong value, a missing value, or a value given twice.
        """
        argv = expand(argv)
        early = Level(scan(argv), settled=False)
        low = Level(flatten(preset or {}), source)
        self._check(low, early)
        tree, _ = self._resolve([low, early])
        given = _parse(argv, tree, self._options([]), self.about)
        level = Level(given)
        tree, read = self._resolve([low, level])
        config, options = build(tree), build(self._options([level]))
        values = values_of(config, self.root, self.kind, self.choices_of)
        unread = (path for path in low.values if path not in read)
        dropped = dict.fromkeys(_first_unknown(path, tree) for path in unread)
        return Bound(config, options, values, tuple(dropped))

    def _check(self, preset: Level, early: Level) -> None:
        """Refuses a preset that is wrong by itself, whatever the flags choose later."""
        chosen = {key: value for key, value in early.values.items() if key == self.kind}
        tree, read = self._resolve([Level(chosen), preset])
        if tree.cls is MISSING:
            return
        for path in preset.values:
            if path not in read:
                raise ValueError(f"{preset.source}: unknown key {path}{hint(path, tree)}")
        for node in walk(tree):
            if isinstance(node, Leaf) and node.level is preset:
                node.value()

    def _resolve(self, levels: list[Level]) -> tuple[Branch, set[str]]:
        resolver = Resolver(self.choices_of, levels)
        return resolver.root(self.root, self.kind, self.doc), resolver.read

    def _options(self, levels: list[Level]) -> Branch:
        return Resolver(self.choices_of, levels).root(self.options, "", "")


def expand(argv: Sequence[str]) -> list[str]:
    """`argv` with the lines of every `--flagfile=PATH` in its place."""
    try:
        return [*argv[:1], *absl_flags.FlagValues().read_flags_from_files(argv[1:])]
    except absl_flags.Error as error:
        raise ValueError(str(error)) from error


def scan(argv: Sequence[str]) -> dict[str, str | None]:
    """What `argv` seems to set, by flag name, before any flag is defined.

    Without types nobody knows whether `--name next` is a switch and a leftover or a name and its
    value: it is read as the latter. That is right for every choice.
    """
    found: dict[str, str | None] = {}
    for word, following in itertools.pairwise([*argv[1:], "-"]):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            found[name] = value if equals else None if following.startswith("-") else following
    return found


class _TextParser(absl_flags.ArgumentParser):
    """Leaves the text as it is: presets and flags are converted in one place, the tree."""

    def __init__(self, syntactic_help: str):
        self.syntactic_help = syntactic_help


class _OnceFlag(absl_flags.Flag):
    """A flag that is given at most once and never swallows the next flag as its value."""

    def parse(self, argument: str) -> None:
        if self.present:
            raise ValueError(f"--{self.name} is given twice: {self.value!r} and {argument!r}")
        if argument.startswith("--"):
            raise ValueError(f"--{self.name} needs a value; received the flag {argument!r}")
        super().parse(argument)


class _HelpFlag(absl_flags.BooleanFlag):
    """Prints all sections of flags and ends the program."""

    def __init__(self, name: str, about: str, values: absl_flags.FlagValues, sections: list[str]):
        super().__init__(name, False, "Print the flags of what was chosen so far.")
        self._page = (about, values, sections)

    def parse(self, argument: str) -> None:
        about, values, sections = self._page
        print("\n".join([about.rstrip(), *(values.module_help(name) for name in sections)]))
        raise SystemExit(0)


def _parse(argv: list[str], tree: Branch, options: Branch, about: str) -> dict[str, str]:
    """Defines the flags of both trees, lets absl parse, gives what was set."""
    values = absl_flags.FlagValues()
    sections: list[str] = []
    for section, node in [*_sections(options, "options"), *_sections(tree, "options")]:
        absl_flags.DEFINE_flag(_flag(node), values, module_name=section)
        values.register_key_flag_for_module(section, values[node.path])
        if section not in sections:
            sections.append(section)
    for name in ("help", "helpfull", "h"):
        absl_flags.DEFINE_flag(_HelpFlag(name, about, values, sections), values)
    try:
        leftover = values(argv)[1:]
    except absl_flags.UnrecognizedFlagError as error:
        name = error.flagname
        raise ValueError(f"unknown flag --{name}{hint(name, tree, _names(options))}") from None
    except absl_flags.Error as error:
        raise ValueError(str(error)) from error
    if leftover:
        raise ValueError(f"unexpected argument {leftover[0]!r}; flags are --name=value")
    return {name: values[name].value for name in values if values[name].present}


def _first_unknown(path: str, tree: Branch) -> str:
    known = {node.path for node in walk(tree)}
    ends = itertools.accumulate(path.split("."), "{}.{}".format)
    return next(start for start in ends if start not in known)


def _names(options: Branch) -> list[str]:
    return [*options.children, "help"]


def _sections(node: Branch, section: str) -> Iterator[tuple[str, Leaf | Branch]]:
    """Every node that has a flag, under the heading of the branch that it belongs to."""
    if node.path:
        yield section, node
    if node.path and node.children:
        section = f"{node.path}={node.name}" if node.choices else node.path
        section = f"{section} - {summary(node.cls).rstrip('.')}"
    for child in node.children.values():
        if isinstance(child, Branch):
            yield from _sections(child, section)
        else:
            yield section, child


def _flag(node: Leaf | Branch) -> absl_flags.Flag:
    if isinstance(node, Branch):
        default, boolean = node.name, False
    else:
        default = None if node.raw is MISSING else text(node.value())
        boolean = node.annotation is bool
    is_required = isinstance(node, Leaf) and default is None
    syntax = f"required; {node.expected}" if is_required else node.expected
    parser, serializer = _TextParser(syntax), absl_flags.ArgumentSerializer()
    return _OnceFlag(parser, serializer, node.path, default, node.doc, boolean=boolean)
