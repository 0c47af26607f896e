"""What the programs share: presets, and errors of one line."""

import dataclasses
import difflib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flags.binding import Binding, Bound, expand, scan
from flags.values import is_none

PRESETS = Path(__file__).parent / "presets"
ABOUT = "about"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A configuration as a document.

    Args:
        name: The file's name without its ending.
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
    return Preset(path.stem, path.name, about, values)


def configure(binding: Binding, argv: Sequence[str], folder: Path = PRESETS) -> Bound:
    """Reads a command line over the preset that it names with `--preset`, if it names one.

    Raises:
        ValueError: See `Binding.bind` and `read_preset`.
        FileNotFoundError: The preset's file does not exist.
    """
    name = scan(expand(argv)).get("preset")
    if is_none(name):
        return binding.bind(argv)
    preset = read_preset(name, folder)
    return binding.bind(argv, preset.values, preset.file)


def run(
    program: str,
    main: Callable[[list[str]], None],
    argv: Sequence[str],
    expected_errors: Callable[[], tuple[type[Exception], ...]] = tuple,
) -> int:
    """Runs `main(argv)`; an expected error becomes one line on stderr.

    Args:
        program: The name that starts the line.
        main: Does the work.
        argv: The program's name, then its arguments; `--debug` shows tracebacks.
        expected_errors: Gives further exception types besides ValueError and OSError; called
            only after a failure, so it may import.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interruption.
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
        print(f"{program}: error: {message}", file=sys.stderr)
        return 1
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
