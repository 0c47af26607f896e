"""absl: one flag for every node of a tree, and what a command line says before any is defined."""

import itertools
from collections.abc import Iterator, Sequence

from absl import flags as absl_flags

from flags.tree import MISSING, Branch, Leaf, hint
from flags.values import summary, text


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


def parse(argv: list[str], tree: Branch, options: Branch, about: str) -> dict[str, str]:
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
