"""What is searched, as texts: `optimizer.learning_rate: log 1e-4..1e-1`, `batch_size: 32|64`."""

import dataclasses
import re
from collections.abc import Sequence

_NUMBER = r"([-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:/\d+(?:\.\d+)?)?)"
_RANGE = re.compile(rf"(log\s+)?{_NUMBER}\s*\.\.\s*{_NUMBER}")
_SYNTAX = "PATH: LOW..HIGH, PATH: log LOW..HIGH or PATH: VALUE|VALUE|..."


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One setting that is searched, or is the same in every trial if it has one choice.

    Args:
        path: Its dotted path, as a flag.
        choices: Texts to choose from; empty for a range.
        low: Smallest value of a range, a whole number if `high` is one.
        high: Largest value of a range.
        log: Draw the range's logarithm evenly.
    """

    path: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts that a configuration has to accept: every choice, or both ends of the range."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def declare(self, space) -> None:
        """Adds itself to Keras Tuner's `HyperParameters`, unless there is nothing to search."""
        sampling = "log" if self.log else "linear"
        if len(self.choices) > 1:
            space.Choice(self.path, list(self.choices))
        elif not self.choices:
            kind = space.Int if isinstance(self.low, int) else space.Float
            kind(self.path, self.low, self.high, sampling=sampling)

    def text(self, value) -> str:
        """A value as the flag's text; numbers with four digits."""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    def flag(self, values) -> str:
        """The flag that sets this in a trial of these values."""
        value = self.choices[0] if len(self.choices) == 1 else values[self.path]
        return f"--{self.path}={self.text(value)}"


def dimensions(space: Sequence[str]) -> list[Dimension]:
    """What the texts say.

    Raises:
        ValueError: One cannot be read, a path is there twice, or there is nothing to search.
    """
    found = [_dimension(text) for text in space]
    paths = [each.path for each in found]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"space sets {path} twice; received {', '.join(space)}")
    if all(len(each.choices) == 1 for each in found):
        raise ValueError(f"space has nothing to search, as in {_SYNTAX}; received {space!r}")
    return found


def _dimension(text: str) -> Dimension:
    path, _, values = (part.strip() for part in text.partition(":"))
    choices = tuple(choice.strip() for choice in values.split("|"))
    match = _RANGE.fullmatch(values)
    if match:
        whole = all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups()[1:])
        low, high = (int(end) if whole else _float(end) for end in match.groups()[1:])
        if not low < high:
            raise ValueError(f"space has a range of {path} that does not ascend; received {text!r}")
        if match[1] and low <= 0:
            raise ValueError(f"space needs a range above 0 for log; received {text!r}")
        return Dimension(path, low=low, high=high, log=bool(match[1]))
    is_range = (".." in values and "/" not in values) or values.startswith("log ")
    if not re.fullmatch(r"[\w.]+", path) or "" in choices or is_range:
        raise ValueError(f"space must say {_SYNTAX}; received {text!r}")
    if len(set(choices)) < len(choices):
        raise ValueError(f"space gives {path} a value twice; received {text!r}")
    return Dimension(path, choices)


def _float(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)
