"""What a check came to, and the words that checks share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

LEVELS = ("passed", "warning", "error", "skipped")


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a check came to.

    Attributes:
        check: G1 to G12.
        title: What should hold.
        level: passed, warning, error or skipped.
        text: One line with the numbers that decided, or why it was skipped.
        numbers: All of them, plain values.
    """

    check: str
    title: str
    level: str
    text: str
    numbers: Mapping[str, Any]


class Skipped(Exception):
    """Raised by a check that cannot be made; its text says why."""


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %"


def above(share: float, allowed: float, count: int) -> bool:
    """Whether a share is beyond what is allowed, and more than one of so many points."""
    return share > allowed and round(share * count) > 1


def level_of(share: float, warning: float, error: float, count: int) -> str:
    """passed, warning or error."""
    if above(share, error, count):
        return "error"
    return "warning" if above(share, warning, count) else "passed"
