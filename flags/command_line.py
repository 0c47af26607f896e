"""What the programs share: presets, and errors that are read at a glance."""

import dataclasses
import difflib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flags.binding import Binding, Bound
from flags.folders import file_name
from flags.parsing import expand, scan
from flags.resolve import flatten
from flags.tree import Level
from flags.values import is_none

PRESETS = Path(__file__).parent / "presets"
ABOUT = "about"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A configuration, or a change to one, as a document.

    Args:
        name: The file's name without its ending; of a file that is not in the folder of presets,
            with a hash of what it says.
        file: The file's name, for messages.
        about: Its `about:` section: paper, command, hours, expected numbers.
        values: Everything else: nested plain values of fields.
    """

    name: str
    file: str
    about: Mapping[str, Any]
    values: Mapping[str, Any]


def read_preset(name: str, folder: Path = PRESETS) -> Preset:
    """Reads a preset.

    Args:
        name: The path of a YAML file, or the bare name of one in `folder`.
        folder: Where bare names are looked up.

    Raises:
        ValueError: No preset has this name, or the file is not a YAML mapping.
        FileNotFoundError: There is no file at this path.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_path and name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        expected = f"a path or one of {', '.join(known)}"
        raise ValueError(f"--preset: expected {expected}; received {name!r}{meant}")
    path = Path(name) if is_path else known[name]
    if not path.is_file():
        raise FileNotFoundError(f"--preset: there is no file {name!r}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: expected a mapping of fields; received {values!r}")
    about = values.pop(ABOUT, {})
    shipped = path.resolve().parent == folder.resolve()
    own_name = path.stem if shipped else file_name(path.stem, repr(flatten(values)))
    return Preset(own_name, path.name, about, values)


def read_presets(names: str | None, folder: Path = PRESETS) -> list[Preset]:
    """The presets of a list with commas, in its order; none for "none".

    Raises:
        ValueError: See `read_preset`, or one is named twice.
        FileNotFoundError: There is no file at a path.
    """
    if is_none(names):
        return []
    presets = [read_preset(name.strip(), folder) for name in names.split(",")]
    for number, preset in enumerate(presets):
        if preset in presets[:number]:
            raise ValueError(f"--preset: {preset.name} is given twice; received {names!r}")
    return presets


def preset_names(folder: Path = PRESETS) -> list[str]:
    """What `--preset` knows by name."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def differences(bound: Bound) -> str:
    """A table of what the flags change: setting, what it was, what it is here."""
    base = f"preset {bound.preset}" if bound.preset else "the defaults"
    if not bound.changes:
        return f"nothing differs from {base}"
    rows = [("setting", "preset" if bound.preset else "default", "here")]
    rows += [(path, there or "-", here) for path, (there, here) in bound.changes.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n  ".join([f"differs from {base}:", *lines])


def configure(binding: Binding, argv: Sequence[str], folder: Path = PRESETS) -> Bound:
    """Reads a command line over the presets that it names with `--preset`, if it names any.

    Raises:
        ValueError: See `Binding.bind` and `read_presets`.
        FileNotFoundError: A preset's file does not exist.
    """
    presets = read_presets(scan(expand(argv)).get("preset"), folder)
    bound = binding.bind(argv, [Level(flatten(each.values), each.file) for each in presets])
    return dataclasses.replace(bound, preset=",".join(each.name for each in presets))


def run(
    program: str,
    main: Callable[[list[str]], None],
    argv: Sequence[str],
    expected_errors: Callable[[], tuple[type[Exception], ...]] = tuple,
) -> int:
    """Runs `main(argv)`; an expected error becomes one line on stderr.

    Below it stand the error's notes of one line (`add_note`), indented; longer ones are output of
    other programs that was kept for `--debug`.

    Args:
        program: The name that starts the line.
        main: Does the work.
        argv: The program's name, then its arguments; `--debug` shows tracebacks.
        expected_errors: Gives further exception types besides ValueError and OSError; called
            only after a failure, so it may import. An `exit_code` of theirs says that it is no
            error.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interruption, or the exception's own.
    """
    try:
        main(list(argv))
    except KeyboardInterrupt:
        line = "\n" if sys.stderr.isatty() else ""  # a progress bar may stand there
        print(f"{line}{program}: interrupted; the same command continues", file=sys.stderr)
        return 130
    except (ValueError, OSError, *expected_errors()) as error:
        if "--debug" in argv or "--debug=true" in argv:
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        code = getattr(error, "exit_code", None)
        print(f"{program}: {'error: ' if code is None else ''}{message}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            if "\n" not in note:
                print(f"  {note}", file=sys.stderr)
        return 1 if code is None else code
    return 0


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
